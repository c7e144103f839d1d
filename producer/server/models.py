"""Bodies of requests and answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from apf.recipe import BUILT_IN, DEFAULT_RECIPE
from producer.client import MAX_NAMED
from producer.server.board import State, state_of
from workers.core.records import Lane, OnWeak, PhotoReport
from workers.report.advice import OF_THE_API, cure
from workers.status.as_json import BatchCounts
from workers.status.batch_status import BatchSummary, Failure
from workers.store.urls import SCHEMES


def _place(text: str) -> str:
    if not text.startswith(tuple(f"{scheme}:///" if scheme == "file" else f"{scheme}://" for scheme in SCHEMES)):
        raise ValueError("must be a URL such as s3://bucket/prefix or file:///folder")
    return text


def _built_in(name: str) -> str:
    if name not in BUILT_IN:  # a file's name would have the server read it
        raise ValueError(f"must be one of {', '.join(BUILT_IN)}")
    return name


Place = Annotated[
    str,
    Field(max_length=4096, examples=["s3://photos/ann"], description="URL of a bucket, prefix or folder."),
    AfterValidator(_place),
]
RecipeName = Annotated[
    str,
    Field(max_length=64, examples=["standard"], description=f"How photos are protected: {', '.join(BUILT_IN)}."),
    AfterValidator(_built_in),
]
Key = Annotated[str, Field(min_length=1, max_length=1024)]
Tenant = Annotated[str, Field(max_length=200, description="Whose photos these are; left away: the token's own.")]
Callback = Annotated[
    str, Field(min_length=1, max_length=4096, description="URL that is told of the end by a signed POST.")
]
NoFace = Annotated[
    Literal["copy", "skip"],
    Field(description="Photos without a face are copied without their metadata, or left out."),
]
Weak = Annotated[OnWeak, Field(description="Photos of which a juror still knows a face are published, or fail.")]
Overwrite = Annotated[bool, Field(description="Replace what no run wrote for the very same photo, too.")]
Exclude = Annotated[
    list[Key], Field(max_length=1000, description="Patterns of what is left out of a whole source, as in .gitignore.")
]
Private = Annotated[
    bool, Field(description="The keys are of gradient files, each of which becomes a perturbation file.")
]


class Told(BaseModel):
    """What an answer says; docstrings of its fields are in the OpenAPI document."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class RequestBody(Told):
    """What a request says: nothing that is not known."""

    model_config = ConfigDict(extra="forbid")


class BatchRequest(RequestBody):
    """Photos to protect."""

    source: Place
    destination: Place
    photos: Annotated[list[Key], Field(min_length=1, max_length=MAX_NAMED)] | None = None
    """Keys below the source; left away: all that it holds."""
    recipe: RecipeName = DEFAULT_RECIPE
    lane: Lane | None = None
    """Left away: interactive for named photos, bulk for all of a source."""
    tenant: Tenant | None = None
    callback: Callback | None = None
    no_face: NoFace = "copy"
    overwrite: Overwrite = False
    on_weak: Weak = "publish"
    exclude: Exclude = []
    missing: Literal["refuse", "ignore"] = "refuse"
    """Whether a named photo that is not there is an error, or is left out."""
    private: Private = False
    include_forgotten: bool = False
    """Protect photos that were forgotten, too, this once; needs the scope operate as well."""

    def told(self) -> dict[str, Any]:
        """Return it as plain values, as versions before a field had it where that field asks for nothing."""
        return self.model_dump(mode="json", exclude=None if self.include_forgotten else {"include_forgotten"})


class Accepted(Told):
    """A batch that is kept, and will be done."""

    batch: str
    destination: str
    photos: int | None
    """None where a worker has yet to list the source."""
    missing: list[str] = []
    """Named photos that are not there, where that is no error."""
    forgotten: list[str] = []
    """Named photos that are left out, as they were forgotten."""


class BatchView(BatchCounts):
    """Where a batch stands: photos = protected + no_face + skipped + failed + pending + missing."""

    state: State
    private: bool
    schedule: str
    created_at: str
    planned: bool
    """Whether the whole source has been listed."""
    pending: int
    begun: int
    """Of those pending, what running shards have done so far."""
    callback: dict[str, Any] | None = None

    @classmethod
    def of(cls, summary: BatchSummary, **more: Any) -> BatchView:
        batch = summary.batch
        return super().of(
            summary,
            state=state_of(summary),
            private=batch.private,
            schedule=batch.schedule,
            created_at=batch.created_at,
            planned=batch.planned,
            pending=summary.pending,
            begun=summary.running.photos,
            callback=summary.callback.as_json() if summary.callback else None,
            **more,
        )


class BatchPage(Told):
    """Batches, newest first."""

    batches: list[BatchView]
    next: str | None
    """For ?cursor=, where there are more."""
    complete: bool
    """False for some time after a server's start: older batches may be absent."""


class FailureView(Told):
    """A photo that has no output."""

    key: str
    reason: str
    code: str
    """For programs: a word for the reason, as in docs/callbacks.md."""
    attempts: int
    """How often a worker began it."""
    transient: bool
    """Whether the same may succeed later, without anybody changing anything."""
    cure: str
    """What to do about it."""

    @classmethod
    def of(cls, failure: Failure) -> FailureView:
        advice = cure(failure.reason, transient=failure.transient, code=failure.code, reader=OF_THE_API)
        return cls.model_validate({**failure.as_json(), "cure": advice})


class FailurePage(Told):
    """Failed photos, by key."""

    failures: list[FailureView]
    next: str | None


class Sent(Told):
    """What was sent to the queue again."""

    batch: str
    sent: int


class Stopped(Told):
    """A batch that is held or stopped."""

    batch: str
    state: State


class WordView(Told):
    """The jury's word on a face."""

    likeness: float | None
    independent: bool


class PhotoView(Told):
    """What became of a photo."""

    key: str
    destination: str
    batch: str
    outcome: Literal["protected", "no_face", "skipped", "failed", "pending"]
    reason: str | None = None
    note: str | None = None
    transient: bool = False
    faces: int = 0
    weak: int = 0
    words: list[WordView] = []
    recipe_id: str = ""
    attempts: int = 0

    @classmethod
    def of(cls, report: PhotoReport, destination: str, batch: str, recipe_id: str) -> PhotoView:
        words = [WordView(likeness=one.likeness, independent=one.independent) for one in report.words]
        facts = report.model_dump(include={"key", "reason", "note", "transient", "faces", "weak", "attempts"})
        return cls(
            **facts, words=words, outcome=report.outcome.value, destination=destination, batch=batch,
            recipe_id=recipe_id,
        )  # fmt: skip
