"""Validate batch options and create the batch record, with nothing planned yet."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Literal

from pydantic import ValidationError

from apf.errors import PatternError
from apf.exclusions import IGNORE_FILE, MAX_IGNORE_FILE_BYTES, Exclusions, patterns_in
from apf.recipe import DEFAULT_RECIPE, Recipe, check_jury, check_private, load_recipe
from workers.access.sources import check_folder, check_places
from workers.batches.plan import counted
from workers.config.settings import BESIDE_OUTPUTS, Settings
from workers.core.records import Batch, Lane, OnWeak, Part, PhotoRef, explain
from workers.errors import BadRequest, LedgerError, NotFound, ObjectTooLarge, SettingsError, StoreError, WorkerError
from workers.ledger.batch_ledger import Ledger, all_of, new_batch_id, open_ledger
from workers.ledger.forgotten import forgotten_among
from workers.ledger.open_batches import open_ids, register, roots, unregister
from workers.ledger.report_cache import open_shards
from workers.store import Store, canonical_url, inside, is_bucket, open_store
from workers.webhooks.ssrf import parse_target

log = logging.getLogger(__name__)


def find_ledger(destination: str, settings: Settings) -> Ledger:
    """Return the ledger of a destination's new batches."""
    return open_ledger(canonical_url(destination), ledger_url=settings.ledger_root, s3=settings.s3)


def ledgers_of(destination: str, settings: Settings) -> list[Ledger]:
    """Return the ledger of a destination's new batches, and the one beside its outputs that an older setting used."""
    ledgers = [find_ledger(destination, settings)]
    if settings.ledger_root:
        with suppress(NotFound):  # a folder that was never made
            ledgers.append(open_ledger(canonical_url(destination), s3=settings.s3))
    return ledgers


def find_batch(destination: str, batch_id: str | None, settings: Settings) -> tuple[Ledger, str]:
    """Return a batch that is there, and the ledger that it is in; None: the newest of the destination.

    Where APF_LEDGER_URL is a place of its own, batches from before it was lie beside their outputs.

    Raises:
        LedgerError: there is no such batch.
    """
    ledgers = ledgers_of(destination, settings)
    if batch_id:
        found = [(batch_id, ledger) for ledger in ledgers if ledger.has_batch(batch_id)]
        missing = f"there is no batch {batch_id!r} in {{}}: `apf status` without a batch shows the last"
    else:
        found = [(latest, ledger) for ledger in ledgers if (latest := ledger.latest())]
        missing = f"no batch was ever run into {destination}, by {{}}: check the destination, or APF_LEDGER_URL"
    if not found:
        raise LedgerError(missing.format(" or ".join(ledger.url for ledger in ledgers)))
    latest, ledger = max(found, key=lambda one: one[0])  # of two of one id, the one of the settings
    if ledger is not ledgers[0]:
        log.warning("batch %s is kept beside its outputs, in %s: APF_LEDGER_URL was set later", latest, ledger.url)
    return ledger, latest


def check_ledger_place(destination: str, settings: Settings) -> None:
    """Raise SettingsError where a new batch would publish its ledger, and no setting says that it may."""
    place = canonical_url(destination)
    if not is_bucket(place) or settings.ledger_url == BESIDE_OUTPUTS:
        return
    cures = (
        f"set APF_LEDGER_URL to a bucket or prefix that is not published, such as s3://ledgers, or to {BESIDE_OUTPUTS} "
        "where the destination is not published either"
    )
    if settings.ledger_root is None:
        raise SettingsError(
            f"nothing says where the ledger of {place} lies, which holds names, tenants and callbacks: {cures}"
        )
    if inside(canonical_url(settings.ledger_root), place):
        raise SettingsError(
            f"the ledger of {place} would lie inside it, in {settings.ledger_root}, with names, tenants and "
            f"callbacks: {cures}"
        )


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """Options of a batch, besides source and destination; fields as in `workers.core.records.Batch`."""

    #: light, standard, strong, a TOML file, or the recipe itself.
    recipe: str | Recipe = DEFAULT_RECIPE
    private: bool = False
    no_face: Literal["copy", "skip"] = "copy"
    overwrite: bool = False
    on_weak: OnWeak = "publish"
    include_forgotten: bool = False
    lane: Lane = "bulk"
    tenant: str = ""
    callback: str | None = None
    fraction: float = 1.0
    part: Part = "fraction"
    changed_since: str = ""
    again: frozenset[str] = frozenset()
    #: Patterns, besides those of the source's own file.
    exclude: tuple[str, ...] = ()
    schedule: str = ""
    #: As `workers.broker.client.choose_queue` gives it; empty: by hashes.
    queue: str = ""


def new_batch(
    source: str,
    destination: str,
    asked: BatchOptions,
    settings: Settings,
    *,
    batch_id: str | None = None,
    photo: PhotoRef | None = None,
    listed: bool = True,
) -> tuple[Ledger, Batch]:
    """Return a batch with nothing planned, checked and not yet written.

    Args:
        batch_id: its id; None makes a new one.
        photo: the one photo of the source that it is of; None for all, or for those that the caller names.
        listed: whether its photos are those that the source holds; where they are named, nothing is excluded.

    Raises:
        BadRequest: a field does not validate.
        OverlapError: source and destination overlap.
        NotAllowed: APF_ALLOWED_URLS is set, and one of the two lies outside.
        RecipeError: the recipe is unknown or malformed, has no private mode, or no jury to say that a face is weak.
        PatternError: a pattern that excludes photos is malformed.
        LedgerError: the id is none.
        CallbackError: the callback's URL is malformed; whether it may be reached is the workers' to say.
        StoreError: the source is missing.
        SettingsError: the destination is in a bucket, and nothing says where its ledger lies.
    """
    source, destination = canonical_url(source), canonical_url(destination)
    check_ledger_place(destination, settings)
    check_places(source, destination, settings, photo)  # here, and not photo by photo where workers run
    if asked.callback is not None:
        parse_target(asked.callback)
    recipe = asked.recipe
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, detector=settings.detector)
    if asked.private:
        check_private(recipe)
    exclude = excluded_in(open_store(source, s3=settings.s3), asked.exclude) if listed and not photo else ()
    exclude = _naming_none_forgotten(exclude, destination, settings)
    if photo:
        check_folder(destination)
    if asked.on_weak == "fail":
        check_jury(recipe, private=asked.private)
    open_store(destination, s3=settings.s3, create=True)
    facts = {
        **asdict(asked),
        "id": batch_id or new_batch_id(),
        "source": source,
        "destination": destination,
        "recipe": recipe,
        "exclude": exclude,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "max_shard_photos": settings.shard_photos,
        "max_shard_megapixels": settings.shard_megapixels,
    }
    if photo:
        facts["named"] = (photo,)
    try:
        batch = Batch.model_validate(facts)
        return find_ledger(destination, settings), counted(batch) if photo else batch
    except ValidationError as error:
        raise BadRequest(f"a batch cannot be asked for this: {explain(error)}") from error


def excluded_in(source: Store, patterns: Sequence[str]) -> tuple[str, ...]:
    """Return the patterns of the source's own file, and these after them.

    Raises:
        PatternError: one is malformed.
        StoreError: the file cannot be read.
    """
    own: tuple[str, ...] = ()
    with suppress(NotFound):
        where = f"{IGNORE_FILE} in {source.url}"
        try:
            own = patterns_in(source.get(IGNORE_FILE, max_bytes=MAX_IGNORE_FILE_BYTES).data, where)
        except ObjectTooLarge as error:
            raise PatternError(f"{where} is over {MAX_IGNORE_FILE_BYTES} bytes: merge its patterns") from error
    found = (*own, *patterns)
    Exclusions(found)
    return found


def _naming_none_forgotten(patterns: tuple[str, ...], destination: str, settings: Settings) -> tuple[str, ...]:
    """Return the patterns that do not name a forgotten photo, which is left out anyway."""
    if not patterns:
        return ()
    keys = {pattern.removeprefix("/") for pattern in patterns} - {""}
    with suppress(NotFound):  # a destination that is not made yet
        gone = forgotten_among(find_ledger(destination, settings), keys)
        return tuple(pattern for pattern in patterns if pattern.removeprefix("/") not in gone)
    return patterns


def create_batch(
    source: str, destination: str, asked: BatchOptions, settings: Settings, *, batch_id: str | None = None
) -> tuple[Ledger, Batch]:
    """`new_batch`, written and registered; one whose id is there already is left and returned as it is.

    Raises:
        As `new_batch`, and StoreError where the ledger cannot be written.
    """
    ledger, batch = new_batch(source, destination, asked, settings, batch_id=batch_id)
    if batch_id and ledger.has_batch(batch_id):
        return ledger, ledger.read_batch(batch_id)
    write_alone(ledger, batch, settings)
    return ledger, batch


def write_new(ledger: Ledger, batch: Batch, settings: Settings) -> None:
    """Register and write a batch of `new_batch`; raises StoreError."""
    if settings.broker_url and not roots(settings):
        log.warning("`apf beat` cannot know of batch %s: set APF_ALLOWED_URLS or APF_LEDGER_URL here, too", batch.id)
    # First: a batch that is registered and not there yet is passed over, one that is not registered is forgotten.
    register(ledger, batch, settings)
    ledger.write_batch(batch)


class AllForgotten(BadRequest):
    """Raised when all photos that are named were forgotten."""

    def __init__(self, destination: str) -> None:
        super().__init__(
            "what was named was forgotten, and is not protected again: let it be by apf remember "
            f"{destination} KEY, or protect it once by --include-forgotten (include_forgotten=True)"
        )


def check_not_forgotten(ledger: Ledger, batch: Batch) -> None:
    """Raise AllForgotten where a batch is of photos that are named, and all of them were forgotten."""
    keys = {ref.key for ref in batch.named}
    if keys and not batch.include_forgotten and forgotten_among(ledger, keys) == keys:
        raise AllForgotten(batch.destination)


class OtherRecipe(WorkerError):
    """Raised when another recipe is at work on the same destination: outputs of both would lie there, mixed."""


def write_alone(ledger: Ledger, batch: Batch, settings: Settings) -> None:
    """`write_new`, unless another recipe is at work on the destination; raises OtherRecipe, and leaves nothing then."""
    check_recipe(ledger, batch, settings)
    write_new(ledger, batch, settings)
    try:
        check_recipe(ledger, batch, settings)  # once more: of two at one moment each sees the other by now
    except WorkerError:
        with suppress(StoreError):
            ledger.forget_batch(batch.id)
            unregister(ledger, batch, settings)
        raise


def check_recipe(ledger: Ledger, batch: Batch, settings: Settings) -> None:
    """Raise OtherRecipe where an open batch of the same destination has another recipe.

    Parts of one schedule share the photos between them, and named photos are the caller's choice: neither counts.
    """
    if batch.named:
        return

    def mixed(batch_id: str) -> Batch | None:
        with suppress(LedgerError):  # of another destination, taken back, or no record of ours to read
            other = ledger.read_batch(batch_id)
            same_schedule = bool(batch.schedule) and batch.schedule == other.schedule
            is_mixed = not other.named and other.recipe.id != batch.recipe.id and not same_schedule
            return other if is_mixed and _is_open(ledger, other) else None
        return None

    others = all_of(mixed, sorted(open_ids(batch.destination, settings) - {batch.id}))
    if other := next(filter(None, others), None):
        raise OtherRecipe(
            f"batch {other.id} into {batch.destination} is not done and has recipe {_named(other.recipe)}, this one "
            f"{_named(batch.recipe)}: outputs of both would lie there, mixed. Wait for it (apf status "
            f"{batch.destination} {other.id}), stop it (apf cancel {batch.destination} {other.id}), or give another "
            "destination"
        )


def _is_open(ledger: Ledger, batch: Batch) -> bool:
    return ledger.stopped(batch.id) != "cancelled" and (not batch.planned or bool(open_shards(ledger, batch)))


def _named(recipe: Recipe) -> str:
    return f"{recipe.name} ({recipe.id})"
