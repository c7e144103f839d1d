"""`python -m tests.benchmarks.bench_cage`: what the cage around decoders costs, of a photo of a megapixel with a face.

Photos are decoded, protected and encoded as a worker does it, in turns with the cage and without, and with decoders
that are made anew for each photo, as for a tenant with one upload. Processor seconds of all processes count, which
hardly depend on what else the machine does. Besides: what it takes to start, and what memory decoders hold.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import skimage.data
from PIL import Image

from apf.filters.load import PhotoFilter, load_filter
from apf.photo import Limits
from apf.protect.pipeline import protect_batch
from tests.benchmarks.record import record, table
from workers.config.settings import Settings
from workers.core.log_context import log_context
from workers.decoding.decoder_pool import Decoder
from workers.decoding.sandbox import Wanted
from workers.execution.engine import placement

#: Decoder of a worker by default (`workers.execution.engine`).
MEMORY_BYTES = 2**30 + 24 * 200_000_000


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=8, help="of each kind in each turn")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--recipe", default="standard")
    asked = parser.parse_args(arguments)
    starts = {cage: start_s(cage) for cage in ("require", "off")}
    decoders = {cage: decoder(cage) for cage in ("require", "off")}
    loaded = load_filter(asked.recipe, **placement(Settings()))
    data = a_megapixel()
    try:
        costs = in_turns(kinds(decoders, loaded, data), asked.photos, asked.turns)
        memory = memory_mb()
    finally:
        for one in decoders.values():
            one.close()
    whole = costs["a photo"]
    rows = [row(kind, costs, whole) for kind in costs]
    print(f"{table(rows)}\n\nstart, s: {starts}; memory, MB: {memory}\n")
    record("cage", {"processor_ms": {kind: median_ms(found) for kind, found in costs.items()},
                    "of_a_photo": shares(costs), "start_s": starts, "memory_mb": memory})  # fmt: skip


def decoder(cage: Wanted) -> Decoder:
    return Decoder(processes=1, encoders=1, limit_s=60, memory_bytes=MEMORY_BYTES, cage=cage)


def a_megapixel() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(skimage.data.astronaut()).resize((1152, 864)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def kinds(decoders: dict[Wanted, Decoder], loaded: PhotoFilter, data: bytes) -> dict[str, Callable[[int], Any]]:
    """What is measured, each of one photo; the number makes each tenant another."""

    def coded(cage: Wanted, tenant: str = "") -> Any:
        with log_context(tenant=tenant):
            decoders[cage].header(data, Limits())
            photo = decoders[cage].decode(data, Limits(), ())
            return decoders[cage].encode(photo, photo.pixels, jpeg_floor_quality=75)

    def whole(_: int) -> None:
        photo = decoders["require"].decode(data, Limits(), ())
        (found,) = protect_batch([photo], loaded, in_place=True)
        decoders["require"].encode(found.photo, found.pixels, jpeg_floor_quality=75)

    return {
        "decoded and encoded, caged": lambda _: coded("require"),
        "decoded and encoded, not caged": lambda _: coded("off"),
        "the same, caged, a new tenant each": lambda number: coded("require", str(number)),
        "a photo": whole,
    }


def in_turns(each: dict[str, Callable[[int], Any]], photos: int, turns: int) -> dict[str, list[float]]:
    """Processor seconds a photo, turn by turn; the first, which loads, does not count."""
    found: dict[str, list[float]] = {kind: [] for kind in each}
    for turn in range(turns + 1):
        for kind, run in each.items():
            before = processor_s()
            for number in range(photos):
                run(1 + turn * photos + number)
            found[kind] += [(processor_s() - before) / photos] if turn else []
    return found


def processor_s() -> float:
    """Of this process and all below it; of decoders that have ended, the process that made them tells."""
    total = time.process_time()
    for one in psutil.Process().children(recursive=True):
        used = one.cpu_times()
        total += used.user + used.system + used.children_user + used.children_system
    return total


def median_ms(found: Sequence[float]) -> float:
    return round(1000 * statistics.median(found), 2)


def shares(costs: dict[str, list[float]]) -> dict[str, float]:
    """Turn by turn, what the cage, and a new tenant, add to a photo."""
    caged, bare, anew, whole = costs.values()
    return {
        "cage": statistics.median((a - b) / c for a, b, c in zip(caged, bare, whole, strict=True)),
        "tenant": statistics.median((a - b) / c for a, b, c in zip(anew, caged, whole, strict=True)),
    }


def row(kind: str, costs: dict[str, list[float]], whole: Sequence[float]) -> dict[str, object]:
    found = costs[kind]
    return {
        "of one photo": kind,
        "processor ms": median_ms(found),
        "least": round(1000 * min(found), 2),
        "most": round(1000 * max(found), 2),
        "of a photo": statistics.median(a / b for a, b in zip(found, whole, strict=True)),
    }


def start_s(cage: Wanted) -> dict[str, float]:
    """From nothing to a decoder that answers; and to one more."""
    found = decoder(cage)
    try:
        started = time.perf_counter()
        found.check()
        first = time.perf_counter()
        with log_context(tenant="another"):
            found.check()
        return {"first": round(first - started, 3), "next": round(time.perf_counter() - first, 4)}
    finally:
        found.close()


def memory_mb() -> dict[str, float]:
    """Proportional share of each process below this one: what is shared counts once, spread over those who share."""
    names: dict[str, list[float]] = {"first process": [], "decoders": []}
    for child in psutil.Process().children():
        names["first process"].append(pss_mb(child.pid))
        names["decoders"] += [pss_mb(one.pid) for one in child.children()]
    return {name: round(statistics.mean(found), 1) for name, found in names.items() if found}


def pss_mb(process: int) -> float:
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:"))


if __name__ == "__main__":
    main()
