"""Find new and changed photos of a schedule, and the recipe that each part gets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice

from apf.exclusions import Exclusions
from apf.recipe import Recipe, make_recipe
from workers.batches.create import excluded_in
from workers.batches.plan import in_fraction, is_since
from workers.config.settings import Settings
from workers.core.clock import now
from workers.errors import Forbidden, InvalidKey, StoreFull
from workers.ledger.batch_ledger import Ledger
from workers.ledger.forgotten import forgotten_in
from workers.schedules.models import Piece, RecipeFields, Schedule, State
from workers.schedules.outcome import digest
from workers.store import ObjectInfo, Store
from workers.store.media_types import is_taken
from workers.store.output_metadata import carries

#: Outputs that are asked for at once, as many as `has_new` asks before it looks at the answers, and at the most.
HEADS_AT_ONCE, HEADS_A_TURN, MAX_HEADS = 16, 64, 1000

#: A store may say that a photo is older than it is by so much: an upload in parts bears the time at which it began.
MARGIN = timedelta(hours=1)

Wanted = tuple[Piece, Recipe]


def wanted_pieces(schedule: Schedule, state: State, settings: Settings) -> list[Wanted]:
    """All photos of the source, each once, with their recipes.

    Where a part of them has its recipe already, as after a rollout that ended, that part is a piece of its own.

    Raises:
        RecipeError: a recipe does not validate here.
    """
    main = _recipe(schedule.recipe, settings)
    if schedule.rollout:
        new = _recipe(schedule.rollout.recipe, settings)
        return _cut(schedule, new, main, schedule.rollout.fraction)
    whole = Piece(identity=identity(main, schedule))
    if schedule.on_change and not is_covered(whole, state.covered):
        cuts = [p.fraction for p in state.covered if p.identity == whole.identity]
        if cuts:
            return _cut(schedule, main, main, cuts[0])
    return [(whole, main)]


def is_covered(piece: Piece, covered: Sequence[Piece]) -> bool:
    """Return whether all its photos have their recipe already, but for those that came later."""
    return any(one.holds(piece) for one in covered)


def merged(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    """Merge the two sides of a cut: all photos where they have one recipe."""
    identities = {piece.identity for piece in pieces}
    if len(pieces) == 2 and len(identities) == 1:
        return (Piece(identity=identities.pop()),)
    return tuple(pieces)


def identity(recipe: Recipe, schedule: Schedule) -> str:
    """Return what tells recipes apart: all of them, or, without these where no run waits for other weights or code."""
    if not schedule.on_change or "recipe" in schedule.on_change:
        return recipe.id
    return recipe.model_copy(update={"weights": "", "version": 0}).id


def clock_of(source: Store) -> str:
    """Return the source's time as ISO 8601; this machine's where a folder may not be written to.

    Raises:
        StoreError: the source is gone, or does not answer.
    """
    next(source.list(), None)
    with suppress(Forbidden, StoreFull):
        return source.clock().astimezone(UTC).isoformat()
    return now().isoformat()


def since(state: State) -> str:
    """From when on a photo may be newer than what is covered."""
    return (datetime.fromisoformat(state.as_of) - MARGIN).isoformat() if state.as_of else ""


def has_new(
    schedule: Schedule, state: State, wanted: Sequence[Wanted], source: Store, destination: Store,
    keep: Callable[[], None], ledger: Ledger,
) -> bool:  # fmt: skip
    """Return whether the source holds a photo that no run has dealt with.

    One listing of the source, with its own times. The output is asked for of photos alone that are hardly older than
    the last run, which may have seen them or not; where they are more than `MAX_HEADS`, a run is to find out.

    Args:
        keep: called for each object.
    """
    known, start = set(state.without_output), since(state)
    exclusions = Exclusions(excluded_in(source, schedule.exclude))
    marks = forgotten_in(ledger)
    has_output = partial(_has_output, schedule=schedule, wanted=wanted, destination=destination)

    def doubtful() -> Iterator[ObjectInfo]:
        for info in source.list():
            keep()
            if marks and marks.name(info.key) in marks.every:
                continue
            taken = is_taken(info, private=schedule.private) and not exclusions.match(info.key)
            if taken and is_since(info, start) and digest(info.key, info.etag) not in known:
                yield info

    photos, asked = doubtful(), 0
    with ThreadPoolExecutor(HEADS_AT_ONCE) as pool:
        while some := list(islice(photos, HEADS_A_TURN)):
            keep()
            asked += len(some)
            if asked > MAX_HEADS or not all(pool.map(has_output, some)):
                return True
    return False


def _has_output(info: ObjectInfo, schedule: Schedule, wanted: Sequence[Wanted], destination: Store) -> bool:
    recipe = next(r for piece, r in wanted if lies_in(info.key, schedule.name, piece))
    any_weights = bool(schedule.on_change) and "recipe" not in schedule.on_change
    try:
        output = destination.head(info.key)
    except InvalidKey:
        return False
    return output is not None and carries(output.metadata, info.etag, None if any_weights else recipe.id)


def lies_in(key: str, schedule: str, piece: Piece) -> bool:
    """Return whether a photo is among the piece's."""
    return in_fraction(key, schedule, piece.fraction) is (piece.part == "fraction")


def _recipe(fields: RecipeFields, settings: Settings) -> Recipe:
    return make_recipe(fields, detector=settings.detector)


def _cut(schedule: Schedule, inner: Recipe, outer: Recipe, fraction: float) -> list[Wanted]:
    return [
        (Piece(part="fraction", fraction=fraction, identity=identity(inner, schedule)), inner),
        (Piece(part="rest", fraction=fraction, identity=identity(outer, schedule)), outer),
    ]
