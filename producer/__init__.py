"""The producer: plans a batch, sends its shards and tells how far they are. Never loads torch."""

from producer.client import AsyncClient, Client, NotDone, Submitted

__all__ = ["AsyncClient", "Client", "NotDone", "Submitted"]
