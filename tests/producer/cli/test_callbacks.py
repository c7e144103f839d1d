"""`apf callback test`, and `apf protect --callback` where the command itself is the worker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import skimage.data
from PIL import Image

from tests.command import apf, apf_json
from tests.receivers import SECRETS, Receiver, receiving, status

HERE = {
    "APF_CALLBACK_SECRETS": SECRETS[0],
    "APF_CALLBACK_ALLOWED_HOSTS": "127.0.0.1",
    "APF_CALLBACK_ALLOW_HTTP": "true",
    "APF_CALLBACK_TIMEOUT_S": "3",
}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def upload(tmp_path: Path) -> Path:
    """A folder with one photo that has no face."""
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(skimage.data.coffee()).save(folder / "coffee.jpg")
    return folder


def test_a_test_event_is_posted_and_its_answer_told(receiver: Receiver) -> None:
    told = apf("callback", "test", receiver.url, **HERE).stderr
    (got,) = receiver.got
    assert got.verified()["type"] == "test"
    assert "answered 200" in told
    assert got.id in told
    assert "hunter2" not in told


def test_a_receiver_that_answers_otherwise_ends_the_test_with_1(receiver: Receiver) -> None:
    receiver.answers = [status(404)]
    found = apf_json("callback", "test", receiver.url, code=1, **HERE)
    assert (found["status"], found["ok"], found["error"]) == (404, False, "")
    found = apf_json("callback", "test", receiver.url, code=1, **{**HERE, "APF_CALLBACK_ALLOWED_HOSTS": ""})
    assert found["status"] is None
    assert "APF_CALLBACK_ALLOWED_HOSTS" in found["error"]


def test_a_command_without_a_queue_calls_back_before_it_ends(receiver: Receiver, upload: Path, tmp_path: Path) -> None:
    """A receiver that fails at first is tried again; the state is in what it prints, and in `apf status`."""
    receiver.answers = [status(503), status(200)]
    result = apf_json("protect", upload, tmp_path / "out", "--callback", receiver.url, **HERE)
    assert (result["callback"]["state"], result["callback"]["tries"]) == ("delivered", 2)
    first, second = receiver.got
    assert (first.id, first.body) == (second.id, second.body)
    data = second.verified()["data"]
    assert (data["photos"], data["no_face"], data["results"][0]["key"]) == (1, 1, "coffee.jpg")
    assert apf_json("status", tmp_path / "out")["callback"] == result["callback"]
    assert "callback: delivered after 2 tries" in apf("status", tmp_path / "out").stderr
    assert not list((tmp_path / "out" / ".apf" / "open").glob("*"))


def test_what_keeps_it_from_calling_back_is_refused_at_once(receiver: Receiver, upload: Path, tmp_path: Path) -> None:
    """Not after hours of work."""
    for variables, reason in [
        ({"APF_CALLBACK_SECRETS": ""}, "APF_CALLBACK_SECRETS"),
        ({"APF_CALLBACK_ALLOWED_HOSTS": ""}, "APF_CALLBACK_ALLOWED_HOSTS"),
        ({"APF_CALLBACK_ALLOW_HTTP": ""}, "APF_CALLBACK_ALLOW_HTTP"),
    ]:
        command = ["protect", upload, tmp_path / "out", "--callback", receiver.url]
        assert reason in apf(*command, code=2, **{**HERE, **variables}).stderr
    assert not (tmp_path / "out").exists()


def test_an_undelivered_callback_is_told_and_resumed(receiver: Receiver, upload: Path, tmp_path: Path) -> None:
    """410 ends it at once; without a queue, `apf resume` of a batch that was never called back tries again."""
    receiver.answers = [status(410)]
    out = tmp_path / "out"
    ended = apf("protect", upload, out, "--callback", receiver.url, **HERE)
    assert "callback: given up after 1 try: the receiver answered 410" in ended.stderr
    batch = json.loads(apf("status", out, "--json").stdout)["batch"]
    (out / ".apf" / "batches" / batch / "callback.json").unlink()
    receiver.answers = [status(200)]
    assert apf_json("resume", out, batch, **HERE)["callback"]["state"] == "delivered"
