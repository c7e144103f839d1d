"""Photos a second of ours, of the obvious design, and of a Fawkes-like optimisation: figure 6 of the issue.

    python -m tests.benchmarks.bench_peers [--short] [--megapixels 1 12] [--faces 1] [--photos 24] [--turns 3]

On the same photos, over the same Redis and the same S3 store on loopback (Swift where it is installed):

- ours: `apf worker` with its default settings, one worker, the whole batch submitted at once;
- plain: Celery with one message a photo, its default pool of a process for each core, a plain function that downloads,
  calls `apf.protect_photo` and uploads (`plain_celery.py`); the filter is loaded once in each process;
- plain, loading: the same with the filter loaded in each call, as it is written first;
- Fawkes-like: one photo after the other, from bytes to bytes, without queue or store; a hundred steps of Adam for its
  faces by all cores (`apf.research.evaluate.rivals.fawkes`), on the first recogniser of `--models`, or on our own small
  probe where there is none. The tool of that name takes about a minute a photo.

All are warm before the clock runs: every process has loaded, and done a photo. They take turns, and a ratio is of one
turn. A turn ends when the last output can be listed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from apf.attack.bound import Bound
from apf.attack.paste import paste
from apf.attack.perturbation import Change
from apf.faces.alignment import align, alignment
from apf.filters.load import load_filter
from apf.filters.torch_filter import Filter
from apf.photo import decode, encode
from apf.research.evaluate.rivals import fawkes
from apf.research.model_list import load_recognisers
from producer import Client
from tests.benchmarks import plain_celery
from tests.benchmarks.photos import FACE_HEIGHT, jpeg, real_faces
from tests.benchmarks.processes import APF, running, running_redis
from tests.benchmarks.record import MODELS, cores, record, table
from tests.benchmarks.services import own_credentials, store
from tests.conftest import ANY_PLACE, RedisServer, S3Server

OURS, PLAIN, LOADING, FAWKES = "ours", "plain Celery", "plain Celery, loading in each call", "Fawkes-like"
#: How many times as many photos ours does.
AIMS = {PLAIN: 3, FAWKES: 100}
#: Of each photo of ours, so many are given to who is slow.
SLOW = {LOADING: 4, FAWKES: 12}
#: Nobody takes longer for a turn.
PATIENCE_S = 1800

#: Photos to protect, to the seconds that it took.
Peer = Callable[[Sequence[bytes]], float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megapixels", type=float, nargs="+", default=[1, 12])
    parser.add_argument("--faces", type=int, choices=sorted(FACE_HEIGHT), default=1, help="of each photo")
    parser.add_argument("--photos", type=int, default=24, help="in each turn of ours")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--models", type=Path, default=MODELS, help="folder of ONNX recognisers with a models.json")
    parser.add_argument("--short", action="store_true", help="few small photos, one turn")
    asked = parser.parse_args()
    if asked.short:
        asked.megapixels, asked.photos, asked.turns = [1], 4, 1
    own_credentials()
    with peers(asked.models) as (where, found):
        rows = []
        for megapixels in asked.megapixels:
            photos = [jpeg(megapixels, asked.faces, seed) for seed in range(min(asked.photos, 6))]
            each = in_turns(found, [photos[n % len(photos)] for n in range(asked.photos)], asked.turns)
            rows += [{"megapixels": f"{megapixels:g}", **row} for row in compared(each)]
    print(f"JPEGs with {asked.faces} faces, {cores()} cores, {asked.turns} turns, {where}:\n\n{table(rows)}\n")
    record("peers", {"faces": asked.faces, "photos": asked.photos, "turns": asked.turns, "with": where, "peers": rows})


def in_turns(peers: Mapping[str, Peer], photos: Sequence[bytes], turns: int) -> dict[str, list[float]]:
    """Photos a second of each peer in each turn."""
    rates: dict[str, list[float]] = {name: [] for name in peers}
    for turn in range(turns):
        for name, peer in peers.items():
            given = photos[: max(1, len(photos) // SLOW.get(name, 1))]
            print(f"turn {turn + 1} of {turns}: {name}, {len(given)} photos", file=sys.stderr)
            rates[name].append(len(given) / peer(given))
    return rates


def compared(rates: Mapping[str, Sequence[float]]) -> list[dict[str, object]]:
    """A row for each peer, with how many times as many photos ours does, turn by turn."""
    rows = []
    for name, own in rates.items():
        ratios = [ours / theirs for ours, theirs in zip(rates[OURS], own, strict=True)]
        row: dict[str, object] = {"design": name, "photos/s": statistics.median(own), "min": min(own), "max": max(own)}
        if name != OURS:
            row |= {"ours is times": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}
        rows.append(row | ({"aim": AIMS[name]} if name in AIMS else {}))
    return rows


@contextmanager
def peers(models: Path) -> Iterator[tuple[str, dict[str, Peer]]]:
    """All of them, warm; and which store and which recogniser they have."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        broker = stack.enter_context(running_redis(folder))
        name, server = stack.enter_context(store())
        world = World(broker, server, server.new_bucket("peers"), folder)
        stack.enter_context(world.our_worker())
        stack.enter_context(world.plain_worker())
        cloak, extractor = fawkes_like(models)
        found = {OURS: world.ours, PLAIN: world.plain, LOADING: world.loading, FAWKES: cloak}
        small = jpeg(1, 1)
        for peer, photos in ((world.ours, 2), (world.plain, 4 * cores()), (cloak, 1)):
            peer([small] * photos)
        yield f"{name}, Fawkes-like on {extractor}", found


@dataclass
class World:
    """Redis, a bucket, and the workers on them."""

    broker: RedisServer
    server: S3Server
    bucket: str
    folder: Path
    #: Every turn has prefixes of its own, so that nothing is done already.
    turns: Iterator[int] = field(default_factory=count)

    def our_worker(self) -> Any:
        variables = {
            "APF_BROKER_URL": self.broker.url,
            "APF_S3_ENDPOINT_URL": self.server.endpoint_url,
            "APF_ALLOWED_URLS": f"s3://{self.bucket}",
            "APF_DEVICE": "cpu",
            **ANY_PLACE,
        }
        os.environ |= variables
        return running(APF, self.folder / "ours.log", variables, "worker", "--loglevel", "WARNING")

    def plain_worker(self) -> Any:
        # Another database of the same Redis: the two know nothing of each other.
        plain_celery.app.conf.broker_url = self.broker.url.replace("/0", "/1")
        variables = {"PLAIN_BROKER": plain_celery.app.conf.broker_url, "PLAIN_STORE": self.server.endpoint_url}
        command = [sys.executable, "-m", "celery", "-A", "tests.benchmarks.plain_celery", "worker"]
        return running(command, self.folder / "plain.log", variables)

    def ours(self, photos: Sequence[bytes]) -> float:
        turn = f"turn-{next(self.turns)}"
        self._put(f"{turn}/in", photos)
        started = time.perf_counter()
        Client().submit(f"s3://{self.bucket}/{turn}/in", f"s3://{self.bucket}/{turn}/out")
        return self._until_written(f"{turn}/out/", len(photos), started, "ours.log")

    def plain(self, photos: Sequence[bytes]) -> float:
        return self._plainly(plain_celery.protect, photos)

    def loading(self, photos: Sequence[bytes]) -> float:
        return self._plainly(plain_celery.protect_loading, photos)

    def _plainly(self, task: Any, photos: Sequence[bytes]) -> float:
        turn = f"turn-{next(self.turns)}"
        self._put(f"in/{turn}", photos)
        started = time.perf_counter()
        for number in range(len(photos)):
            task.delay(self.bucket, f"{turn}/{number:04}.jpg")
        return self._until_written(f"plain/{turn}/", len(photos), started, "plain.log")

    def _put(self, prefix: str, photos: Sequence[bytes]) -> None:
        for number, data in enumerate(photos):
            self.server.client.put_object(Bucket=self.bucket, Key=f"{prefix}/{number:04}.jpg", Body=data)

    def _until_written(self, prefix: str, photos: int, started: float, log: str) -> float:
        while (taken := time.perf_counter() - started) < PATIENCE_S:
            listed = self.server.client.list_objects_v2(Bucket=self.bucket, Prefix=prefix).get("Contents", [])
            if sum(item["Key"].endswith(".jpg") for item in listed) >= photos:
                return taken
            time.sleep(0.1)
        raise SystemExit(f"not done in {PATIENCE_S} s:\n{(self.folder / log).read_text()[-4000:]}")


def fawkes_like(models: Path) -> tuple[Peer, str]:
    """Photo by photo, from bytes to bytes; and the recogniser that it takes its features from."""
    ours = load_filter()
    extractor, name = first_recogniser(models)
    candidates = torch.from_numpy(np.stack(real_faces(6)))
    attack = fawkes(extractor, candidates, ours.recipe.epsilon, seed=0)

    def protect(data: bytes) -> bytes:
        photo = decode(data)
        matrices = [alignment(face.landmarks) for face in ours.detector.detect([photo.pixels])[0]]
        crops = np.stack([align(photo.pixels, matrix) for matrix in matrices])
        changes = [Change(delta) for delta in attack(torch.from_numpy(crops)).numpy() / ours.recipe.epsilon]
        allowed = Bound(ours.recipe.epsilon_levels, chroma=1, warp=0)
        return encode(photo, paste(photo.pixels, changes, matrices, allowed, grey=photo.grey))

    def peer(photos: Sequence[bytes]) -> float:
        started = time.perf_counter()
        for data in photos:
            protect(data)
        return time.perf_counter() - started

    return peer, name


def first_recogniser(models: Path) -> tuple[torch.nn.Module, str]:
    if not models.is_dir():
        return Filter.load().probe, "our probe"
    name, recogniser = next(iter(load_recognisers(models, role="train").items()))
    return recogniser, name


if __name__ == "__main__":
    main()
