"""Catalogue of guides by name, and the paths of fetched ones. Without NumPy: the producer lists them, too."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from apf.errors import GuideError
from apf.weight_files import CURE, THIRD_PARTY_DIR, WEIGHTS_DIR, shipped_sums, weights_digest

#: Where InsightFace keeps its packs.
PACKS = Path("~/.insightface/models")
#: The names of the files of guides that ship, in the folder of weights.
OWN = "apf-"
#: Where dlib's network lies.
DLIB_FILE = THIRD_PARTY_DIR / "dlib_face_recognition_resnet_model_v1.dat"


@dataclass(frozen=True)
class Known:
    """A network that is known by name."""

    name: str
    #: Of its file.
    sha256: str
    licence: str
    origin: str
    #: As `apf.guides.input_spec.InputSpec` has it.
    spec: Mapping[str, object] = field(default_factory=dict)
    #: Where it is fetched from, and how large it is there; empty where it is not fetched.
    url: str = ""
    bytes: int = 0


DLIB = Known(
    name="dlib",
    sha256="55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
    licence="CC0-1.0",
    origin="dlib's ResNet-29, as it comes with the package",
    spec={
        "height": 150,
        "width": 150,
        "mean": (122.782, 117.001, 104.298),
        "std": (256.0,),
        "landmarks_xy": (
            (47.733, 47.1396),
            (100.2814, 47.1233),
            (74.0174, 77.1624),
            (52.2699, 107.8122),
            (95.7862, 107.7987),
        ),
    },
)
#: OpenCV feeds it 0..255 RGB, aligned to ArcFace's template (`FaceRecognizerSF`).
SFACE = Known(
    name="sface",
    sha256="0ba9fbfa01b5270c96627c4ef784da859931e02f04419c829e83484087c34e79",
    licence="Apache-2.0",
    origin="SFace of OpenCV Zoo",
    spec={"mean": (0.0,), "std": (1.0,)},
    url="https://media.githubusercontent.com/media/opencv/opencv_zoo/main/models/face_recognition_sface/"
    "face_recognition_sface_2021dec.onnx",
    bytes=38_696_353,
)
#: The detector (`apf.detection.yunet`).
YUNET = Known(
    name="yunet",
    sha256="8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
    licence="MIT",
    origin="YuNet of OpenCV Zoo",
    url="https://media.githubusercontent.com/media/opencv/opencv_zoo/main/models/face_detection_yunet/"
    "face_detection_yunet_2023mar.onnx",
    bytes=232_589,
)
#: Guides that `apf guides pull` fetches; and detectors, which are fetched once they are asked for, too.
FETCHED = {known.name: known for known in (SFACE,)}
DETECTORS = {known.name: known for known in (YUNET,)}


def guides_folder() -> Path:
    """Where fetched guides lie: in the user's own data."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "apf" / "guides"


def fetched_path(known: Known, folder: Path | None = None) -> Path:
    return (folder or guides_folder()) / f"{known.name}-{known.sha256[:16]}.onnx"


def is_here(known: Known, folder: Path | None = None) -> bool:
    """Return whether a file that is fetched lies where it has its place, whole."""
    return _digest(fetched_path(known, folder)) == known.sha256


def own_path(name: str) -> Path | None:
    """Return the file of a guide that ships with the weights, as `apf-NAME`; None where there is none of this name."""
    return WEIGHTS_DIR / f"{name}.onnx" if name in own_names() else None


def own_names() -> list[str]:
    """Return the guides that ship with the weights, besides the probe."""
    return [Path(name).stem for name in shipped_sums() if name.startswith(OWN) and name.endswith(".onnx")]


@dataclass(frozen=True)
class Standing:
    """Whether a guide or a detector can be used here."""

    name: str
    #: "guide" or "detector".
    kind: str
    #: "here", "missing" or "damaged".
    state: str
    sha256: str
    licence: str
    origin: str
    #: The cure where it is not here.
    cure: str = ""


def standings() -> list[Standing]:
    """Every guide that is known by name, the ones that ship first; then the detectors that are fetched."""
    probe = WEIGHTS_DIR / "probe.safetensors"
    own = Known("probe", _digest(probe), "Apache-2.0", "this project's own, distilled from several recognisers")
    found = [_standing(own, probe, CURE)]
    for name in own_names():
        path = WEIGHTS_DIR / f"{name}.onnx"
        taught = Known(name, guide_digest(name), "Apache-2.0", "this project's own, taught by one recogniser")
        found.append(_standing(taught, path, CURE))
    found.append(_standing(DLIB, DLIB_FILE, CURE))
    fetched = {**FETCHED, **DETECTORS}
    return found + [_standing(known, fetched_path(known), f"apf guides pull {name}") for name, known in fetched.items()]


def _standing(known: Known, path: Path, cure: str) -> Standing:
    digest = _digest(path)
    state = "missing" if not digest else "here" if digest == known.sha256 else "damaged"
    kind = "detector" if known.name in DETECTORS else "guide"
    return Standing(known.name, kind, state, known.sha256, known.licence, known.origin, "" if state == "here" else cure)


def _digest(path: Path) -> str:
    """SHA-256 of a file; empty where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def parse_guides(text: str) -> tuple[str, ...]:
    """Return the names in a list like `dlib,probe,/path/x.onnx`, as `APF_GUIDES` and a recipe's `guides` have it.

    Raises:
        GuideError: one is empty, or there twice.
    """
    names = [name.strip() for name in text.split(",")] if text.strip() else []
    for index, name in enumerate(names):
        if not name or name in names[:index]:
            raise GuideError(f"guides {text!r}: {name!r} is {'there twice' if name else 'no name'}; list each once")
    return tuple(names)


def guide_digest(name: str) -> str:
    """Return the SHA-256 of a guide's files: of its weights, and of what lies beside them about how it is fed.

    Raises:
        GuideError: it is unknown, or a file cannot be read.
    """
    if name == DLIB.name:
        return DLIB.sha256
    if name in FETCHED:
        return FETCHED[name].sha256
    if name == "probe":  # a part of the recipe's own weights
        return weights_digest()
    if own := own_path(name):
        return shipped_sums()[own.name]
    if name.endswith(".onnx"):
        path = Path(name).expanduser()
        files = [path, *(one for one in (path.with_suffix(".json"), path.with_name("models.json")) if one.exists())]
        files = files[:2]  # the one that is read
    elif folder := pack_folder(name):
        files = sorted(folder.glob("*.onnx"))
    else:
        known = ", ".join(["dlib", "probe", *own_names(), *FETCHED])
        raise GuideError(
            f"no guide named {name!r}: use one of {known}, an ONNX file (a path that ends in .onnx), or an InsightFace "
            f"pack (its folder, or its name in {PACKS})"
        )
    digests = {file: _digest(file) for file in files}
    for file, digest in digests.items():
        if not digest:
            raise GuideError(f"guide {file} cannot be read: name an ONNX file that is there")
    return hashlib.sha256(" ".join(digests.values()).encode()).hexdigest()


def check_present(name: str) -> None:
    """Raise GuideError where a guide that is known by name is not on this machine; files are told by their digests."""
    if name == DLIB.name and not DLIB_FILE.exists():
        raise GuideError(f"guide 'dlib' has lost its network, {DLIB_FILE}: {CURE}")
    if name in FETCHED and not fetched_path(FETCHED[name]).exists():
        raise GuideError(f"guide {name!r} is not here yet: fetch it with `apf guides pull {name}`")


def pack_folder(name: str) -> Path | None:
    """Return the folder of an InsightFace pack by its name or path; None where there is none."""
    return next((folder for folder in (Path(name).expanduser(), PACKS.expanduser() / name) if folder.is_dir()), None)
