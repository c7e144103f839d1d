"""Logs tell what happened, and not to whom."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from workers.store.local import FileStore
from workers.telemetry import redaction
from workers.telemetry.redaction import alias, keys_hidden, masked


@pytest.fixture(autouse=True)
def installed() -> Iterator[None]:
    before = logging.getLogRecordFactory()
    redaction.install()
    yield
    logging.setLogRecordFactory(before)


def test_keys_are_named_by_a_digest_wherever_they_stand(caplog: pytest.LogCaptureFixture) -> None:
    """In messages, arguments, quoted, and in tracebacks of others' errors."""
    key = "anna müller/2024 hospital\n.jpg"
    with keys_hidden([key, "anna müller"]):
        logging.getLogger("x").warning("%r in s3://b: gone; %s", key, key)
        try:
            raise ValueError(f"cannot read {key!r}")
        except ValueError:
            logging.getLogger("x").exception("a photo failed")
    assert "anna" not in caplog.text
    assert caplog.text.count(alias(key)) >= 3
    logging.getLogger("x").warning("%r", key)
    assert "anna" in caplog.text, "once the shard is over its keys are nobody's"


def test_two_shards_may_hide_the_same_key() -> None:
    with keys_hidden(["a/photo.jpg"]):
        with keys_hidden(["a/photo.jpg"]):
            pass
        assert "a/photo.jpg" not in masked("a/photo.jpg")


def test_a_short_key_does_not_eat_words() -> None:
    with keys_hidden(["a"]):
        assert masked("a day at 'a'") == f"a day at {alias('a')}"


@pytest.mark.parametrize(
    "text",
    [
        "redis://user:hunter2@host:6379/0 does not answer",
        "rediss://:hunter2@host",
        "GET https://b.s3/k?X-Amz-Credential=hunter2&X-Amz-Signature=hunter2 failed",
        "https://b/k?AWSAccessKeyId=x&Signature=hunter2",
        "redis://user:a/hunter2@host:6379/0",
        "rediss://:it's/hunter2@host",
        'redis://user:"hunter2@"/hunter2@host',
        "sentinel://:hunter2@one:26379;sentinel://:a/hunter2@two:26379",
        "https://hunter2@host",
    ],
)
def test_credentials_are_cut_out(caplog: pytest.LogCaptureFixture, text: str) -> None:
    logging.getLogger("x").error("it says: %s", text)
    assert "hunter2" not in caplog.text
    assert "it says: " in caplog.text


def test_a_long_word_is_masked_in_no_time() -> None:
    """Who writes to the queue must not stop a worker with its own log."""
    started = time.monotonic()
    masked("://a:" * 20_000)
    assert time.monotonic() - started < 10


def test_keys_in_urls_and_in_longer_paths_are_hidden() -> None:
    """As botocore's errors percent-encode them, and as Python quotes a path that ends with one."""
    key = "anna müller/2024 hospital\n.jpg"
    url = f"Could not connect to the endpoint URL: {'https://host/b/' + quote(key)!r}"
    with keys_hidden([key, "é.jpg"]):
        for text in [url, repr(f"/photos/{key}"), f"https://host/b/{quote('é.jpg')}"]:
            assert "photo-" in masked(text)
            for part in ["anna", "hospital", "%C3"]:
                assert part not in masked(text)


@pytest.mark.parametrize(
    ("variables", "hides"),
    [
        ({"APF_BROKER_URL": "redis://x"}, True),
        ({"APF_BROKER_URL": "redis://x", "APF_LOG_KEYS": "1"}, False),
        ({}, False),  # `apf` with its worker inside: the log is its user's terminal
    ],
)
def test_what_a_listing_leaves_out_is_named_to_users_alone(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    hides: bool,
) -> None:
    """A worker plans outside of `keys_hidden`: nobody knows the keys yet."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    logging.setLogRecordFactory(logging.LogRecord)
    redaction.install()
    names = ["anna.jpg", "anna\\b.jpg"]
    (tmp_path / names[0]).symlink_to("nowhere")
    (tmp_path / names[1]).touch()
    os.mkfifo(tmp_path / "anna pipe")
    Path(os.fsdecode(bytes(tmp_path) + b"/anna\xff.jpg")).touch()
    assert list(FileStore(tmp_path.as_uri()).list()) == []
    assert caplog.text.count("left out") == 4
    assert [("anna" in record.getMessage()) for record in caplog.records] == [not hides] * 4
    assert (alias(names[0]) in caplog.text) is hides


def test_a_terminal_without_masks_shows_what_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As `apf protect` does, where a queue's workers do the work."""
    logging.setLogRecordFactory(logging.LogRecord)
    (tmp_path / "anna.jpg").symlink_to("nowhere")
    assert list(FileStore(tmp_path.as_uri()).list()) == []
    assert "'anna.jpg'" in caplog.text


def test_other_text_stays_as_it_is() -> None:
    assert (
        masked("batch 20260101-1 shard 7: https://x/y?page=2 a@b.c s3://b/a@b:c@d redis://h:6379/0")
        == "batch 20260101-1 shard 7: https://x/y?page=2 a@b.c s3://b/a@b:c@d redis://h:6379/0"
    )
