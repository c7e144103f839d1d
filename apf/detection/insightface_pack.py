"""The detector of an InsightFace pack (`buffalo_l`, ...), through insightface's own loader."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from apf.detection.tiling import Found
from apf.errors import DetectorError
from apf.extras import lacking
from apf.faces.alignment import UInt8
from apf.guides.catalogue import PACKS
from apf.runtime.onnx_check import check_folder

#: SCRFD's usual threshold is 0.5; lower for the reason that CenterFace's is.
THRESHOLD = 0.4


class InsightFacePack:
    """A `Network` that is an InsightFace pack's detection model."""

    #: The side that the packs' detectors are made for.
    tile = 640

    def __init__(self, name: str, device: str) -> None:
        folder = _folder(name)
        # It prints what it loads; standard output belongs to the command.
        with contextlib.redirect_stdout(io.StringIO()):
            self._app = _open(folder, device, self.tile)

    def find(self, tiles: Sequence[UInt8]) -> list[Found]:
        """Faces in each (h, w, 3) uint8 RGB tile, with boxes inside the tile."""
        return [self._find(tile) for tile in tiles]

    def _find(self, tile: UInt8) -> Found:
        faces = self._app.get(np.ascontiguousarray(tile[..., ::-1]))
        boxes = np.array([face.bbox for face in faces], np.float32).reshape(-1, 4)
        height, width = tile.shape[:2]
        boxes = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
        shown = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        landmarks = np.array([face.kps for face in faces], np.float32).reshape(-1, 5, 2)
        scores = np.array([face.det_score for face in faces], np.float32)
        return Found(boxes[shown], landmarks[shown], scores[shown])


def _folder(name: str) -> Path:
    """Return the pack's folder. insightface would try to download a missing one; a worker should not."""
    given = Path(name).expanduser()
    for folder in (given, PACKS.expanduser() / name):
        if folder.is_dir() and any(folder.glob("*.onnx")):
            return folder
    raise DetectorError(
        f"no detector named {name!r}: it is neither 'centerface' nor 'yunet' nor a folder with ONNX files. "
        f"Unpack the InsightFace pack into {PACKS / name}, or name its folder"
    )


def _open(folder: Path, device: str, side: int):  # type: ignore[no-untyped-def]  # insightface has no types
    kind, _, index = device.partition(":")
    providers = ["CUDAExecutionProvider"] if kind == "cuda" else []
    try:
        from insightface.app import FaceAnalysis  # noqa: PLC0415 - slow to import, and only this detector needs it

        check_folder(folder)  # what lies there is opened by its path, with all that it names
        app = FaceAnalysis(
            name=str(folder), allowed_modules=["detection"], providers=[*providers, "CPUExecutionProvider"]
        )
        app.prepare(ctx_id=int(index or 0) if kind == "cuda" else -1, det_size=(side, side), det_thresh=THRESHOLD)
    except ModuleNotFoundError as error:
        raise DetectorError(f"the InsightFace pack in {folder} cannot be loaded: {lacking('gpu') or error}") from error
    except Exception as error:  # of onnxruntime, protobuf, insightface's own asserts, ...
        raise DetectorError(f"the InsightFace pack in {folder} cannot be loaded: {error!r}") from error
    if not app.det_model.use_kps:
        raise DetectorError(f"the detector of the pack in {folder} gives no landmarks: choose another pack")
    return app
