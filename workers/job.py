"""What travels and what is kept: the message of a shard, its photos, what became of them, and the batch around them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from functools import reduce
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from apf.recipe import Recipe
from workers.errors import JobError, WorkerError

Parsed = TypeVar("Parsed", bound=BaseModel)


class _Record(BaseModel):
    """Frozen, with no field unknown to it."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ShardJob(_Record):
    """The one message on the queue: which shard of which batch. Everything else lies in the ledger."""

    #: Of the batch in the ledger, as `Ledger.batch_url` gives it.
    batch_url: str = Field(min_length=1)
    shard: int = Field(ge=0)

    def encode(self) -> dict[str, str | int]:
        """Plain JSON values, for Celery."""
        return {"batch_url": self.batch_url, "shard": self.shard}

    @classmethod
    def decode(cls, message: Mapping[str, Any]) -> Self:
        """The inverse of `encode`.

        Raises:
            JobError: the message does not validate.
        """
        try:
            return cls.model_validate(dict(message))
        except (ValidationError, TypeError, ValueError) as error:
            raise JobError(f"message {message!r} is no shard's: {explain(error)}") from error


class PhotoRef(_Record):
    """One photo of a plan: exactly this version of it."""

    key: str = Field(min_length=1)
    etag: str
    #: Bytes.
    size: int = Field(ge=0)


class Outcome(StrEnum):
    """What became of a photo. Each photo of a batch has exactly one, or is still pending."""

    #: Its faces are protected; the output is written.
    protected = "protected"
    #: It has no face: copied, or left out, as the batch says.
    no_face = "no_face"
    #: Its output was already there, from the same bytes and recipe.
    skipped = "skipped"
    #: It has no output; the reason says why.
    failed = "failed"


class PhotoReport(_Record):
    """What became of one photo."""

    key: str = Field(min_length=1)
    etag: str
    outcome: Outcome
    #: For people: why it failed, was skipped or left out.
    reason: str | None = None
    #: Of a failed one: whether trying again can help.
    transient: bool = False
    faces: int = Field(default=0, ge=0)
    megapixels: float = Field(default=0.0, ge=0)
    bytes_in: int = Field(default=0, ge=0)
    bytes_out: int = Field(default=0, ge=0)


class Totals(_Record):
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

    @classmethod
    def of(cls, photos: Iterable[PhotoReport]) -> Self:
        """The sums over these reports."""
        counts = dict.fromkeys(Outcome, 0)
        faces = bytes_in = bytes_out = 0
        megapixels = 0.0
        for photo in photos:
            counts[photo.outcome] += 1
            faces += photo.faces
            megapixels += photo.megapixels
            bytes_in += photo.bytes_in
            bytes_out += photo.bytes_out
        named = {outcome.value: count for outcome, count in counts.items()}
        return cls(
            photos=sum(named.values()),
            **named,
            faces=faces,
            megapixels=round(megapixels, 6),
            bytes_in=bytes_in,
            bytes_out=bytes_out,
        )

    @classmethod
    def sum(cls, parts: Iterable[Totals]) -> Totals:
        """All of them added up; zeros for none."""
        return reduce(lambda a, b: a + b, parts, cls())

    def __add__(self, other: Totals) -> Totals:
        mine, theirs = self.model_dump(), other.model_dump()
        return Totals.model_validate({name: mine[name] + theirs[name] for name in mine})


class ShardPlan(_Record):
    """The photos of one shard."""

    shard: int = Field(ge=0)
    photos: tuple[PhotoRef, ...]
    #: Whether these photos stand in earlier shards too, whose outcomes this shard's replace.
    retries: bool = False


class ShardReport(_Record):
    """What became of a shard. Once it lies in the ledger, the shard is done."""

    shard: int = Field(ge=0)
    photos: tuple[PhotoReport, ...]
    #: Seconds in each named stage, added up over threads.
    stage_seconds: dict[str, float]
    #: From the start of the task to its last output.
    wall_seconds: float = Field(ge=0)
    #: Host and process, for people.
    worker: str
    #: ISO 8601 with its offset.
    finished_at: str
    #: Highest resident memory of the process so far.
    peak_memory_bytes: int = Field(ge=0)

    @property
    def totals(self) -> Totals:
        """The sums over the shard's photos."""
        return Totals.of(self.photos)


class Progress(_Record):
    """How far a running shard is. Best effort: it may be missing or old, and counts for nothing but a bar."""

    shard: int = Field(ge=0)
    done: Totals
    #: ISO 8601 with its offset.
    updated_at: str


class Batch(_Record):
    """One run of the command over a source: what was asked, and how far planning has come."""

    #: As `workers.ledger.new_batch_id` gives it.
    id: str = Field(min_length=1)
    #: Canonical URLs.
    source: str
    destination: str
    recipe: Recipe
    #: What happens to a photo without a face: copied with the same metadata policy, or left out.
    no_face: Literal["copy", "skip"] = "copy"
    #: ISO 8601 with its offset.
    created_at: str
    #: Bounds of one shard; a single photo over the second makes a shard of its own.
    max_shard_photos: int = Field(default=128, ge=1)
    max_shard_megapixels: float = Field(default=128.0, gt=0)
    #: Whether the whole source has been listed.
    planned: bool = False
    #: The last key that is in a plan or was ignored; planning goes on after it.
    cursor: str = ""
    #: Shards planned so far, those of retries included.
    shards: int = Field(default=0, ge=0)
    #: Photos planned so far, each once.
    photos: int = Field(default=0, ge=0)
    #: Objects that are no photos by their name or size.
    ignored: int = Field(default=0, ge=0)


def explain(error: Exception) -> str:
    """A validation error in one line: where, and what is wrong."""
    if not isinstance(error, ValidationError):
        return str(error)
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'record'}: {e['msg']}" for e in error.errors())


def parse(kind: type[Parsed], data: bytes | str, failure: type[WorkerError], what: str) -> Parsed:
    """One record from its JSON.

    Raises:
        failure: it does not validate; the message names `what`.
    """
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise failure(f"{what} does not validate: {explain(error)}") from error
