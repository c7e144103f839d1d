"""Verify that a batch record may be executed: write access to a store is enough to forge one."""

from __future__ import annotations

from pathlib import Path

from workers.access.sources import overlapping
from workers.config.access import EVERYTHING, check_allowed
from workers.config.settings import Settings
from workers.core.records import Batch
from workers.errors import NotAllowed
from workers.ledger.batch_ledger import Ledger, ledger_url


def check_batch(ledger: Ledger, batch: Batch, settings: Settings) -> None:
    """Raise NotAllowed where a batch may not be worked on: its record could have been forged, too.

    Write access to an allowed place is enough to put a ledger there: only one that lies where its
    destination's has to be is believed, or has been before APF_LEDGER_URL was set: beside the outputs.
    """
    check_allowed(batch.source, settings.allowed, what="source")
    check_allowed(batch.destination, settings.allowed, what="destination")
    if overlapping(batch.source, batch.destination, batch.named[0].key if len(batch.named) == 1 else None):
        raise NotAllowed(f"source {batch.source} and destination {batch.destination} overlap")
    wanted = ledger_url(batch.destination, settings.ledger_root)
    if EVERYTHING not in settings.allowed and ledger.url not in (wanted, ledger_url(batch.destination)):
        raise NotAllowed(
            f"the ledger of {batch.destination} belongs into {wanted}, and not into {ledger.url}: "
            "set APF_LEDGER_URL alike for producers and workers"
        )
    detector = batch.recipe.detector
    if EVERYTHING not in settings.allowed and detector != settings.detector and Path(detector).name != detector:
        raise NotAllowed(
            f"detector {detector!r} is a path: set APF_DETECTOR to it where workers run, if they may load it"
        )
