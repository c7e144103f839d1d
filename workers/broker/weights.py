"""Weights of tenants in Redis: how many turns of a lane each gets while a tenant of weight 1 gets one.

    <prefix>apf-weights    by tenant's digest, as JSON, where it is not 1; written anew by every server of the API

Nothing but fairness depends on it. Workers of older versions do not read it, and treat all tenants alike, as all do
where Redis has lost it; a batch's record and message do not name it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from workers.broker.queues import ROWS, TENANTS, occupant
from workers.core.records import BULK, INTERACTIVE

if TYPE_CHECKING:
    import redis

KEY = "apf-weights"
#: A larger one would keep others waiting for that many shards in a row.
MOST = 100
#: Where no server has written them for so long, they are no more.
KEPT_S = 7 * 24 * 3600


def publish(client: redis.Redis, prefix: str, weights: Mapping[str, int]) -> None:
    """Write the weights of tenants, in the place of those before; raises RedisError."""
    told = {occupant(tenant): weight for tenant, weight in weights.items() if weight != 1}
    if told:
        client.set(f"{prefix}{KEY}", json.dumps(told, sort_keys=True), ex=KEPT_S)
    else:
        client.delete(f"{prefix}{KEY}")


def row_weights(client: redis.Redis, prefix: str) -> dict[tuple[str, str], int]:
    """Return the weights of rows by lane and row, each that of its tenant, where they are not 1; raises RedisError."""
    weights = _parsed(client.get(f"{prefix}{KEY}"))
    if not weights:
        return {}
    found: dict[tuple[str, str], int] = {}
    for lane in (INTERACTIVE, BULK):
        rows: Any = client.hgetall(f"{prefix}{TENANTS}.{lane}")
        for row in range(ROWS):
            tenant = rows.get(str(row).encode(), b"").decode("utf-8", "replace")
            if tenant in weights:
                found[lane, f"{row:02}"] = weights[tenant]
    return found


def _parsed(text: Any) -> dict[str, int]:
    """Return the weights; what nobody may have written counts as 1."""
    try:
        told = json.loads(text or b"{}")
        return {str(who): weight for who, weight in told.items() if type(weight) is int and 1 < weight <= MOST}
    except (ValueError, AttributeError):
        return {}
