"""`apf guides list` and `pull`, as their users call them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from apf.guides.catalogue import SFACE, YUNET, own_names
from tests.command import apf, apf_json
from tests.test_contracts import HEAVY, QUEUE_AND_BUCKET, run_fresh


def test_guides_are_listed(tmp_path: Path) -> None:
    """Each with its state, licence and digest, and what to do about those that are not here."""
    found = apf_json("guides", "list", XDG_DATA_HOME=str(tmp_path))["guides"]
    by_name = {one["name"]: one for one in found}
    assert list(by_name) == ["probe", *own_names(), "dlib", "sface", "yunet"]
    assert [by_name[name]["state"] for name in by_name] == [*["here"] * (len(by_name) - 2), "missing", "missing"]
    assert [name for name in by_name if by_name[name]["kind"] == "detector"] == ["yunet"]
    assert (by_name["dlib"]["licence"], by_name["sface"]["sha256"]) == ("CC0-1.0", SFACE.sha256)
    shown = apf("guides", "list", XDG_DATA_HOME=str(tmp_path))
    assert f"sface     guide     missing  Apache-2.0  {SFACE.sha256[:16]}" in shown.stdout
    assert "apf-mnv2  guide     here" in shown.stdout
    assert all(f"apf guides pull {name}" in shown.stderr for name in ("sface", "yunet"))


def test_a_guide_that_is_not_what_it_should_be_is_not_pulled(tmp_path: Path) -> None:
    """The command ends with 2, says why, and leaves nothing."""
    given = tmp_path / "given.onnx"
    given.write_bytes(b"0" * SFACE.bytes)
    ended = apf("guides", "pull", "sface", "--from", given, code=2, XDG_DATA_HOME=str(tmp_path / "data"))
    assert hashlib.sha256(given.read_bytes()).hexdigest() in ended.stderr
    assert not list((tmp_path / "data" / "apf" / "guides").iterdir())
    assert "there is sface" in apf("guides", "pull", "dlib", code=2).stderr


def test_the_command_loads_nothing_heavy() -> None:
    """It reads and hashes files: neither NumPy nor a network is loaded for that, nor a queue."""
    assert run_fresh("import producer.cli.guides").modules & (HEAVY | QUEUE_AND_BUCKET) == set()


def test_the_detector_is_pulled_as_guides_are(tmp_path: Path) -> None:
    """By its name and from a file, where a worker cannot fetch it; another file ends the command with 2."""
    given = tmp_path / "given.onnx"
    given.write_bytes(b"0" * YUNET.bytes)
    ended = apf("guides", "pull", "yunet", "--from", given, code=2, XDG_DATA_HOME=str(tmp_path / "data"))
    assert f"yunet has {YUNET.sha256}" in ended.stderr
    assert not list((tmp_path / "data" / "apf" / "guides").iterdir())
