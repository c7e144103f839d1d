"""Guides: recognisers that attack steps climb on. `Guide` is what the steps see; here it runs by ONNX Runtime."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
import onnx

from apf.errors import GuideError, WeightsError
from apf.faces.alignment import CROP, Float32
from apf.guides.gradient_graph import value_and_gradient
from apf.guides.input_spec import InputSpec
from apf.guides.input_transform import Feeding
from apf.runtime.onnx_session import RuntimeNetwork
from apf.stages.numpy_gradient import GRADIENT_ONNX
from apf.weight_files import WEIGHTS_DIR, check_file

#: Of networks whose embeddings of strangers are at right angles, as ArcFace's losses make them.
NO_CENTRE: Float32 = np.zeros(1, np.float32)
#: Cosine from which such networks take two faces for one person's, at a false accept rate of 1e-3 to 1e-2.
THRESHOLD = 0.3


class Guide(Protocol):
    """A recogniser that steps climb on. Crops are (N, 3, 112, 112) float32 RGB in [0, 1], on the ArcFace template.

    No face depends on those beside it, to the bit; threads may share a guide.
    """

    name: str
    #: SHA-256 of the weights' file.
    digest: str
    #: SHA-256 of the file's digest and of how it is fed: for a recipe's id.
    key: str
    #: How the network is fed: size, channels, template.
    spec: InputSpec
    #: The mean of different people's embeddings, (D,) or a plain 0 where it is not known.
    centre: Float32
    #: Two faces whose embeddings, less the centre, have at least this cosine are taken for one person's.
    threshold: float
    #: SHA-256 of the files of recognisers that it was taught to imitate.
    teachers: tuple[str, ...]

    def embed(self, crops: Float32) -> Float32:
        """Return unit embeddings, (N, D)."""
        ...

    def climb(self, crops: Float32, reference: Float32) -> tuple[Float32, Float32]:
        """Return the cosine of each crop's embedding with its reference, and that cosine's gradient by the crop.

        Args:
            reference: unit embeddings, (N, D), or (D,) for all.

        Returns:
            (N,) and (N, 3, 112, 112), float32.
        """
        ...


@dataclass(frozen=True)
class Source:
    """A recogniser's network, and where it is from."""

    name: str
    digest: str
    model: onnx.ModelProto
    spec: InputSpec
    centre: Float32 = field(default_factory=lambda: NO_CENTRE)
    threshold: float = THRESHOLD

    @property
    def teachers(self) -> tuple[str, ...]:
        """The SHA-256 of the recognisers' files that the network imitates, where its own file says so."""
        said = {entry.key: entry.value for entry in self.model.metadata_props}
        return tuple(said.get("teacher", "").split())

    @property
    def key(self) -> str:
        return hashlib.sha256(f"{self.digest} {self.spec.model_dump_json()}".encode()).hexdigest()


class RuntimeGuide:
    """A guide by ONNX Runtime, one face after the other on the calling thread.

    Raises:
        UnsupportedGuide: its network holds an operation whose gradient is not known.
        GuideError: it does not take faces as its spec says.
    """

    def __init__(self, source: Source) -> None:
        self.name, self.digest, self.key, self.spec = source.name, source.digest, source.key, source.spec
        self.centre, self.threshold, self.teachers = source.centre, source.threshold, source.teachers
        self._feeding = Feeding(source.spec)
        self._network = RuntimeNetwork(value_and_gradient(source.model, self._feeding.size))
        if not np.isfinite(self.embed(np.full((1, 3, CROP, CROP), 0.5, np.float32))).all():
            raise GuideError(f"guide {self.name!r} embeds a grey face as no number: its spec or its file is wrong")

    @cached_property
    def _embedding(self) -> RuntimeNetwork:
        return self._network.only("embedding")

    def embed(self, crops: Float32) -> Float32:
        found = [self._embedding(face=self._feeding.there(crop))["embedding"] for crop in checked(crops)]
        return np.concatenate(found) if found else np.zeros((0, 0), np.float32)

    def climb(self, crops: Float32, reference: Float32) -> tuple[Float32, Float32]:
        cosines, gradients = np.zeros(len(crops), np.float32), np.zeros((len(crops), 3, CROP, CROP), np.float32)
        references = np.broadcast_to(reference, (len(crops), reference.shape[-1]))
        for index, crop in enumerate(checked(crops)):
            found = self._network(face=self._feeding.there(crop), reference=references[index : index + 1])
            cosines[index], gradients[index] = found["cosine"][0, 0], self._feeding.back(found["gradient"])
        return cosines, gradients


class ProbeGuide:
    """The project's own probe, whose file of value and gradient ships."""

    name, spec, centre, threshold = "probe", InputSpec(), NO_CENTRE, 0.53
    teachers: tuple[str, ...] = ()

    def __init__(self) -> None:
        try:
            check_file(WEIGHTS_DIR, GRADIENT_ONNX)
            self._network = RuntimeNetwork.load(WEIGHTS_DIR / GRADIENT_ONNX)
        except WeightsError as error:
            raise GuideError(f"guide 'probe': {error}") from error
        self.digest = self.key = hashlib.sha256((WEIGHTS_DIR / "probe.safetensors").read_bytes()).hexdigest()

    @cached_property
    def _embedding(self) -> RuntimeNetwork:
        return self._network.only("embedding")

    def embed(self, crops: Float32) -> Float32:
        found = [self._embedding(face=crop[None])["embedding"] for crop in checked(crops)]
        return np.concatenate(found) if found else np.zeros((0, 0), np.float32)

    def climb(self, crops: Float32, reference: Float32) -> tuple[Float32, Float32]:
        cosines, gradients = np.zeros(len(crops), np.float32), np.zeros((len(crops), 3, CROP, CROP), np.float32)
        references = np.broadcast_to(reference, (len(crops), reference.shape[-1]))
        for index, crop in enumerate(checked(crops)):
            found = self._network(face=crop[None], own=references[index : index + 1])
            cosines[index] = found["embedding"][0] @ references[index]
            gradients[index] = -found["away"][0]
        return cosines, gradients


def checked(crops: Float32) -> Float32:
    """Raise ValueError where crops have another shape or type than guides take."""
    if crops.ndim != 4 or crops.shape[1:] != (3, CROP, CROP) or crops.dtype != np.float32:
        raise ValueError(f"crops must be (N, 3, {CROP}, {CROP}) float32, not {crops.shape} {crops.dtype}")
    return crops
