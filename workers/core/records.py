"""The message of a shard, and the records of the ledger: batch, photos, reports, attempts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from functools import reduce
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from apf.recipe import Recipe
from workers.errors import JobError, LedgerError, NewerRecord, WorkerError

Parsed = TypeVar("Parsed", bound=BaseModel)

#: An upload with a user waiting, or work that has time.
Lane = Literal["interactive", "bulk"]
INTERACTIVE: Lane = "interactive"
BULK: Lane = "bulk"
#: A lane's own queue, or one of its rows or columns (`workers.broker.queues`).
QUEUE = r"^(interactive|bulk)(\.\d\d(\.\d)?)?$"


#: What stands in the ledger where the name of a forgotten photo stood (`workers.batches.forget`).
FORGOTTEN = "[forgotten]"

OnWeak = Literal["publish", "fail"]

#: A schedule's fraction of the photos, or all others.
Part = Literal["fraction", "rest"]


def _with_zone(text: str) -> str:
    if datetime.fromisoformat(text).utcoffset() is None:
        raise ValueError("has no offset from UTC")
    return text


#: ISO 8601 with its offset.
Moment = Annotated[str, AfterValidator(_with_zone)]


class _Record(BaseModel):
    """Frozen, with no field unknown to it."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class WorkerOutput(_Record):
    """Base of workers' outputs: fields of a newer version are ignored. Requests reject them: they must be understood
    whole.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")


class VersionedRecord(_Record):
    """A record that got fields after its first version: each is written only where it asks for something, so that an
    older version reads all others, and refuses exactly those that it would not do as they ask.
    """

    newer_fields: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _omit_defaults(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = write(self)
        for name in self.newer_fields:
            if getattr(self, name) == type(self).model_fields[name].default:
                written.pop(name, None)
        return written


class ShardJob(_Record):
    """The one message on the queue: which shard of which batch. Everything else lies in the ledger."""

    #: Of the batch in the ledger, as `Ledger.batch_url` gives it.
    batch_url: str = Field(min_length=1, max_length=4096)
    shard: int = Field(ge=0, le=10**9)
    #: How often a store that was down has been waited for; deaths are counted in the ledger.
    waits: int = Field(default=0, ge=0)
    #: Where it waits for a worker, each time that it is sent.
    queue: str = Field(default=BULK, pattern=QUEUE)

    def encode(self) -> dict[str, str | int]:
        """Plain JSON values, for Celery."""
        return self.model_dump(exclude_defaults=True)

    def waited(self) -> Self:
        """Return the same after one more wait."""
        return self.model_copy(update={"waits": self.waits + 1})

    @classmethod
    def decode(cls, message: Mapping[str, Any]) -> Self:
        """Return the inverse of `encode`.

        Raises:
            JobError: the message does not validate.
        """
        try:
            return cls.model_validate(dict(message))
        except (ValidationError, TypeError, ValueError) as error:
            raise JobError(f"a message is no shard's: {explain(error)}") from error


class PhotoRef(_Record):
    """One photo of a plan: exactly this version of it."""

    key: str = Field(min_length=1)
    etag: str
    #: Bytes.
    size: int = Field(ge=0)


class Outcome(StrEnum):
    """The outcome of a photo. Each photo of a batch has exactly one, or is still pending."""

    #: Its faces are protected; the output is written.
    protected = "protected"
    #: It has no face: copied, or left out, as the batch says.
    no_face = "no_face"
    #: Its output was already there, from the same bytes and recipe.
    skipped = "skipped"
    #: It has no output; the reason says why.
    failed = "failed"


class Word(WorkerOutput):
    """The jury's word on one protected face (`apf.attack.jury.Verdict`)."""

    #: The largest that a juror sees, in units of what it takes for one person; None: no juror could say.
    likeness: float | None
    #: Whether the jurors are other recognisers than those that the steps climbed on.
    independent: bool = False


class PhotoReport(WorkerOutput):
    """The report of one photo."""

    key: str = Field(min_length=1)
    etag: str
    outcome: Outcome
    #: For people: why it failed, was skipped or left out.
    reason: str | None = None
    #: Of a failed one, for programs: a `workers.core.failure_codes.FailureCode`. Empty in reports of older versions.
    code: str = ""
    #: For people: on metadata that was to be kept and could not be.
    note: str | None = None
    #: Of a failed one: whether trying again can help.
    transient: bool = False
    faces: int = Field(default=0, ge=0)
    megapixels: float = Field(default=0.0, ge=0)
    bytes_in: int = Field(default=0, ge=0)
    bytes_out: int = Field(default=0, ge=0)
    #: On each face, as they are found; none where no jury was asked, or where an earlier try wrote the output.
    words: tuple[Word, ...] = ()
    #: Faces that a juror still knows; those of a photo that failed for it, too.
    weak: int = Field(default=0, ge=0)
    #: How often a worker began it, this time included; waiting for a store that is down is no beginning.
    attempts: int = Field(default=1, ge=1)


class Totals(WorkerOutput):
    """Sums over photos; `a + b` adds them up."""

    photos: int = 0
    protected: int = 0
    no_face: int = 0
    skipped: int = 0
    failed: int = 0
    faces: int = 0
    megapixels: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0
    #: Faces that a juror still knows, and photos that have such.
    weak_faces: int = 0
    weak_photos: int = 0

    @classmethod
    def of(cls, photos: Iterable[PhotoReport]) -> Self:
        """Return the sums over these reports."""
        counts = dict.fromkeys(Outcome, 0)
        faces = bytes_in = bytes_out = weak_faces = weak_photos = 0
        megapixels = 0.0
        for photo in photos:
            counts[photo.outcome] += 1
            faces += photo.faces
            megapixels += photo.megapixels
            bytes_in += photo.bytes_in
            bytes_out += photo.bytes_out
            weak_faces += photo.weak
            weak_photos += photo.weak > 0
        named = {outcome.value: count for outcome, count in counts.items()}
        return cls(
            photos=sum(named.values()),
            **named,
            faces=faces,
            megapixels=round(megapixels, 6),
            bytes_in=bytes_in,
            bytes_out=bytes_out,
            weak_faces=weak_faces,
            weak_photos=weak_photos,
        )

    @classmethod
    def sum(cls, parts: Iterable[Totals]) -> Totals:
        """All of them added up; zeros for none."""
        return reduce(lambda a, b: a + b, parts, cls())

    def __add__(self, other: Totals) -> Totals:
        return Totals.model_construct(**{name: round(mine + getattr(other, name), 6) for name, mine in self})

    def __sub__(self, other: Totals) -> Totals:
        return Totals.model_construct(**{name: round(mine - getattr(other, name), 6) for name, mine in self})


class ShardFacts(WorkerOutput):
    """What both forms of a shard's report have."""

    shard: int = Field(ge=0)
    #: Seconds in each named stage, added up over threads.
    stage_seconds: dict[str, float]
    #: From the start of the task to its last output.
    wall_seconds: float = Field(ge=0)
    #: Highest resident memory of the process so far.
    peak_memory_bytes: int = Field(ge=0)


class ShardReport(ShardFacts):
    """The report of a shard. Once it lies in the ledger, the shard is done."""

    photos: tuple[PhotoReport, ...]
    #: Host and process, for people.
    worker: str
    #: ISO 8601 with its offset.
    finished_at: str

    @property
    def totals(self) -> Totals:
        """The sums over the shard's photos."""
        return Totals.of(self.photos)


class ShortReport(ShardFacts):
    """The report of a shard in short: sums, and the photos that failed."""

    #: Of the object that holds the whole report.
    etag: str = ""
    totals: Totals
    #: Those that failed, in the plan's order.
    failed: tuple[PhotoReport, ...]


class Attempt(WorkerOutput):
    """One worker's try of a shard. It is gone once the try has ended; what stays was cut short."""

    #: Sorts by the time of the start.
    id: str = Field(min_length=1)
    shard: int = Field(ge=0)
    #: Where it runs; the process can be asked after from its own host alone.
    host: str
    pid: int = Field(ge=0)
    #: ISO 8601 with their offset. `seen_at` is renewed while the try runs.
    started_at: Moment
    seen_at: Moment
    #: Seconds after `seen_at` from which on the try counts as dead.
    lease_s: float = Field(gt=0)
    #: The photo in hand, by key, where photos are taken one by one.
    photo: str | None = None
    #: It ran out of time, and was stopped: dead, though its process lives.
    timed_out: bool = False
    #: It was found dead, and its shard was sent again.
    missed: bool = False
    #: How far it is.
    done: Totals = Totals()


class Batch(VersionedRecord):
    """One run of the command over a source: what was asked, and how far planning has come."""

    newer_fields = ("private", "exclude", "overwrite", "on_weak", "include_forgotten")

    #: As `workers.ledger.batch_ledger.new_batch_id` gives it.
    id: str = Field(min_length=1)
    #: Canonical URLs.
    source: str
    destination: str
    recipe: Recipe
    #: Its objects are gradient files, and become perturbation files (`apf.private`): the photos stay with their owners.
    #: Where "photo" is said of a batch, here and elsewhere, one of its objects is meant.
    private: bool = False
    #: A photo without a face is copied with the same metadata policy, or left out.
    no_face: Literal["copy", "skip"] = "copy"
    #: Whether outputs may replace what no run wrote for the same photo; else such a photo fails.
    overwrite: bool = False
    #: A photo with a weak face, which a juror still knows, is published all the same, or fails.
    on_weak: OnWeak = "publish"
    #: Whether forgotten photos are protected all the same (`workers.ledger.forgotten`).
    include_forgotten: bool = False
    #: Interactive shards overtake bulk ones; within a lane tenants get equal shares, and so do a tenant's batches.
    lane: Lane = BULK
    #: The queue that was chosen for its shards; empty: as `workers.broker.queues.queue_of` says.
    queue: str = Field(default="", pattern=f"^$|{QUEUE}")
    #: Whose batch it is: an account's id, say. All batches without one share the tenant "".
    tenant: str = Field(default="", max_length=200)
    #: Told of the batch's end by a POST (`workers.ledger.callback_state`).
    callback: str | None = Field(default=None, max_length=4096)
    #: The part of the source's photos that is planned, always the same ones for a schedule; a larger part holds a
    #: smaller one.
    fraction: float = Field(default=1.0, gt=0, le=1)
    #: With "rest" the other photos are planned: those outside the fraction.
    part: Part = "fraction"
    #: Only photos that the source has had since then are planned; ISO 8601, by the source's own clock. Empty: all.
    changed_since: str = ""
    #: Older photos that are planned all the same: `workers.batches.plan.key_digest` of each.
    again: frozenset[str] = frozenset()
    #: Patterns of what is left alone besides `apf.exclusions.DEFAULTS`, those of the source's own file among them.
    exclude: tuple[str, ...] = ()
    #: The schedule that fired it; empty for none.
    schedule: str = ""
    #: ISO 8601 with its offset.
    created_at: Moment
    #: Bounds of one shard; a single photo over the second makes a shard of its own.
    max_shard_photos: int = Field(default=128, ge=1)
    max_shard_megapixels: float = Field(default=384.0, gt=0)
    #: The photos that were asked for by name; empty where all of the source was.
    named: tuple[PhotoRef, ...] = ()
    #: Whether the whole source has been listed.
    planned: bool = False
    #: The last key that is in a plan or was ignored; planning goes on after it.
    cursor: str = ""
    #: Shards planned so far, those of retries included.
    shards: int = Field(default=0, ge=0)
    #: The first shard that repeats failed photos; None while there is none.
    first_retry: int | None = Field(default=None, ge=0)
    #: Photos planned so far, each once.
    photos: int = Field(default=0, ge=0)
    #: Objects that are no photos by their name, and excluded ones.
    ignored: int = Field(default=0, ge=0)
    #: Its planner, and when that last wrote: another takes over only after `PLANNER_LEASE_S` of silence.
    planner: str = ""
    updated_at: Moment | Literal[""] = ""
    #: For people: what else there is to know, such as that the source was too large.
    note: str = ""


def explain(error: Exception) -> str:
    """Return a validation error in one line: where, and what is wrong."""
    if not isinstance(error, ValidationError):
        return str(error)
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'record'}: {e['msg']}" for e in error.errors())


def parse(kind: type[Parsed], data: bytes | str, failure: type[WorkerError], what: str) -> Parsed:
    """One record from its JSON.

    Raises:
        failure: it does not validate; the message names `what`.
        NewerRecord: instead of LedgerError, where it has a field that this version does not know.
    """
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        if failure is LedgerError and any(e["type"] == "extra_forbidden" for e in error.errors()):
            raise NewerRecord(f"{what} is of a newer version ({explain(error)}): upgrade this installation") from error
        raise failure(f"{what} does not validate: {explain(error)}") from error
