"""Tell who has changed what, and when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel

from producer.server.auth import Operator, The, check_place
from producer.server.index import in_utc
from producer.server.problems import Problem, described
from workers.batches.create import ledgers_of
from workers.core.clock import now
from workers.errors import BadRequest
from workers.ledger.audit import Act, acts

router = APIRouter(tags=["audit"])

USUALLY = timedelta(days=30)


class AuditLog(BaseModel):
    """Acts, newest first."""

    acts: list[Act]


@router.get("/v1/audit", responses=described(409))
def audit(
    destination: Annotated[str, Query(max_length=4096)],
    grant: Operator,
    the: The,
    since: Annotated[str | None, Query(max_length=40, description="ISO 8601; left away: 30 days ago.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> AuditLog:
    """Tell who has changed what of a destination's batches and schedules, newest first; no photo is named."""
    if grant.tenants is not None:
        raise Problem(HTTPStatus.FORBIDDEN, f"token {grant.name!r} is bound to tenants, and the log is of all of them")
    place = the.checked(destination, "destination")
    check_place(grant, place, "destination")
    lines = [act for ledger in ledgers_of(place, the.settings) for act in acts(ledger, _since(since), newest=limit)]
    return AuditLog(acts=sorted(lines, key=lambda act: act.at, reverse=True)[:limit])


def _since(text: str | None) -> datetime:
    try:
        return datetime.fromisoformat(in_utc(text)).astimezone(UTC) if text else now() - USUALLY
    except (ValueError, OverflowError):
        raise BadRequest(f"since={text!r} is no moment: write it as 2026-01-31T00:00:00Z") from None
