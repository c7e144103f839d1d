"""The device's side: a photo's gradients, and the protected photo from the server's answer. Without torch.

device = Device(load_recipe("standard"), load_key(default_path(), create=True))
question = device.gradients(photo)                  # goes to the server, and says nothing of the photo's name
answer = Perturbations.decode(reply)
protected = device.apply(photo, answer).data
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from apf.attack.bound import Bound
from apf.attack.canvas import Canvas
from apf.attack.perturbation import Change, in_colour
from apf.detection.detector import Detector, load_detector, load_light_detector
from apf.errors import OtherVersion, PrivateFileError, WeakPerturbation
from apf.faces.alignment import CROP, Face, Float32, Float64, align, alignment
from apf.photo import Limits, Photo, decode
from apf.private.files import Gradients, Perturbations, Terms, within
from apf.private.key import noise_seed, photo_id
from apf.private.quantise import DEFAULT, REACHED, Reduction
from apf.protect.publish import ProtectedPhoto, pasted, published
from apf.recipe import Recipe, check_private, other_version
from apf.stages.constants import CHANNELS
from apf.stages.numpy_gradient import LightProbe

#: How much of what the device reaches by itself, as a fall of the probe's similarity, an answer must reach. Of 40 faces
#: (as they are, dark, overexposed, grey; each recipe) honest answers reach 0.79 and more, with noise less, and the
#: universal perturbation 0.40 at most. `alone` needs no server, so an answer that does less is worth nothing.
LEAST_SHARE = 0.75
#: A face that the device itself can hardly change, such as a white one, says nothing of the server.
LEAST_FALL = 0.1


@dataclass(frozen=True, eq=False)
class _Seen:
    """A photo with its faces, each cut out."""

    photo: Photo
    faces: Sequence[Face]
    matrices: Sequence[Float64]
    crops: Sequence[Float32]
    #: How far each pixel of each crop may move, (112, 112), in units of the recipe's epsilon.
    bounds: Sequence[Float32]


class Device:
    """Computes gradients and applies perturbations, for one recipe.

    Args:
        recipe: both sides must use the same.
        key: the device's secret, as `load_key` gives it.
        reduction: what is taken away from the gradients before they leave.
        limits: the largest photo to take.

    Raises:
        RecipeError: the recipe has no private mode.
        OtherVersion, WeightsError, DetectorError, MissingExtra: the recipe's parts are not installed here.
    """

    def __init__(
        self, recipe: Recipe, key: bytes, *, reduction: Reduction = DEFAULT, limits: Limits | None = None
    ) -> None:
        check_private(recipe)
        if reason := other_version(recipe):
            raise OtherVersion(reason)
        self._recipe = recipe
        self._key = key
        self._reduction = reduction
        self._limits = limits or Limits()
        self._probe = LightProbe()
        self._detector: Detector = load_light_detector(recipe.detector) or load_detector(recipe.detector)

    def photo_id(self, data: bytes) -> str:
        """Return what this photo is called in all files of private mode."""
        return photo_id(self._key, data)

    def is_current(self, known: Gradients) -> bool:
        """Return whether gradients that were made earlier are what `gradients` would make today."""
        return known.terms == Terms.of(self._recipe) and known.reduction == self._reduction

    def gradients(self, data: bytes, *, name: str = "") -> Gradients:
        """Return what leaves the device: the reduced gradients of the photo's faces, none where there is no face.

        Args:
            data: an encoded photo.
            name: a name for the file to hold, for every reader of the file.

        Raises:
            PhotoError: the photo is corrupt, unsupported or too large.
        """
        seen = self._look(data)
        stages = self._recipe.stages
        found = [self._probe.gradient(crop, self._recipe.epsilon, stages) for crop in seen.crops]
        whole = np.stack(found) if found else np.zeros((0, CHANNELS, CROP, CROP), np.float32)
        return Gradients.of(
            self.photo_id(data),
            Terms.of(self._recipe),
            whole,
            **asdict(self._reduction),
            seed=noise_seed(self._key, data, self._reduction.noise),
            name=name,
        )

    def apply(self, data: bytes, answer: Perturbations, *, accept_weak: bool = False) -> ProtectedPhoto:
        """Return the protected photo, as the three modules alone protect it.

        The server is not trusted: no pixel moves by more than its bound (`apf.attack.bound`) whatever it answers, and
        an answer that changes the probe's mind much less than the device's own perturbation (`alone`) is refused.

        Raises:
            PhotoError: as `gradients`.
            PrivateFileError: the answer is to another photo, of another recipe, or for another number of faces.
            WeakPerturbation: it does not protect a face, and `accept_weak` is not set.
        """
        if answer.id != self.photo_id(data):
            raise PrivateFileError(
                "the perturbation is for another photo, or the photo has changed, or it was made with another "
                "device key: make the gradient anew, or give that key"
            )
        if difference := answer.terms.difference(Terms.of(self._recipe)):
            raise PrivateFileError(f"the perturbation was made for {difference}: use the same recipe on both sides")
        seen = self._look(data)
        if answer.faces != len(seen.faces):
            raise PrivateFileError(
                f"the perturbation is for {answer.faces} faces, and {len(seen.faces)} are found in the photo: "
                "make the gradient anew with this version"
            )
        deltas = answer.values()
        if not accept_weak:
            self._check_effect(seen, deltas)
        return self._published(seen, list(deltas), data)

    def without_face(self, data: bytes) -> ProtectedPhoto | None:
        """Return the photo as it is published where it shows no face, and no answer is needed; None where it shows one.

        Raises:
            PhotoError: the photo is corrupt, unsupported or too large.
        """
        seen = self._look(data)
        return None if seen.faces else self._published(seen, [], data)

    def alone(self, data: bytes) -> ProtectedPhoto:
        """Return the photo protected without any server: by the gradient and universal stages, and nothing leaves the
        device.

        Raises:
            PhotoError: the photo is corrupt, unsupported or too large.
        """
        seen = self._look(data)
        return self._published(seen, [self._own(crop) for crop in seen.crops], data)

    def _own(self, crop: Float32) -> Float32:
        """Return the perturbation that the device reaches by itself, (3, 112, 112)."""
        epsilon = self._recipe.epsilon
        return within(epsilon * self._probe.gradient(crop, epsilon, self._recipe.stages)[:REACHED], epsilon)

    def _published(self, seen: _Seen, deltas: Sequence[Float32], data: bytes) -> ProtectedPhoto:
        changes = [Change(delta / np.float32(self._recipe.epsilon)) for delta in deltas]
        protected = pasted(seen.photo, seen.faces, seen.matrices, changes, self._recipe)
        return published(protected, self._recipe, bytes_in=len(data))

    def _look(self, data: bytes) -> _Seen:
        photo = decode(data, self._limits, keep_metadata=self._recipe.keep_metadata)
        faces = self._detector.detect([photo.pixels])[0]
        matrices = [alignment(face.landmarks) for face in faces]
        allowed = Bound.of(self._recipe)
        bounds = [Canvas(photo.pixels, matrix, allowed).template_bound() / allowed.epsilon for matrix in matrices]
        return _Seen(photo, faces, matrices, [align(photo.pixels, matrix) for matrix in matrices], bounds)

    def _check_effect(self, seen: _Seen, deltas: Float32) -> None:
        for face, crop, bound, delta in zip(seen.faces, seen.crops, seen.bounds, deltas, strict=True):
            own = self._probe.embedding(crop)
            possible = self._fall(crop, own, self._own(crop) * bound, seen.photo)
            if possible >= LEAST_FALL and self._fall(crop, own, delta * bound, seen.photo) < LEAST_SHARE * possible:
                x1, y1, x2, y2 = (round(edge) for edge in face.box)
                raise WeakPerturbation(
                    f"the perturbation protects the face at x {x1} to {x2}, y {y1} to {y2} less than this device could "
                    "by itself: the server did not do its part, or the gradient had too much noise; `apf private "
                    "alone` protects the photo without a server, --accept-weak takes the answer all the same"
                )

    def _fall(self, crop: Float32, own: Float32, delta: Float32, photo: Photo) -> float:
        """By how much a perturbation lowers the probe's similarity of a face to its own embedding, 0 to 2."""
        change = in_colour(delta, 0.0 if photo.grey else self._recipe.chroma)
        changed = self._probe.embedding(np.clip(crop + change, 0, 1))
        return 1 - float(changed @ own)
