"""The weights that come with the package: their folder, and checks that they are whole.

`SHA256SUMS` is as sha256sum writes it.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from apf.errors import WeightsError

WEIGHTS_DIR = Path(__file__).parent / "weights"
#: Networks of others' that come with the package, and are in no commit (infra/build_hook.py).
THIRD_PARTY_DIR = Path(__file__).parent / "third_party"
SUMS = "SHA256SUMS"
#: What is to be done where one of either is missing.
CURE = "install the package again (in a checkout: make setup)"
#: The weights' digest, for an installation that does not have all of them.
DIGEST = "DIGEST"


@cache
def weights_digest(folder: Path = WEIGHTS_DIR) -> str:
    """SHA-256 over the names and bytes of the folder's safetensors files, as 64 hex digits."""
    noted = folder / DIGEST
    return noted.read_text().strip() if noted.exists() else digest_of(folder)


def digest_of(folder: Path) -> str:
    """As `weights_digest`, but always of the bytes themselves, whatever the folder notes of them."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def check_weights(folder: Path = WEIGHTS_DIR) -> None:
    """Compare the weights with the digests that they were shipped with (`SHA256SUMS`, as sha256sum writes it).

    Raises:
        WeightsError: a file is missing, damaged, or not one of those.
    """
    wanted = _sums(folder)
    if strange := {path.name for path in _weight_files(folder)} ^ set(wanted):
        raise WeightsError(
            f"weights in {folder} are not those of {SUMS} (missing or extra: {', '.join(sorted(strange))}): "
            "install the package again"
        )
    for name in wanted:
        check_file(folder, name)
    if weights_digest(folder) != digest_of(folder):
        raise WeightsError(f"{folder / DIGEST} is not of these weights: install the package again")


def check_file(folder: Path, name: str) -> None:
    """Compare one of the weight files with its digest; raises WeightsError."""
    try:
        found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    except OSError as error:
        raise WeightsError(f"weights {folder / name} cannot be read ({error}): install the package again") from error
    if found != _sums(folder).get(name):
        raise WeightsError(f"weights {folder / name} are damaged: install the package again")


def _sums(folder: Path) -> dict[str, str]:
    try:
        lines = (folder / SUMS).read_text().splitlines()
        return {name: digest for digest, name in (line.split() for line in lines)}
    except (OSError, ValueError) as error:
        raise WeightsError(f"{folder / SUMS} cannot be read ({error}): install the package again") from error


def shipped_sums(folder: Path = WEIGHTS_DIR) -> dict[str, str]:
    """Return the SHA-256 of each file that ships with the weights, by name; none where nothing is noted."""
    return _sums(folder) if (folder / SUMS).exists() else {}


def write_sums(folder: Path) -> None:
    """Note the digests of the folder's weights, for `check_weights` and `weights_digest`."""
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in _weight_files(folder)]
    (folder / SUMS).write_text("".join(lines))
    (folder / DIGEST).write_text(digest_of(folder) + "\n")


def _weight_files(folder: Path) -> list[Path]:
    return sorted([*folder.glob("*.safetensors"), *folder.glob("*.onnx")])
