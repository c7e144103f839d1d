"""The filter as the shard pipeline sees it; it loads with the first photo, not before."""

from __future__ import annotations

import logging
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict

from apf.extras import has_gpu_driver, lacking
from apf.recipe import Recipe
from apf.runtime.cores import cores
from apf.runtime.stage_clock import StageClock
from workers.config.settings import Settings

if TYPE_CHECKING:
    from apf.photo import Header, Limits, Photo
    from apf.protect.pipeline import ProtectedPixels
    from workers.decoding.decoder_pool import Decoder

log = logging.getLogger(__name__)

#: Address space of a decoder, or encoder: libraries and their threads, and the largest photo with its work space.
DECODER_BASE_BYTES, DECODER_BYTES_PER_PIXEL = 2**30, 24


#: Bytes a decoded pixel holds on its way: RGB and alpha, its protected copy, and the encoder's work space.
BYTES_PER_PIXEL = 4 + 3 + 4
#: The same where a photo is protected in place.
BYTES_PER_PIXEL_IN_PLACE = 4 + 4


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost of a file, known before it is decoded."""

    #: Of its output.
    content_type: str
    #: Bytes that it holds from its decoding until its output is written.
    held: int
    #: Of the photo; 0 where it is not here.
    megapixels: float
    #: The filter's work, in megapixels of photos that take it as long.
    work: float


class Result(Protocol):
    """The filter's result for a file."""

    @property
    def outcome(self) -> str: ...

    @property
    def faces(self) -> Sized: ...


class Engine(Protocol):
    """The operations of a shard on its files. Decoding and encoding run in many threads.

    `Any` stands for the engine's own form of a decoded file and of its result.
    """

    #: Calls of `protect` that may run side by side. With one, it is given as many files at once as are ready; with
    #: several, each is given one file, so that none waits for another.
    lanes: int

    def estimate_cost(self, data: bytes) -> Cost:
        """Return what the file will cost, without decoding; raises PhotoError where it is refused."""
        ...

    def decode(self, data: bytes) -> Any: ...

    def protect(self, files: Sequence[Any], clock: StageClock) -> Sequence[Result]: ...

    def encode(self, result: Any) -> bytes: ...


def cost_of(photo: Header, bytes_per_pixel: int = BYTES_PER_PIXEL) -> Cost:
    megapixels = photo.pixels / 1e6
    return Cost(
        content_type=photo.content_type, held=photo.pixels * bytes_per_pixel, megapixels=megapixels, work=megapixels
    )


class FilterEngine:
    """The one for photos: `apf` on this machine's device."""

    def __init__(self, recipe: Recipe, settings: Settings, clock: StageClock) -> None:
        self._decoder = shared_decoder(settings)
        self._decoder.start()  # beside what is loaded here
        with clock.stage("libraries"):
            from apf.filters.load import load_filter  # noqa: PLC0415  what it takes loads with the first photo
        with clock.stage("networks"):
            self._filter = load_filter(recipe, **placement(settings))
        with clock.stage("guides"):
            _ = self._filter.guides  # a missing guide fails here, too
        with clock.stage("detector"):
            _ = self._filter.detector  # a missing detector fails here, not at the first photo
        with clock.stage("decoders"):
            self._decoder.check()  # a cage that is required and not to be had fails here, too
        self.lanes = 1 if self._filter.batched else cores()
        self._limits = photo_limits(settings)

    def estimate_cost(self, data: bytes) -> Cost:
        per_pixel = BYTES_PER_PIXEL if self.lanes == 1 else BYTES_PER_PIXEL_IN_PLACE
        return cost_of(self._decoder.header(data, self._limits), per_pixel)

    def decode(self, data: bytes) -> Photo:
        return self._decoder.decode(data, self._limits, self._filter.recipe.keep_metadata)

    def protect(self, files: Sequence[Photo], clock: StageClock) -> list[ProtectedPixels]:
        from apf.protect.pipeline import protect_batch  # noqa: PLC0415

        # Several photos are tried again one by one when one of them fails, so they have to stay as they are.
        return protect_batch(files, self._filter, clock, in_place=len(files) == 1)

    def encode(self, result: ProtectedPixels) -> bytes:
        floor = self._filter.recipe.jpeg_floor_quality
        return self._decoder.encode(result.photo, result.pixels, jpeg_floor_quality=floor)


@lru_cache(maxsize=1)
def shared_decoder(settings: Settings) -> Decoder:
    """Return the process's decoder, whatever the recipe."""
    from workers.decoding.decoder_pool import Decoder  # noqa: PLC0415

    return Decoder(
        processes=min(settings.read_threads, cores()),
        encoders=min(settings.write_threads, cores()),
        cage=settings.decoder_cage,
        limit_s=settings.decode_limit_s,
        memory_bytes=DECODER_BASE_BYTES + DECODER_BYTES_PER_PIXEL * settings.max_photo_pixels,
    )


def photo_limits(settings: Settings) -> Limits:
    """Return the limits of one photo in bytes and pixels."""
    from apf.photo import Limits  # noqa: PLC0415  image libraries load with the first photo

    return Limits(max_bytes=settings.max_photo_bytes, max_pixels=settings.max_photo_pixels)


class Placement(TypedDict):
    """Where and how a filter runs, as `load_filter` takes it."""

    device: str
    precision: Literal["auto", "float32", "bfloat16"]
    graphs: bool


def placement(settings: Settings) -> Placement:
    """Return what the settings say of it; a CPU always computes in float32."""
    device = usable_device(settings.device)
    precision = settings.precision if device.startswith("cuda") else "float32"
    return Placement(device=device, precision=precision, graphs=settings.cuda_graphs)


def usable_device(name: str) -> str:
    """Return the device of a setting, as torch names it; "auto" is a GPU where there is one."""
    if name != "auto":
        return name
    if not has_gpu_driver():
        return "cpu"
    if reason := lacking("gpu"):
        log.warning("a GPU's driver is here, and %s; photos are protected on the CPU", reason)
        return "cpu"
    import torch  # noqa: PLC0415  takes seconds

    return "cuda" if torch.cuda.is_available() else "cpu"
