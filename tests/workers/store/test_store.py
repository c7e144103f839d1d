"""Every store keeps the same promises; then what each kind promises on its own."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from botocore.exceptions import ClientError, IncompleteReadError
from hypothesis import given
from hypothesis import strategies as st

from tests.memory_store import MemoryStore
from workers.errors import (
    BadCredentials,
    Changed,
    Forbidden,
    InvalidKey,
    NotFound,
    ObjectTooLarge,
    StoreError,
    StoreUnavailable,
)
from workers.store import AFTER_ALL, S3Options, Store, canonical_url, child_url, open_store, overlap, parent_url
from workers.store.local import ABANDONED_S, FileStore
from workers.store.urls import file_path

KINDS = ["memory", "file", "moto", "swift"]

#: Keys that trip up URL encoding, sorting or paths, and that every kind of store can keep.
ODD_KEYS = [
    "a b", "a+b", "a%20b", "a%2Fb", "a-b", "a/b", "a.b/c", "a0", "ü.jpg", "e\u0301.jpg", "日本/写真.jpg", "😀",
    "x&y<z>",
    "q?z#f", "~t'\"", "trailing ", " leading", "tab\tnl\n", "\x01", "..x", "...", "-a", "A", "z/.apf/x", ".apf2", ".ap",
    "\ufffd", "n" * 200, "d/" * 100 + "deep",
]  # fmt: skip


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store of each kind, with a prefix where it can have one."""
    if request.param == "memory":
        memory = MemoryStore("memory://conformance/pre fix+%")
        memory.clear()
        return memory
    if request.param == "file":
        return open_store(tmp_path / "root with spaces", create=True)
    server = request.getfixturevalue("moto_server" if request.param == "moto" else "swift")
    return open_store(
        f"s3://{server.new_bucket(request.param)}/pre fix+%", s3=S3Options(endpoint_url=server.endpoint_url)
    )


def keys(store: Store, prefix: str = "", start_after: str = "") -> list[str]:
    return [info.key for info in store.list(prefix, start_after)]


def _is_moto(store: Store) -> bool:
    return store.url.startswith("s3://moto-")


class TestEveryStore:
    def test_gives_back_what_was_put(self, store: Store) -> None:
        """Bytes, size, ETag and metadata come back as they were written, by get, head and list alike."""
        metadata = {"apf-source-etag": "12-ab", "apf-recipe": "x y=z;/\"'"}
        put = store.put("a/photo.jpg", b"\0\xffdata\r\n", content_type="image/jpeg", metadata=metadata)
        blob = store.get("a/photo.jpg")
        assert blob.data == b"\0\xffdata\r\n"
        assert blob.info == put == store.head("a/photo.jpg")
        assert (put.key, put.size, put.metadata) == ("a/photo.jpg", 8, metadata)
        listed = next(iter(store.list()))
        assert (listed.key, listed.size, listed.etag, dict(listed.metadata)) == ("a/photo.jpg", 8, put.etag, {})

    def test_tells_since_when_an_object_is_as_it_is(self, store: Store) -> None:
        """By the store's own clock, to the second, in listings and by head and get; a new version has a new time."""
        before = store.clock() - timedelta(seconds=1)
        store.put("k", b"one")
        first = next(iter(store.list())).last_modified
        assert first is not None
        assert before <= first <= store.clock() + timedelta(seconds=1)
        time.sleep(1.1)
        store.put("k", b"two")
        head = store.head("k")
        assert head is not None
        assert head.last_modified is not None
        assert head.last_modified > first
        for other in (store.get("k").info.last_modified, next(iter(store.list())).last_modified):
            assert other is not None
            assert abs(other - head.last_modified) <= timedelta(seconds=1)

    def test_keeps_an_empty_object(self, store: Store) -> None:
        """Zero bytes are an object, not the lack of one."""
        store.put("empty", b"")
        assert store.get("empty").data == b""

    def test_overwrites_whole_with_its_metadata(self, store: Store) -> None:
        """A second put leaves nothing of the first, its metadata included, and has another ETag."""
        first = store.put("k", b"one", metadata={"apf-recipe": "1"})
        second = store.put("k", b"two")
        assert first.etag != second.etag
        assert store.get("k").data == b"two"
        head = store.head("k")
        assert head is not None
        assert dict(head.metadata) == {}

    def test_pins_a_version_by_its_etag(self, store: Store) -> None:
        """A get with the ETag gives exactly that version, and Changed once there is another."""
        etag = store.put("k", b"one").etag
        assert store.get("k", etag=etag).data == b"one"
        store.put("k", b"two")
        with pytest.raises(Changed, match="run the command again"):
            store.get("k", etag=etag)

    def test_says_that_an_object_is_missing(self, store: Store) -> None:
        """Head gives None, get raises NotFound with the key, delete is silent."""
        assert store.head("nobody/here") is None
        with pytest.raises(NotFound, match="nobody/here"):
            store.get("nobody/here")
        with pytest.raises(NotFound):
            store.get("nobody/here", etag="0" * 32)
        store.delete("nobody/here")

    def test_deletes(self, store: Store) -> None:
        """After delete there is no object, and nothing of its metadata comes back with the next one."""
        store.put("k", b"1", metadata={"apf-recipe": "1"})
        store.delete("k")
        assert store.head("k") is None
        assert keys(store) == []
        store.put("k", b"1")
        assert dict(store.get("k").info.metadata) == {}

    def test_refuses_an_object_over_the_limit(self, store: Store) -> None:
        """max_bytes admits exactly that many and refuses one more, naming both numbers."""
        store.put("k", b"12345")
        assert store.get("k", max_bytes=5).data == b"12345"
        with pytest.raises(ObjectTooLarge, match=r"5 bytes.* 4"):
            store.get("k", max_bytes=4)

    def test_keeps_odd_keys_and_lists_them_in_utf8_order(self, store: Store) -> None:
        """Spaces, +, %, quotes, controls, accents and emoji survive a round trip; the order is that of UTF-8 bytes."""
        odd = [key for key in ODD_KEYS if not (_is_moto(store) and "\n" in key)]  # moto's routes end at a line break
        for key in odd:
            store.put(key, key.encode())
        for key in odd:
            assert store.get(key).data == key.encode()
        assert keys(store) == sorted(odd, key=str.encode)

    def test_lists_by_prefix_and_start(self, store: Store) -> None:
        """Prefixes need not end at a slash; start_after is exclusive and need not exist."""
        for key in ["a/bc", "b", "a-b", "a/b/c", "a0", "a.txt", "a/b-c/d", "a/b.x"]:
            store.put(key, b"")
        assert keys(store) == ["a-b", "a.txt", "a/b-c/d", "a/b.x", "a/b/c", "a/bc", "a0", "b"]
        assert keys(store, "a/") == [k for k in keys(store) if k.startswith("a/")]
        assert keys(store, "a/b") == [k for k in keys(store) if k.startswith("a/b")]
        for start in ["", "a", "a-b", "a.", "a/", "a/b-c", "a/b/c", "a/b" + AFTER_ALL, "a/" + AFTER_ALL, "b", "c"]:
            assert keys(store, "", start) == [k for k in keys(store) if k.encode() > start.encode()]
            assert keys(store, "a/", start) == [k for k in keys(store, "a/") if k.encode() > start.encode()]
        assert keys(store, "nobody/") == keys(store, "a/b/c/d/e") == keys(store, "//") == keys(store, "../") == []

    def test_hides_the_ledger_from_listings(self, store: Store) -> None:
        """Keys under .apf/ are listed only when asked for, and the listing goes on behind them."""
        for key in [".a", ".apf/batches/1/batch.json", ".apf/batches/2/batch.json", ".apf0", "a"]:
            store.put(key, b"")
        assert keys(store) == [*keys(store, "."), "a"] == [".a", ".apf0", "a"]
        assert keys(store, ".apf") == [".apf0"]
        assert keys(store, ".apf/") == [".apf/batches/1/batch.json", ".apf/batches/2/batch.json"]
        assert keys(store, ".apf/batches/2") == [".apf/batches/2/batch.json"]

    def test_refuses_metadata_that_s3_cannot_keep(self, store: Store) -> None:
        """What is not printable ASCII is refused by every store alike, before anything is written."""
        for metadata in [{"apf-x": "ü"}, {"apf-x": "a\nb"}, {"Apf": "1"}, {"": "1"}, {"apf-x": " 1"}]:
            with pytest.raises(StoreError, match="metadata"):
                store.put("k", b"", metadata=metadata)
        with pytest.raises(StoreError, match="2048"):
            store.put("k", b"", metadata={"apf-x": "1" * 3000})
        assert store.head("k") is None

    def test_refuses_keys_that_no_store_can_keep(self, store: Store) -> None:
        """Empty, half a surrogate pair, and over 1024 bytes."""
        for key in ["", "\ud800", "x" * 1025]:
            for call in (store.head, store.get, store.delete, lambda key: store.put(key, b"")):
                with pytest.raises(InvalidKey):
                    call(key)

    def test_serves_many_threads(self, store: Store) -> None:
        """Eight threads that write, read and overwrite each see whole objects only."""

        def work(n: int) -> None:
            store.put(f"t/{n}", bytes([n]) * 1000)
            store.put("shared", bytes([n]) * 1000)
            assert store.get(f"t/{n}").data == bytes([n]) * 1000
            assert len(set(store.get("shared").data)) == 1

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(16)))
        assert len(keys(store, "t/")) == 16


@pytest.fixture
def folder(tmp_path: Path) -> FileStore:
    """An empty folder as a store."""
    return FileStore(canonical_url(tmp_path / "root"), create=True)


def root_of(store: FileStore) -> Path:
    return Path(store._root)


class TestFileStore:
    @pytest.mark.parametrize(
        "key",
        [
            "../x",
            "a/../x",
            "..",
            ".",
            "./a",
            "a//b",
            "/a",
            "a/",
            "a/.",
            "a\0b",
            "a\\b",
            "..\\x",
            ".apf/meta/x",
            ".apf/tmp",
        ],
    )
    def test_refuses_keys_that_are_no_path_below_the_root(self, folder: FileStore, key: str) -> None:
        """No key reads, writes or deletes outside the root, or inside the store's own folders."""
        for call in (folder.head, folder.get, folder.delete, lambda key: folder.put(key, b"")):
            with pytest.raises(InvalidKey):
                call(key)
        assert sorted(p.name for p in root_of(folder).parent.iterdir()) == ["root"]

    @given(key=st.text(st.sampled_from("ab./\\\0é-") | st.characters(), max_size=12))
    def test_any_key_stays_inside_or_is_refused(self, key: str, tmp_path_factory: pytest.TempPathFactory) -> None:
        """Whatever the key, it is kept and listed as it is, or refused with nothing written outside."""
        base = tmp_path_factory.mktemp("any")
        store = FileStore(canonical_url(base / "root"), create=True)
        try:
            store.put(key, b"data", metadata={"apf-recipe": "1"})
        except InvalidKey:
            assert keys(store) == []
        else:
            assert keys(store, ".apf/" if key.startswith(".apf/") else "") == [key]
            assert store.get(key).info.metadata == {"apf-recipe": "1"}
        assert [p.name for p in base.iterdir()] == ["root"]

    @given(
        names=st.sets(
            st.lists(st.text("ab-.0/é"[:5] + "é~", min_size=1, max_size=3), min_size=1, max_size=3).map("/".join),
            max_size=12,
        )
    )
    def test_lists_in_the_order_of_s3(self, names: set[str], tmp_path_factory: pytest.TempPathFactory) -> None:
        """For any tree the walk gives UTF-8 order ("a-b" before "a/b"), and goes on from any key of it."""
        store = FileStore(canonical_url(tmp_path_factory.mktemp("tree")))
        for name in sorted(names):
            try:
                store.put(name, b"")
            except StoreError:  # a file where a folder is needed, "." or ".."
                continue
        found = keys(store)
        assert found == sorted(found, key=str.encode)
        for n, key in enumerate(found):
            assert keys(store, start_after=key) == found[n + 1 :]
            assert key in keys(store, prefix=key)

    def test_does_not_follow_links_out_of_the_root(self, folder: FileStore, tmp_path: Path, caplog: Any) -> None:
        """A link to a file outside is left out with a warning and refused; one to a file inside is read."""
        (tmp_path / "secret").write_bytes(b"secret")
        root = root_of(folder)
        (root / "photo").write_bytes(b"photo")
        (root / "out").symlink_to(tmp_path / "secret")
        (root / "in").symlink_to("photo")
        (root / "nothing").symlink_to("nowhere")
        assert keys(folder) == ["in", "photo"]
        assert "'out'" in caplog.text
        assert "'nothing'" in caplog.text
        assert folder.get("in").data == b"photo"
        for call in (folder.get, folder.head):
            with pytest.raises(InvalidKey, match="symbolic link"):
                call("out")

    def test_folders_of_the_root_itself_are_named(self, folder: FileStore) -> None:
        """As of any other prefix, and as a bucket does; the store's own is among them."""
        folder.put("one/x", b"x")
        folder.put("two/y/z", b"x")
        folder.put("three", b"x")
        assert set(folder.folders("")) - {".apf"} == {"one", "two"}

    def test_prunes_empty_folders_alone(self, folder: FileStore, tmp_path: Path) -> None:
        """What holds a file stays, and so does what lies beside the prefix or behind a link."""
        for key in ("a/b/c/x", "a/d/y", "e/z"):
            folder.put(key, b"x")
        for key in ("a/b/c/x", "e/z"):
            folder.delete(key)
        (tmp_path / "outside" / "empty").mkdir(parents=True)
        (root_of(folder) / "a" / "link").symlink_to(tmp_path / "outside")
        folder.prune("a/")
        folder.prune("../outside/")
        assert sorted(path.name for path in (root_of(folder) / "a").iterdir()) == ["d", "link"]
        assert (root_of(folder) / "e").is_dir() and (tmp_path / "outside" / "empty").is_dir()
        (root_of(folder) / "a" / "link").unlink()
        folder.delete("a/d/y")
        folder.prune("a/")
        assert not (root_of(folder) / "a").exists()

    def test_does_not_follow_linked_folders(self, folder: FileStore, tmp_path: Path) -> None:
        """Photos behind a linked folder are neither listed, nor read, nor written: no loops, no way out."""
        (tmp_path / "outside").mkdir()
        (tmp_path / "outside" / "x").write_bytes(b"x")
        (root_of(folder) / "link").symlink_to(tmp_path / "outside")
        (root_of(folder) / "loop").symlink_to(".")
        assert keys(folder) == keys(folder, "link/") == keys(folder, "loop/") == []
        for key in ["link/x", "loop/x"]:
            for call in (folder.get, folder.head, folder.delete, lambda key: folder.put(key, b"")):
                with pytest.raises(InvalidKey, match="symbolic link"):
                    call(key)
        assert (tmp_path / "outside" / "x").read_bytes() == b"x"

    def test_a_put_replaces_a_link_and_never_writes_through_it(self, folder: FileStore, tmp_path: Path) -> None:
        """Writing over a link leaves what it pointed to as it was."""
        (tmp_path / "victim").write_bytes(b"untouched")
        (root_of(folder) / "k").symlink_to(tmp_path / "victim")
        folder.put("k", b"new")
        assert (tmp_path / "victim").read_bytes() == b"untouched"
        assert folder.get("k").data == b"new"

    def test_the_root_itself_may_be_a_link(self, tmp_path: Path) -> None:
        """A user's ~/Photos often is one."""
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to("real")
        store = open_store(tmp_path / "link")
        store.put("a/b", b"1")
        assert store.url.endswith("/link")
        assert (tmp_path / "real/a/b").read_bytes() == b"1"
        assert keys(store) == ["a/b"]

    def test_leaves_out_names_that_cannot_be_keys(self, folder: FileStore, caplog: Any) -> None:
        """A name that is not UTF-8, or has a backslash, is named in a warning; the rest is listed."""
        root = os.fsencode(root_of(folder))
        for name in [b"caf\xe9.jpg", b"a\\b.jpg", b"ok.jpg"]:
            (Path(os.fsdecode(root + b"/" + name))).write_bytes(b"x")
        os.mkfifo(root + b"/pipe")
        assert keys(folder) == ["ok.jpg"]
        assert len(caplog.records) == 3
        with pytest.raises(NotFound):
            folder.get("pipe")
        assert folder.head("pipe") is None

    def test_any_change_of_a_file_changes_its_etag(self, folder: FileStore) -> None:
        """Written in place by someone else: another ETag, and the metadata of the old version is gone."""
        put = folder.put("k", b"one", metadata={"apf-recipe": "1"})
        (root_of(folder) / "k").write_bytes(b"two")
        head = folder.head("k")
        assert head is not None
        assert (head.etag != put.etag, dict(head.metadata)) == (True, {})

    @pytest.mark.parametrize("step", ["_write_sidecar", "replace"])
    def test_a_crash_while_writing_leaves_the_old_version(self, folder: FileStore, step: str) -> None:
        """Whichever step dies, the object is the old one with the old metadata, and no scrap stays behind."""
        folder.put("k", b"old", metadata={"apf-recipe": "old"})
        where: Any = FileStore if step == "_write_sidecar" else Path
        with mock.patch.object(where, step, side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
            folder.put("k", b"new", metadata={"apf-recipe": "new"})
        assert folder.get("k").data == b"old"
        assert folder.get("k").info.metadata == {"apf-recipe": "old"}
        assert list((root_of(folder) / ".apf/tmp").iterdir()) == []

    def test_a_process_killed_while_writing_never_leaves_a_mixture(self, tmp_path: Path) -> None:
        """A writer is killed at random moments: the object is always whole, and any metadata is its own."""
        code = (
            "import sys, itertools\n"
            "from workers.store import open_store\n"
            "store = open_store(sys.argv[1], create=True)\n"
            "for n in itertools.count():\n"
            "    store.put('k', str(n).encode() * 2000, metadata={'apf-n': str(n)})\n"
            "    print(n, flush=True) if n == 0 else None\n"
        )
        for delay_s in (0.0, 0.013, 0.029):
            command = [sys.executable, "-c", code, str(tmp_path)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]) as writer:
                assert writer.stdout is not None
                writer.stdout.readline()
                time.sleep(delay_s)
                writer.kill()
            blob = open_store(tmp_path).get("k")
            assert blob.data == blob.info.metadata["apf-n"].encode() * 2000

    def test_two_writers_of_one_key_keep_each_its_own_metadata(self, folder: FileStore) -> None:
        """Threads that overwrite one key: every read has the metadata of the bytes that it came with, or none."""

        def write(n: int) -> None:
            for _ in range(10):
                folder.put("k", str(n).encode() * 500, metadata={"apf-n": str(n)})

        with ThreadPoolExecutor(3) as pool:
            writers = [pool.submit(write, n) for n in (1, 2)]
            while not all(w.done() for w in writers):
                if folder.head("k"):
                    blob = folder.get("k")
                    assert blob.info.metadata.get("apf-n", blob.data[:1].decode()) == blob.data[:1].decode()
        assert folder.get("k").info.metadata

    def test_no_sidecars_without_metadata_and_none_left_over(self, folder: FileStore) -> None:
        """The ledger's objects cost one file each, and an overwritten or deleted object takes its sidecar with it."""
        meta = root_of(folder) / ".apf/meta"
        folder.put(".apf/batches/1/batch.json", b"{}")
        assert not meta.exists()
        for n in range(3):
            folder.put("k", b"x", metadata={"apf-n": str(n)})
        assert len([p for p in meta.rglob("*") if p.is_file()]) == 1
        folder.delete("k")
        assert [p for p in meta.rglob("*") if p.is_file()] == []

    @pytest.mark.parametrize(
        "content", [b"", b"{", b"[]", b'{"key": "other", "metadata": {"a": "b"}}', b'{"key": "k"}']
    )
    def test_a_damaged_sidecar_is_no_metadata(self, folder: FileStore, content: bytes) -> None:
        """A torn record costs the photo another run, never an error or a wrong claim."""
        folder.put("k", b"x", metadata={"apf-n": "1"})
        next(p for p in (root_of(folder) / ".apf/meta").rglob("*.json")).write_bytes(content)
        assert dict(folder.get("k").info.metadata) == {}

    def test_sweeps_what_killed_writers_left(self, folder: FileStore) -> None:
        """Old temporary files go with the next write; young ones may belong to someone who is still writing."""
        tmp = root_of(folder) / ".apf/tmp"
        tmp.mkdir(parents=True)
        for name, age_s in [("old", ABANDONED_S + 60), ("young", 60)]:
            (tmp / name).write_bytes(b"x")
            os.utime(tmp / name, (time.time() - age_s, time.time() - age_s))
        folder.put("k", b"x")
        assert [p.name for p in tmp.iterdir()] == ["young"]

    def test_files_get_the_mode_that_the_umask_gives(self, folder: FileStore) -> None:
        """Not the 0600 of a temporary file: a web server must be able to read the output."""
        umask = os.umask(0o022)
        try:
            folder.put("k", b"x")
        finally:
            os.umask(umask)
        assert (root_of(folder) / "k").stat().st_mode & 0o777 == 0o644

    @pytest.mark.parametrize(
        ("number", "kind", "cure"),
        [
            (errno.ENOSPC, StoreError, "free some space"),
            (errno.EDQUOT, StoreError, "free some space"),
            (errno.EROFS, Forbidden, "read-only"),
            (errno.EACCES, Forbidden, "owner or the mode"),
            (errno.EIO, StoreUnavailable, "disk reported"),
            (errno.EMFILE, StoreUnavailable, "ulimit"),
            (errno.ENOTSUP, StoreError, "not supported"),
        ],
    )
    def test_explains_what_the_system_refuses(
        self, folder: FileStore, number: int, kind: type[StoreError], cure: str
    ) -> None:
        """Each kind of failure becomes an error that names the key and the cure, and says whether a retry helps."""
        refusal = OSError(number, os.strerror(number), "file")
        with mock.patch("os.fsync", side_effect=refusal), pytest.raises(kind, match=cure) as raised:
            folder.put("some/key", b"x")
        assert "some/key" in str(raised.value)
        assert raised.value.transient is (kind is StoreUnavailable)
        assert folder.head("some/key") is None

    def test_a_file_and_a_folder_cannot_share_a_name(self, folder: FileStore) -> None:
        """Legal in S3, impossible on a disk: a clear refusal, and a missing object stays a missing object."""
        folder.put("a", b"x")
        folder.put("d/x", b"x")
        for key in ["a/b", "d"]:
            with pytest.raises(StoreError, match="needed: rename one"):
                folder.put(key, b"x")
        assert folder.head("a/b") is folder.head("d") is None
        for key in ["a/b", "d"]:
            with pytest.raises(NotFound):
                folder.get(key)
        folder.delete("a/b")

    def test_a_name_too_long_for_the_disk_is_an_invalid_key(self, folder: FileStore) -> None:
        """300 bytes in one part: fine in S3, not in a file system."""
        with pytest.raises(InvalidKey, match="too long"):
            folder.put("x" * 300, b"")

    def test_a_missing_or_wrong_root_is_said_so(self, tmp_path: Path) -> None:
        """A mistyped source must not look like an empty one."""
        with pytest.raises(NotFound, match=r"nobody does not exist"):
            open_store(tmp_path / "nobody")
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(StoreError, match="not a folder"):
            open_store(tmp_path / "file")
        store = open_store(tmp_path / "new/folder", create=True)
        (tmp_path / "new/folder").rmdir()
        with pytest.raises(NotFound, match="mounted"):
            keys(store)

    def test_a_file_that_changes_while_it_is_read_is_refused(self, folder: FileStore) -> None:
        """A photo that is still being copied in must not be protected by half."""
        folder.put("k", b"x" * 100)
        status = (root_of(folder) / "k").stat()
        (root_of(folder) / "k").write_bytes(b"y" * 101)
        later = (root_of(folder) / "k").stat()
        (root_of(folder) / "k").write_bytes(b"x" * 100)
        with mock.patch("os.fstat", side_effect=[status, later]), pytest.raises(Changed, match="while it was read"):
            folder.get("k")


class TestMemoryStore:
    def test_stores_of_one_name_share_and_others_do_not(self) -> None:
        """The registry is per process: whoever opens the same URL sees the same objects; a prefix is a view."""
        a = MemoryStore("memory://shared")
        a.clear()
        open_store("memory://shared/p").put("k", b"1")
        assert keys(a) == ["p/k"]
        assert keys(open_store("memory://elsewhere")) == []


class TestS3Store:
    @pytest.mark.parametrize("server", ["moto_server", "swift"])
    @pytest.mark.parametrize("key", ["a//b", "/lead", "./x", "a\\b", "folder/"])
    def test_keys_that_are_no_paths_pass_byte_for_byte(
        self, request: pytest.FixtureRequest, server: str, key: str
    ) -> None:
        """What no disk could keep is legal in S3 and stays as it is, below the prefix."""
        store = _bucket(request, server, "pre")
        store.put(key, b"data")
        assert store.get(key).data == b"data"
        assert keys(store) == [key]

    @pytest.mark.parametrize("key", ["../x", "a/../b", "..", "."])
    def test_dots_stay_dots_on_a_real_server(self, request: pytest.FixtureRequest, key: str) -> None:
        """No layer below resolves them: the object is found under its own name, and nothing lies beside the prefix."""
        store = _bucket(request, "swift", "pre")
        store.put(key, b"data")
        assert store.get(key).data == b"data"
        assert keys(store) == [key]

    @pytest.mark.parametrize("server", ["moto_server", "swift"])
    def test_lists_more_than_a_page(
        self, request: pytest.FixtureRequest, server: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A listing goes on after an answer's last key, also over a ledger that fills answers of its own."""
        monkeypatch.setattr("workers.store.s3.PAGE_KEYS", 7)
        store = _bucket(request, server, "pre")
        names = [f".apf/{n:02}" for n in range(16)] + [f"{n:02}" for n in range(23)]
        for name in names:
            store.put(name, b"")
        assert keys(store) == names[16:]
        assert keys(store, ".apf/") == names[:16]
        assert keys(store, "1", "12") == [f"{n:02}" for n in range(13, 20)]

    def test_a_folder_marker_at_the_root_is_no_object(self, request: pytest.FixtureRequest) -> None:
        """Consoles make an empty object named like the prefix with a slash; it has no key in the store."""
        server = request.getfixturevalue("moto_server")
        bucket = server.new_bucket()
        server.client.put_object(Bucket=bucket, Key="pre/", Body=b"")
        store = open_store(f"s3://{bucket}/pre", s3=S3Options(endpoint_url=server.endpoint_url))
        store.put("k", b"")
        assert keys(store) == ["k"]

    @pytest.mark.parametrize("server", ["moto_server", "swift"])
    def test_content_type_is_kept(self, request: pytest.FixtureRequest, server: str) -> None:
        """Browsers show what they are told it is."""
        s3 = request.getfixturevalue(server)
        store = _bucket(request, server, "")
        store.put("k", b"", content_type="image/avif")
        head = s3.client.head_object(Bucket=store.url.removeprefix("s3://"), Key="k")
        assert head["ContentType"] == "image/avif"

    @pytest.mark.parametrize("server", ["moto_server", "swift"])
    def test_a_missing_bucket_is_said_so(self, request: pytest.FixtureRequest, server: str) -> None:
        """Listing, reading and writing name the bucket; no bucket is ever made."""
        endpoint = request.getfixturevalue(server).endpoint_url
        store = open_store("s3://nobodys-bucket/p", s3=S3Options(endpoint_url=endpoint))
        for call in (lambda: keys(store), lambda: store.get("k"), lambda: store.put("k", b"")):
            with pytest.raises(NotFound, match=r"s3://nobodys-bucket.*bucket does not exist"):
                call()

    def test_wrong_credentials_are_forbidden(self, swift: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """A real server checks the signature; the error names the variables to set."""
        bucket = swift.new_bucket()
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        store = open_store(f"s3://{bucket}", s3=S3Options(endpoint_url=swift.endpoint_url, max_pool_connections=3))
        with pytest.raises(Forbidden, match="AWS_SECRET_ACCESS_KEY"):
            store.put("k", b"")
        with pytest.raises(Forbidden):
            store.head("k")

    def test_no_credentials_are_forbidden(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With none in the whole chain nothing is sent, and the error says what to set."""
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        store = open_store("s3://bucket", s3=S3Options(endpoint_url="http://127.0.0.1:9", max_pool_connections=4))
        with pytest.raises(Forbidden, match="credentials"):
            store.head("k")

    def test_a_dead_server_is_unavailable(self) -> None:
        """A refused connection is worth a retry."""
        store = open_store("s3://bucket", s3=S3Options(endpoint_url="http://127.0.0.1:9", max_attempts=1))
        with pytest.raises(StoreUnavailable, match="did not answer") as raised:
            store.get("k")
        assert raised.value.transient

    @pytest.mark.parametrize(
        ("status", "code", "kind"),
        [
            (500, "InternalError", StoreUnavailable),
            (503, "SlowDown", StoreUnavailable),
            (503, "", StoreUnavailable),
            (429, "TooManyRequests", StoreUnavailable),
            (400, "RequestTimeout", StoreUnavailable),
            (400, "ExpiredToken", BadCredentials),
            (403, "AccessDenied", Forbidden),
            (403, "RequestTimeTooSkewed", Forbidden),
            (400, "KeyTooLongError", InvalidKey),
            (412, "PreconditionFailed", Changed),
            (404, "NoSuchKey", NotFound),
            (400, "InvalidRequest", StoreError),
        ],
    )
    def test_error_answers_become_errors_of_ours(self, status: int, code: str, kind: type[StoreError]) -> None:
        """Each answer becomes the error that says whether a retry helps."""
        store: Any = open_store("s3://bucket", s3=S3Options(endpoint_url="http://127.0.0.1:9", max_attempts=1))
        answer: Any = {"Error": {"Code": code, "Message": "m"}, "ResponseMetadata": {"HTTPStatusCode": status}}
        refusing = mock.Mock(**{"get_object.side_effect": ClientError(answer, "GetObject")})
        with mock.patch.object(store, "_client", refusing), pytest.raises(kind) as raised:
            store.get("k")
        assert type(raised.value) is kind

    def test_a_body_cut_short_is_unavailable(self, request: pytest.FixtureRequest) -> None:
        """A connection lost in the middle of a photo is a retry, never half a photo."""
        store = _bucket(request, "moto_server", "")
        store.put("k", b"12345")
        lost = IncompleteReadError(actual_bytes=2, expected_bytes=5)
        with (
            mock.patch("botocore.response.StreamingBody.read", side_effect=lost),
            pytest.raises(StoreUnavailable),
        ):
            store.get("k")

    def test_stores_with_equal_options_share_a_client(self) -> None:
        """A worker opens stores for every shard: connections are kept."""
        options = S3Options(endpoint_url="http://127.0.0.1:9")
        a: Any = open_store("s3://aaa", s3=options)
        b: Any = open_store("s3://bbb/p", s3=S3Options(endpoint_url="http://127.0.0.1:9"))
        assert a._client is b._client

    def test_boto3_loads_only_for_s3(self) -> None:
        """A producer that works on folders does not pay for it, nor for torch, numpy or PIL."""
        code = (
            "import sys, workers.ledger.batch_ledger\n"
            "from workers.store import open_store\n"
            "open_store('.')\n"
            "print([m for m in ('boto3', 'botocore', 'torch', 'numpy', 'PIL') if m in sys.modules])"
        )
        ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        assert ran.stdout.strip() == "[]"


def _bucket(request: pytest.FixtureRequest, server: str, prefix: str) -> Store:
    """A store on a new bucket of a server."""
    s3 = request.getfixturevalue(server)
    return open_store(f"s3://{s3.new_bucket()}/{prefix}", s3=S3Options(endpoint_url=s3.endpoint_url))


class TestUrls:
    @pytest.mark.parametrize(
        ("text", "url"),
        [
            ("/photos", "file:///photos"),
            ("/photos/", "file:///photos"),
            ("//photos/./a/../b", "file:///photos/b"),
            ("/", "file:///"),
            ("/a b/ü#?%", "file:///a%20b/%C3%BC%23%3F%25"),
            ("file:///a%20b/", "file:///a%20b"),
            ("file://localhost/a", "file:///a"),
            ("FILE:///a", "file:///a"),
            ("s3://bucket", "s3://bucket"),
            ("s3://bucket/", "s3://bucket"),
            ("s3://bucket/a b/%20//c#?/", "s3://bucket/a b/%20//c#?"),
            ("S3://bucket/a", "s3://bucket/a"),
            ("memory://name/p/", "memory://name/p"),
            (Path("/a/b"), "file:///a/b"),
        ],
        ids=repr,
    )
    def test_each_place_has_one_url(self, text: str | Path, url: str) -> None:
        """Ways to write one place come to one URL, and that URL to itself."""
        assert canonical_url(text) == url == canonical_url(url)

    def test_a_relative_folder_becomes_absolute(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """A worker on the same disk but in another folder must find it."""
        monkeypatch.chdir(tmp_path)
        assert canonical_url("album") == f"file://{tmp_path}/album"

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("", "names no place"),
            ("a\0b", "names no place"),
            ("http://host/x", "scheme http"),
            ("gs://bucket/x", "scheme gs"),
            ("file://photos/x", "three slashes"),
            ("file://", "three slashes"),
            ("file:///a?b", "%3F"),
            ("file:///a#b", "%23"),
            ("file:///a%00b", "%00"),
            ("s3://", "bucket"),
            ("s3:///key", "bucket"),
            ("s3://-x/key", "bucket"),
            ("s3://buck et/key", "bucket"),
        ],
        ids=repr,
    )
    def test_what_is_no_place_is_refused_with_the_cure(self, text: str, why: str) -> None:
        """The error says what is wrong and what to write."""
        with pytest.raises(StoreError, match=why):
            canonical_url(text)

    @given(path=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20))
    def test_any_folder_survives_its_url(self, path: str) -> None:
        """Whatever a folder is called, the store opens that one."""
        assert str(file_path(canonical_url("/" + path))) == os.path.normpath("/" + path.lstrip("/"))

    @pytest.mark.parametrize(
        ("a", "b", "expected"),
        [
            ("s3://b/x", "s3://b/x", True),
            ("s3://b/x", "s3://b/x/y", True),
            ("s3://b", "s3://b/x", True),
            ("s3://b/x", "s3://b/xy", False),
            ("s3://b/x", "s3://c/x", False),
            ("s3://b/x", "memory://b/x", False),
            ("/photos", "/photos/out", True),
            ("/photos/", "file:///photos", True),
            ("/photos", "/photos-out", False),
            ("/", "/photos", True),
            ("/photos/../other", "/other", True),
        ],
        ids=repr,
    )
    def test_overlap_is_judged_by_whole_parts(self, a: str, b: str, expected: bool) -> None:
        """One place inside the other overlaps, one that only begins alike does not; the order does not matter."""
        assert overlap(a, b) is overlap(b, a) is expected

    def test_overlap_sees_through_links(self, tmp_path: Path) -> None:
        """A destination that is a link into the source would feed the command its own output."""
        (tmp_path / "photos/out").mkdir(parents=True)
        (tmp_path / "link").symlink_to("photos/out")
        assert overlap(tmp_path / "link" / "new", tmp_path / "photos")
        assert not overlap(tmp_path / "link", tmp_path / "elsewhere")

    @pytest.mark.parametrize("url", ["s3://b", "s3://b/x", "file:///a/b", "file:///", "memory://m/p"])
    def test_a_child_finds_its_parent(self, url: str) -> None:
        """`parent_url` undoes `child_url`, for the root of the disk as well."""
        assert parent_url(child_url(url, ".apf", "batches", "1"), 3) == (url, (".apf", "batches", "1"))


def test_a_file_that_was_copied_with_its_times_is_new_all_the_same(tmp_path: Path) -> None:
    """`cp -p`, rsync and tar set an old mtime: what counts is when the file came to be here."""
    store = open_store(tmp_path)
    (tmp_path / "old.jpg").write_bytes(b"x")
    os.utime(tmp_path / "old.jpg", (0, 0))
    changed = next(iter(store.list())).last_modified
    assert changed is not None
    assert datetime.now(UTC) - changed < timedelta(minutes=1)


def test_first_bytes_are_read_alone(store: Store) -> None:
    """As many as there are; of an empty object none."""
    store.put("a/b.jpg", b"0123456789")
    store.put("empty", b"")
    assert [store.start("a/b.jpg", count) for count in (0, 4, 10, 99)] == [b"", b"0123", b"0123456789", b"0123456789"]
    assert store.start("empty", 5) == b""
    with pytest.raises(NotFound):
        store.start("none", 4)


def test_folders_at_the_root_are_found(store: Store) -> None:
    """By the empty prefix."""
    for key in ("one/batches/1/a", "two/b", "three"):
        store.put(key, b"x")
    assert sorted(store.folders("")) == ["one", "two"]
