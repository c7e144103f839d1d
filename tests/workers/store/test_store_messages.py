"""Refusals that users of a store meet, and what each tells them to do."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError

from tests.conftest import S3Server
from workers.errors import (
    BadCredentials,
    Forbidden,
    InvalidKey,
    StoreError,
    StoreFull,
    StoreGone,
    StoreUnavailable,
)
from workers.report.advice import cure
from workers.report.output_files import GENERATOR, Target, TargetError
from workers.store import S3Options, open_store
from workers.store.base import put_if_absent
from workers.store.local import DRAFT, _explained, _renames
from workers.store.s3 import _client, _from_answer


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A folder with another file system in its sub-folder `disk`, and a bind mount of its own in `bound`."""
    for name in ("disk", "bound", "elsewhere"):
        (tmp_path / name).mkdir()
    mounts = [["-t", "tmpfs", "none", tmp_path / "disk"], ["--bind", tmp_path / "elsewhere", tmp_path / "bound"]]
    done: list[Path] = []
    try:
        for mount in mounts:
            if subprocess.run(["mount", *mount], check=False, capture_output=True).returncode:
                pytest.skip("only root may mount, and not in every container")
            done.append(Path(mount[-1]))
        yield tmp_path
    finally:
        for place in done:
            subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("place", ["disk", "bound", "disk/below"])
def test_what_lies_on_another_file_system_is_written_whole(mounted: Path, place: str) -> None:
    """An object below a mount has its bytes, its metadata and its ETag, and no temporary file stays."""
    store = open_store(mounted)
    written = store.put(f"{place}/a.jpg", b"one", metadata={"apf-x": "1"})
    assert store.put(f"{place}/a.jpg", b"two", metadata={"apf-x": "2"}).etag != written.etag
    blob = store.get(f"{place}/a.jpg")
    assert (blob.data, dict(blob.info.metadata)) == (b"two", {"apf-x": "2"})
    assert put_if_absent(store, f"{place}/b.jpg", b"x")
    assert not put_if_absent(store, f"{place}/b.jpg", b"y")
    assert sorted(path.name for path in (mounted / place).iterdir()) == ["a.jpg", "b.jpg"]
    assert not list(mounted.rglob(f"{DRAFT}*"))


def test_drafts_that_killed_processes_left_on_a_mount_are_swept(mounted: Path) -> None:
    """A temporary file of long ago goes, and a file of the user's with a like name stays."""
    old, users = mounted / "disk" / f"{DRAFT}1-ab.tmp", mounted / "disk" / "old.tmp"
    for path in (old, users):
        path.touch()
        os.utime(path, (0, 0))
    open_store(mounted).put("disk/a.jpg", b"x")
    assert (old.exists(), users.exists()) == (False, True)


def test_asking_whether_a_folder_is_mounted_makes_nothing_in_it(tmp_path: Path) -> None:
    """A worker that is killed while it asks leaves no file among what is published: the folder is not even touched."""
    drafts, folder = tmp_path / "drafts", tmp_path / "folder"
    drafts.mkdir()
    folder.mkdir()
    os.utime(folder, (0, 0))
    assert _renames(drafts, folder)
    assert folder.stat().st_mtime == 0
    assert not list(drafts.iterdir())


def test_a_rename_across_devices_has_a_cure() -> None:
    """Where even a file beside the target cannot be renamed, the message says what to do."""
    with pytest.raises(StoreError, match="destination of its own"), _explained("k"):
        raise OSError(18, "Invalid cross-device link")


@pytest.mark.parametrize("key", ["x" * 300 + ".jpg", "a/" + "x" * 300 + "/b.jpg"])
def test_a_part_of_a_key_that_is_too_long_is_told_by_every_method(tmp_path: Path, key: str) -> None:
    """Asking, reading, writing and deleting refuse alike, with the cure."""
    store = open_store(tmp_path)
    (tmp_path / "a").mkdir()
    for ask in (
        lambda: store.head(key),
        lambda: store.get(key),
        lambda: store.put(key, b""),
        lambda: put_if_absent(store, key, b""),
        lambda: store.delete(key),
    ):
        with pytest.raises(InvalidKey, match="too long for this file system: rename it"):
            ask()


def test_a_key_that_just_fits_is_written(tmp_path: Path) -> None:
    """Temporary files have short names of their own."""
    store = open_store(tmp_path)
    store.put("x" * 251 + ".jpg", b"data")
    assert store.get("x" * 251 + ".jpg").data == b"data"


class TestReportPage:
    def test_a_name_that_is_too_long_is_told(self, tmp_path: Path) -> None:
        """No traceback: the page's own name, and that of its folder, are refused with a cure."""
        for name in ("x" * 300, "x" * 300 + ".html", "x" * 250 + ".html"):
            with pytest.raises(TargetError, match="shorten it"):
                Target.at(str(tmp_path / name), "id").check(apart=())

    def test_a_name_that_just_fits_is_written(self, tmp_path: Path) -> None:
        """The temporary file beside it is not longer than the page's own name."""
        target = Target.at(str(tmp_path / ("x" * 249 + ".html")), "id")
        target.check(apart=())
        target.publish(GENERATOR)
        assert [path.name for path in tmp_path.iterdir()] == ["x" * 249 + ".html"]


@pytest.mark.parametrize(
    ("code", "status", "kind", "says"),
    [
        ("AccessDenied", 403, Forbidden, "need s3:ListBucket"),
        ("NoSuchBucket", 404, StoreGone, "check its name"),
        ("ExpiredToken", 400, BadCredentials, "have expired"),
        ("RequestTimeTooSkewed", 403, Forbidden, "clock is wrong"),
        ("SlowDown", 503, StoreUnavailable, "slow down"),
        ("KMS.DisabledException", 400, Forbidden, "KMS key"),
        ("KMS.NotFoundException", 400, Forbidden, "kms:Decrypt"),
        ("PermanentRedirect", 301, StoreError, "another region: set APF_S3_REGION"),
        ("301", 301, StoreError, "another region"),
        ("InvalidAccessKeyId", 403, BadCredentials, "does not accept the credentials"),
        ("SignatureDoesNotMatch", 403, BadCredentials, "does not accept the credentials"),
        ("QuotaExceeded", 403, StoreFull, "quota is used up"),
        ("InsufficientStorage", 507, StoreFull, "quota is used up"),
        ("507", 507, StoreFull, "quota is used up"),
        ("XMinioStorageFull", 507, StoreFull, "quota is used up"),
        ("AccountProblem", 403, Forbidden, "account is suspended"),
        ("TooManyRequests", 429, StoreUnavailable, "slow down"),
        ("MethodNotAllowed", 405, StoreError, "APF_S3_ENDPOINT_URL"),
    ],
)
def test_each_answer_of_s3_has_its_cure(code: str, status: int, kind: type[StoreError], says: str) -> None:
    """An error code becomes the kind that decides on retries, and words that tell what to do."""
    error = _from_answer(_answer(code, status), "'k' in s3://b", "s3://b at http://here")
    assert type(error) is kind
    assert says in str(error)
    assert code in str(error)


def test_a_bucket_in_another_region_is_told_with_its_region() -> None:
    """S3 names the region in a header."""
    error = _from_answer(_answer("301", 301, {"x-amz-bucket-region": "eu-west-1"}), "'k' in s3://b", "s3://b")
    assert "set APF_S3_REGION=eu-west-1" in str(error)


def test_an_archived_object_is_told_with_its_storage_class(moto_server: S3Server) -> None:
    """An object in Glacier has to be restored first, and no right is asked for."""
    bucket = moto_server.new_bucket()
    moto_server.client.put_object(Bucket=bucket, Key="a.jpg", Body=b"x", StorageClass="GLACIER")
    store = open_store(f"s3://{bucket}", s3=S3Options(endpoint_url=moto_server.endpoint_url))
    with pytest.raises(StoreError, match=r"archived \(GLACIER\): restore it first") as raised:
        store.get("a.jpg")
    assert not isinstance(raised.value, Forbidden)
    assert "archive" in cure(str(raised.value), transient=False)


@pytest.mark.parametrize("wrong", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials_are_told_by_bucket_and_endpoint(
    swift: S3Server, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    """Every request says so, a HEAD of a ledger's key too, and names none of the ledger's keys."""
    bucket = swift.new_bucket()
    monkeypatch.setenv(wrong, "wrong:wrong")
    _client.cache_clear()
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    store = open_store(f"s3://{bucket}", s3=S3Options(endpoint_url=swift.endpoint_url))
    try:
        for ask in (
            lambda: store.head(".apf/batches/1/batch.json"),
            lambda: store.put(".apf/batches/1/batch.json", b""),
            lambda: store.folders(".apf/batches/"),
            lambda: next(store.list(), None),
        ):
            with pytest.raises(BadCredentials, match="does not accept the credentials") as raised:
                ask()
            assert f"s3://{bucket} at {swift.endpoint_url}" in str(raised.value)
            assert ".apf/" not in str(raised.value)
    finally:
        _client.cache_clear()


def _answer(code: str, status: int, headers: dict[str, str] | None = None) -> ClientError:
    answer = {
        "Error": {"Code": code, "Message": "no"},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers or {}},
    }
    return ClientError(answer, "GetObject")  # type: ignore[arg-type]
