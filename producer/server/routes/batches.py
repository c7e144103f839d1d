"""Submit batches, list them, and tell how far they are."""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Header, Query, Response

from producer.client import Submitted
from producer.server.auth import Reader, Submitter, The, check_may_remember, check_place, tenant_for
from producer.server.board import State
from producer.server.index import Entry, Wanted, in_utc
from producer.server.listing import Having, before_of, page
from producer.server.models import Accepted, BatchPage, BatchRequest, BatchView, FailurePage, FailureView
from producer.server.problems import described
from producer.server.services import Services
from producer.server.tokens import Grant
from workers.errors import BadRequest
from workers.store import canonical_url, open_store
from workers.store.media_types import is_taken

router = APIRouter(tags=["batches"])

Destination = Annotated[
    str | None, Query(max_length=4096, description="Where the batch went, if its id is not unique.")
]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key", min_length=1, max_length=200,
        description="The same request under the same key is done once, and answered alike.",
    ),
]  # fmt: skip
Limit = Annotated[int, Query(ge=1, le=200)]


@router.post("/v1/batches", status_code=202, responses=described(409))
def submit(asked: BatchRequest, grant: Submitter, the: The, response: Response, key: IdempotencyKey = None) -> Accepted:
    """Have photos protected: those that are named, or all that the source holds.

    When this answers 202, the batch is in the ledger and its messages are in the queue: it will be done, whatever dies.
    """
    tenant = tenant_for(grant, asked.tenant)
    if asked.include_forgotten:
        check_may_remember(grant)
    for what, url in (("source", asked.source), ("destination", asked.destination)):
        check_place(grant, the.checked(url, what), what)  # before anything there is looked at

    def act(batch_id: str | None) -> dict[str, Any]:
        the.limits.check_bytes(grant, tenant)
        photos, size = _counted(the, grant, asked, tenant)
        with the.limits.work(grant, tenant, photos=photos, size=size):
            client = the.client.acting_for(grant.name)
            submitted = client.submit(**asked.model_dump(exclude={"tenant"}), tenant=tenant, batch_id=batch_id)
        _note(the, grant, submitted, tenant)
        return {
            "batch": submitted.batch,
            "destination": submitted.destination,
            "photos": submitted.photos,
            # Where they stand in the request: the answer is kept, and names no photo.
            "missing": _places(asked, submitted.missing),
            "forgotten": _places(asked, submitted.forgotten),
        }

    request = ["POST /v1/batches", asked.told()]
    answer, replayed = the.requests.once(grant, key, request, act)
    # With its destination every server finds it at once, also one whose index does not have it yet.
    response.headers["Location"] = f"/v1/batches/{answer['batch']}?{urlencode({'destination': answer['destination']})}"
    if replayed:
        response.headers["Idempotency-Replayed"] = "true"
    named = asked.photos or []
    keys = {field: [named[place] for place in answer[field]] for field in ("missing", "forgotten")}
    return Accepted.model_validate(answer | keys)


def _places(asked: BatchRequest, keys: Collection[str]) -> list[int]:
    named = asked.photos or []
    return sorted((named.index(key) for key in keys), key=lambda place: named[place])


def _counted(the: Services, grant: Grant, asked: BatchRequest, tenant: str) -> tuple[int, int]:
    """Return photos and bytes that are asked for, where anybody counts them; of named photos the bytes come later."""
    if asked.photos is not None:
        return len(set(asked.photos)), 0
    left = the.limits.photos_left(grant, tenant)
    if left is None and not the.limits.counts_bytes(grant):
        return 0, 0
    objects = open_store(canonical_url(asked.source), s3=the.settings.s3).list()
    taken = (one for one in objects if is_taken(one, private=asked.private))
    # One more than is left shows that there are too many.
    sizes = [one.size for one in (taken if left is None else islice(taken, left + 1))]
    return len(sizes), sum(sizes)


def _note(the: Services, grant: Grant, submitted: Submitted, tenant: str) -> None:
    ledger = the.find_ledger(submitted.destination)
    batch = ledger.read_batch(submitted.batch)
    the.index.add([Entry.of(ledger, batch)])
    the.limits.note(grant, tenant, size=sum(ref.size for ref in batch.named))


@router.get("/v1/batches", responses=described())
def batches(
    grant: Reader,
    the: The,
    destination: Annotated[str | None, Query(max_length=4096)] = None,
    tenant: Annotated[str | None, Query(max_length=200)] = None,
    state: State | None = None,
    having: Having | None = None,
    since: Annotated[str | None, Query(max_length=40, description="ISO 8601, as 2026-01-31T00:00:00Z.")] = None,
    until: Annotated[str | None, Query(max_length=40)] = None,
    limit: Limit = 50,
    cursor: Annotated[str | None, Query(max_length=1000)] = None,
) -> BatchPage:
    """List batches, newest first.

    With `state` or `having`, a page may be short of `limit` though there is a `next`: go on with that.
    """
    wanted = Wanted(
        tenants=_tenants(grant, tenant),
        destination=canonical_url(destination) if destination else None,
        since=_moment("since", since),
        until=_moment("until", until),
        before=before_of(cursor) if cursor else None,
    )
    found = page(the, wanted, limit, state=state, having=having)
    views = [BatchView.of(summary) for summary in found.summaries]
    return BatchPage(batches=views, next=found.cursor, complete=the.index.is_complete)


def _tenants(grant: Grant, asked: str | None) -> tuple[str, ...] | None:
    if asked is None:
        return grant.tenants
    return (asked,) if grant.may_see(asked) else ()


def _moment(name: str, text: str | None) -> str | None:
    try:
        return in_utc(text) if text else None
    except (ValueError, OverflowError):
        raise BadRequest(f"{name}={text!r} is no moment: write it as 2026-01-31T00:00:00Z") from None


@router.get("/v1/batches/{batch}", responses=described(404, 409))
def status(batch: str, grant: Reader, the: The, destination: Destination = None) -> BatchView:
    """Tell how far a batch is, as of a second ago at most."""
    return BatchView.of(the.find(grant, batch, destination)[1])


@router.get("/v1/batches/{batch}/failures", responses=described(404, 409))
def failures(
    batch: str,
    grant: Reader,
    the: The,
    destination: Destination = None,
    limit: Limit = 100,
    cursor: Annotated[str | None, Query(max_length=1024, description="`next` of the page before.")] = None,
) -> FailurePage:
    """List the photos of a batch that have no output, by key, with the reason of each."""
    _, summary = the.find(grant, batch, destination)
    after = [one for one in summary.failures if cursor is None or one.key > cursor]
    shown = after[:limit]
    views = [FailureView.of(one) for one in shown]
    return FailurePage(failures=views, next=shown[-1].key if len(after) > limit else None)
