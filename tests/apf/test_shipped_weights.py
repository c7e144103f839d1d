"""What the shipped weights protect from: recognisers that no training saw, on people that no training saw."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from apf.train import score
from apf.train.data import Faces, is_held_out, load_faces

#: People with two photos, and people with one who make the threshold at FAR 1e-2 (about 13,000 pairs) a firm one.
PAIRS, OTHERS = 40, 80
#: Percent protected that may not be undercut: nine tenths of what these weights were measured at.
LEAST = {
    "mfn_y1_insightface": {"protection": 40.5, "protection_jpeg75": 38.2},
    "mfn_xiaoccer": {"protection": 49.5, "protection_jpeg75": 47.2},
}


@pytest.fixture(scope="module")
def held_out(shared_faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Faces:
    """The first people, by name, of those kept apart from training."""
    folder = tmp_path_factory.mktemp("faces")
    with tarfile.open(shared_faces) as tar:
        photos: dict[str, list[tarfile.TarInfo]] = {}
        for member in sorted(tar, key=lambda member: member.name):
            person = PurePosixPath(member.name).parent.name
            if member.isfile() and member.name.endswith(".jpg") and is_held_out(person):
                photos.setdefault(person, []).append(member)
        pairs = [own[:2] for own in photos.values() if len(own) > 1][:PAIRS]
        others = [own for own in photos.values() if len(own) == 1][:OTHERS]
        for member in (member for own in pairs + others for member in own):
            handle = tar.extractfile(member)
            assert handle is not None
            path = PurePosixPath(member.name)
            (folder / path.parent.name).mkdir(exist_ok=True)
            (folder / path.parent.name / path.name).write_bytes(handle.read())
    return load_faces(folder)


@pytest.fixture(scope="module")
def unseen_models(shared_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recognisers of role `validate` alone."""
    index = json.loads((shared_models / "models.json").read_text())
    folder = tmp_path_factory.mktemp("models")
    (folder / "models.json").write_text(json.dumps({name: index[name] for name in LEAST}))
    for name in LEAST:
        assert index[name]["role"] == "validate"
        (folder / f"{name}.onnx").symlink_to(shared_models / f"{name}.onnx")
    return folder


@pytest.fixture(scope="module")
def rows(held_out: Faces, unseen_models: Path) -> dict[str, Any]:
    """Each method's row of the score under the standard recipe."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(score, "VARIANTS", {"all stages": score.VARIANTS["all stages"]})  # the others take their time
        found: Any = score.score(held_out, unseen_models, score.Settings(recipe="standard", people=PAIRS))
    assert found["people"] == PAIRS
    return {row["method"]: row for row in found["rows"]}


@pytest.mark.parametrize("kind", ["protection", "protection_jpeg75"])
@pytest.mark.parametrize("name", LEAST)
def test_unseen_recognisers_are_fooled(rows: dict[str, Any], name: str, kind: str) -> None:
    """At FAR 1e-2, at least so many protected photos no longer match another photo of the person, also after JPEG."""
    assert rows["all stages"][kind][name][0] >= LEAST[name][kind]


@pytest.mark.parametrize("name", LEAST)
def test_noise_of_the_same_size_does_little(rows: dict[str, Any], name: str) -> None:
    """The protection is the perturbation's shape, not its size: random noise within the bound leaves people known."""
    assert rows["noise"]["protection"][name][0] < rows["all stages"]["protection"][name][0] / 2


def test_perturbation_stays_small(rows: dict[str, Any]) -> None:
    """Protected crops keep at least 31 dB: the bound alone would allow 30."""
    assert rows["all stages"]["psnr_db"] > 31
