"""Estimate a batch before it is asked for: photos, pixels, faces, time, requests and money. Nothing is written.

Formulas and prices are those of docs/scale.md. Whatever is assumed and not measured is said so.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace

from apf.exclusions import Exclusions
from apf.recipe import Recipe, load_recipe
from workers.access.sources import check_places, find_source
from workers.batches.create import BatchOptions, check_ledger_place, excluded_in
from workers.batches.past_work import Past, past_work
from workers.batches.plan import work_of_steps
from workers.config.settings import Settings
from workers.core.records import PhotoRef
from workers.errors import BadRequest, InvalidKey, NotFound, StoreError
from workers.ledger.batch_ledger import Ledger, all_of, ledger_url
from workers.ledger.forgotten import forgotten_in
from workers.store import ObjectInfo, Store, canonical_url, open_store, parent_url
from workers.store.media_types import estimated_megapixels, is_taken
from workers.store.output_metadata import carries
from workers.store.photo_size import FIRST_BYTES, pixels_in

#: Photos whose headers are read, and outputs that are asked for.
SAMPLE = 200
#: Where nothing says how many faces a photo has.
ASSUMED_FACES = 1.0
#: Part of a worker's time that it spends at photos; requests of a shard, and of a mark that a worker lives.
EFFICIENCY, SHARD_READS, SHARD_WRITES, MARK_READS, MARK_WRITES = 0.9, 9, 4, 2, 1

#: How many faces photos have, on average, by looking at some; None: none could be looked at.
CountFaces = Callable[[Store, Sequence[str]], float | None]


@dataclass(frozen=True, kw_only=True)
class Prices:
    """In US dollars of 2025, of a large cloud without any discount."""

    worker_hour: float = 0.08
    million_writes: float = 5.0
    million_reads: float = 0.4
    tb_month: float = 23.0

    @classmethod
    def of(cls, given: Sequence[str]) -> Prices:
        """Return them with some changed, as `worker-hour=0.03`; raises BadRequest."""
        names = {one.name.replace("_", "-"): one.name for one in fields(cls)}
        changed = {}
        for text in given:
            name, _, value = text.partition("=")
            try:
                changed[names[name]] = float(value)
            except (KeyError, ValueError):
                raise BadRequest(f"{text!r} is no price: write {'=USD, '.join(names)}=USD") from None
        return replace(cls(), **changed)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a batch would be and cost. Figures are of the photos that have no output yet, but for the first three."""

    #: That the batch would plan; those with an output of this version and recipe; and those that were forgotten.
    photos: int
    done: int
    forgotten: int
    bytes: int
    megapixels: float
    faces: float
    #: Of one worker, at all of them.
    work_s: float
    #: That listen now; None: not known.
    workers: int | None
    #: Until the end, on these.
    wall_s: float | None
    shards: int
    reads: int
    writes: int
    computing_usd: float
    requests_usd: float
    keeping_usd_month: float
    #: What is assumed, and from what the rest was measured: for people.
    because: tuple[str, ...]

    def as_dict(self) -> dict[str, object]:
        """Plain values, for JSON."""
        return asdict(self)


def estimate(
    source: str,
    destination: str,
    asked: BatchOptions,
    settings: Settings,
    *,
    workers: int | None,
    photos: Sequence[str] | None = None,
    prices: Prices | None = None,
    count_faces: CountFaces | None = None,
) -> Estimate:
    """Return what `apf protect` of this would do.

    Args:
        workers: that listen for it; None: not known.
        photos: keys below the source; None: all that there are.
        count_faces: looks at a sample of photos, where that can be done here.

    Raises:
        As `workers.batches.create.new_batch`, and `workers.access.sources.find_source`.
    """
    found = find_source(source, settings, private=asked.private)
    place = canonical_url(destination)
    check_ledger_place(place, settings)
    check_places(found.url, place, settings, found.photo)
    recipe = asked.recipe if isinstance(asked.recipe, Recipe) else load_recipe(asked.recipe, detector=settings.detector)
    store = open_store(found.url, s3=settings.s3)
    named = [found.photo.key] if found.photo else photos
    ledger = _ledger(place, settings)
    survey = _Survey()
    for info in _wanted(store, named, asked, ledger, survey):
        survey.take(info)
    past = past_work(ledger, recipe) if ledger else Past()
    return _added_up(survey, store, place, recipe, asked, settings, workers, past, prices or Prices(), count_faces)


class _Survey:
    """Sums over a listing, and a sample of it that is kept in bounded memory."""

    def __init__(self) -> None:
        self.photos = self.bytes = self.forgotten = 0
        self.megapixels = 0.0
        self.sample: list[ObjectInfo] = []
        # Always the same sample: two runs tell the same.
        self._random = random.Random(0)  # noqa: S311  no secret

    def take(self, info: ObjectInfo) -> None:
        self.photos += 1
        self.bytes += info.size
        self.megapixels += _guessed(info)
        if len(self.sample) < SAMPLE:
            self.sample.append(info)
        elif (place := self._random.randrange(self.photos)) < SAMPLE:
            self.sample[place] = info


def _added_up(
    survey: _Survey,
    store: Store,
    destination: str,
    recipe: Recipe,
    asked: BatchOptions,
    settings: Settings,
    workers: int | None,
    past: Past,
    prices: Prices,
    count_faces: CountFaces | None,
) -> Estimate:
    because: list[str] = []
    share_left = 1.0 - _done_share(survey.sample, destination, recipe, settings, because)
    todo = round(survey.photos * share_left)
    megapixels = survey.megapixels * share_left * _header_factor(store, survey.sample, because, private=asked.private)
    looked = count_faces(store, [info.key for info in survey.sample]) if count_faces and not asked.private else None
    faces = _faces_each(looked, past, because) * todo
    each_s = past.seconds_a_photo or _table_s(megapixels / todo, faces / todo, recipe) if todo else 0.0
    because.append(
        f"{each_s:.2f} s a photo by what {past.photos} photos took with this recipe"
        if past.seconds_a_photo
        else f"assumed: {each_s:.2f} s a photo, by the table of docs/performance.md, of a worker with two cores"
    )
    work_s = each_s * todo
    photo_work = megapixels / max(todo, 1) + (0 if asked.private else work_of_steps(recipe))
    per_shard = min(settings.shard_photos, settings.shard_megapixels / max(photo_work, 0.01))
    shards = math.ceil(survey.photos / max(1.0, per_shard))
    marks = work_s / EFFICIENCY / (settings.progress_interval_s or math.inf)
    reads = round(survey.photos + shards * SHARD_READS + marks * MARK_READS)
    writes = round(todo + shards * SHARD_WRITES + marks * MARK_WRITES + survey.photos / 1000)
    return Estimate(
        photos=survey.photos,
        done=survey.photos - todo,
        forgotten=survey.forgotten,
        bytes=round(survey.bytes * share_left),
        megapixels=round(megapixels, 1),
        faces=round(faces, 1),
        work_s=round(work_s, 1),
        workers=workers,
        wall_s=round(work_s / EFFICIENCY / workers, 1) if workers else None,
        shards=shards,
        reads=reads,
        writes=writes,
        computing_usd=round(work_s / EFFICIENCY / 3600 * prices.worker_hour, 2),
        requests_usd=round(writes / 1e6 * prices.million_writes + reads / 1e6 * prices.million_reads, 2),
        keeping_usd_month=round(survey.bytes * share_left / 1e12 * prices.tb_month, 2),
        because=tuple(because),
    )


def _ledger(destination: str, settings: Settings) -> Ledger | None:
    """Return the destination's ledger, where there is one: nothing is made."""
    root, (prefix,) = parent_url(ledger_url(destination, settings.ledger_root), 1)
    with suppress(NotFound):
        return Ledger(open_store(root, s3=settings.s3), prefix)
    return None


def _wanted(
    store: Store, named: Sequence[str] | None, asked: BatchOptions, ledger: Ledger | None, survey: _Survey
) -> Iterator[ObjectInfo]:
    exclusions = Exclusions(() if named is not None else excluded_in(store, asked.exclude))
    marks = forgotten_in(ledger) if ledger and not asked.include_forgotten else None
    listed: Iterable[ObjectInfo | None] = store.list() if named is None else all_of(store.head, sorted(set(named)))
    for info in listed:
        if info is None or not is_taken(info, private=asked.private) or exclusions.match(info.key):
            continue
        if marks and marks.name(info.key) in marks.every:
            survey.forgotten += 1
            continue
        yield info


def _done_share(
    sample: Sequence[ObjectInfo], destination: str, recipe: Recipe, settings: Settings, because: list[str]
) -> float:
    try:
        store = open_store(destination, s3=settings.s3)
    except NotFound:
        return 0.0

    def is_done(info: ObjectInfo) -> bool:
        with suppress(InvalidKey):
            output = store.head(info.key)
            return output is not None and carries(output.metadata, info.etag, recipe.id)
        return False

    done = sum(all_of(is_done, sample))
    if done and len(sample) == SAMPLE:
        because.append(f"done already: {done} of {SAMPLE} photos that were asked after")
    return done / len(sample) if sample else 0.0


def _header_factor(store: Store, sample: Sequence[ObjectInfo], because: list[str], *, private: bool) -> float:
    """Return by how much the sample's headers say more megapixels than its bytes let guess."""
    if private:
        return 1.0

    def read(info: ObjectInfo) -> int | None:
        with suppress(StoreError):
            return pixels_in(store.start(info.key, FIRST_BYTES))
        return None

    known = [(info, pixels) for info, pixels in zip(sample, all_of(read, sample), strict=True) if pixels]
    guessed = sum(_guessed(info) for info, _ in known)
    if not guessed:
        because.append("assumed: megapixels by the files' sizes, as no header could be read")
        return 1.0
    because.append(f"megapixels by the headers of {len(known)} photos")
    return sum(pixels for _, pixels in known) / 1e6 / guessed


def _guessed(info: ObjectInfo) -> float:
    return estimated_megapixels(PhotoRef(key=info.key, etag=info.etag, size=info.size))


def _faces_each(looked: float | None, past: Past, because: list[str]) -> float:
    if looked is not None:
        because.append(f"{looked:.2f} faces a photo by looking at some of these")
        return looked
    if past.faces_a_photo is not None:
        because.append(
            f"{past.faces_a_photo:.2f} faces a photo as in {past.photos} that were protected into DST before"
        )
        return past.faces_a_photo
    because.append(f"assumed: {ASSUMED_FACES:g} face a photo, as nobody has looked at any")
    return ASSUMED_FACES


def _table_s(megapixels: float, faces: float, recipe: Recipe) -> float:
    """Return what a photo takes two cores, fitted to the tables of docs/performance.md."""
    steps = 1.1 / 40 * recipe.steps * min(2, len(recipe.guides))
    return 0.03 + 0.08 * min(megapixels, 4.0) + 0.008 * megapixels + faces * (0.05 + steps)
