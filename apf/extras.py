"""The package's extras: which is missing here, for what, and how it is installed. No library is imported for it."""

from __future__ import annotations

import ctypes
import re
from functools import cache
from importlib.metadata import requires
from importlib.util import find_spec

from apf.errors import MissingExtra

#: The distribution whose extras they are, and modules that are not called like their distribution.
PACKAGE = "apf-protect"
IMPORTED_AS = {"opencv-python-headless": "cv2", "pillow": "PIL", "scikit-image": "skimage"}
#: What `apf doctor` says of each.
PURPOSES = {
    "cpu": "protecting photos, and `apf report`",
    "gpu": "NVIDIA GPUs, and the detectors of InsightFace packs",
    "private": "`apf private`",
    "otel": "traces (APF_OTEL)",
}

#: Of NVIDIA (Linux, Windows) and of AMD.
DRIVERS = ("libcuda.so.1", "nvcuda.dll", "libamdhip64.so")


def extra_for(device: str) -> str:
    """Return the extra by which photos are protected on a device; one that is looked for is the CPU without torch."""
    return "cpu" if device in ("auto", "cpu") else "gpu"


@cache
def modules_of(extra: str) -> tuple[str, ...]:
    """Return the modules that an extra brings on every system, by the package's own metadata."""
    wanted = (line.partition(";") for line in requires(PACKAGE) or ())
    names = [re.split(r"[^\w.-]", name)[0] for name, _, when in wanted if when.strip() == f"extra == '{extra}'"]
    found = {IMPORTED_AS.get(name, name.replace("-", "_")) for name in names}
    # The parts of OpenTelemetry share one name.
    return tuple(sorted({name if "opentelemetry" not in name else "opentelemetry" for name in found}, key=str.lower))


def has_gpu_driver() -> bool:
    """Return whether a driver of a GPU is here: without one torch finds none, and need not be loaded to say so."""
    return any(_loads(driver) for driver in DRIVERS)


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def lacking(extra: str) -> str:
    """Return which modules of an extra are missing, and how it is installed; empty where it is all here."""
    missing = [name for name in modules_of(extra) if find_spec(name) is None]
    if not missing:
        return ""
    return f'the extra {extra} is not installed here (no {", ".join(missing)}): pip install "apf-protect[{extra}]"'


def need(extra: str, what: str) -> None:
    """Raise MissingExtra where `what` cannot be done here."""
    if reason := lacking(extra):
        raise MissingExtra(f"{what} cannot be had: {reason}")
