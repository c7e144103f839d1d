"""Logs tell what happened, and not to whom."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from workers import logs
from workers.logs import alias, keys_hidden, masked


@pytest.fixture(autouse=True)
def installed() -> Iterator[None]:
    before = logging.getLogRecordFactory()
    logs.install()
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
    ],
)
def test_credentials_are_cut_out(caplog: pytest.LogCaptureFixture, text: str) -> None:
    logging.getLogger("x").error("it says: %s", text)
    assert "hunter2" not in caplog.text
    assert "it says: " in caplog.text


def test_other_text_stays_as_it_is() -> None:
    assert (
        masked("batch 20260101-1 shard 7: https://x/y?page=2 a@b.c")
        == "batch 20260101-1 shard 7: https://x/y?page=2 a@b.c"
    )
