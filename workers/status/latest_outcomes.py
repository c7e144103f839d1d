"""Latest outcome of each retried photo: that of the last shard that holds it counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial

from workers.core.records import Batch, Outcome, PhotoReport, ShortReport
from workers.ledger.batch_ledger import Ledger, all_of
from workers.status.reports import WINDOW, photos_of


class LatestOutcomes:
    """Which outcomes count no more, as far as `look` has found retries."""

    def __init__(self) -> None:
        #: The shards that retry a photo, by its key.
        self._shards: dict[str, set[int]] = {}
        self._looked = 0
        #: Outcomes that are replaced and were no failures.
        self._others: list[PhotoReport] = []
        self._searched: set[tuple[str, int]] = set()

    def look(self, ledger: Ledger, batch: Batch) -> None:
        """Read the plans of new retry shards: until such a shard is reported its photos are pending again.

        Raises:
            LedgerError: there is neither a plan of one that can be read, nor a report.
        """
        if batch.first_retry is None:
            return
        for shard in range(max(batch.first_retry, self._looked), batch.shards):
            for key in photos_of(ledger, batch.id, shard):
                self._shards.setdefault(key, set()).add(shard)
        self._looked = batch.shards

    def replaces(self, shard: int, photo: PhotoReport) -> bool:
        """Return whether a later shard than this one holds the photo."""
        return photo.key in self._shards and shard < max(self._shards[photo.key])

    def replaced(self, ledger: Ledger, batch: Batch, reports: Mapping[int, ShortReport]) -> Iterator[PhotoReport]:
        """Yield the outcomes in these reports that count no more.

        As a rule these are failures, else they would not have been retried. A report that was torn after that is
        written anew, and may say otherwise: once all shards are reported, what is amiss is looked for in all reports.
        """
        found: Counter[str] = Counter(photo.key for photo in self._others)
        yield from self._others
        for shard, report in reports.items():
            for photo in report.failed:
                if self.replaces(shard, photo):
                    found[photo.key] += 1
                    yield photo
        if len(reports) < batch.shards:
            return
        # In its first shard, and in all that retried it but the last.
        amiss = {(key, len(shards)) for key, shards in self._shards.items() if found[key] < len(shards)}
        if wanted := amiss - self._searched:
            self._searched |= wanted
            more = list(self._search(ledger, batch, {key for key, _ in wanted}))
            self._others += more
            yield from more

    def _search(self, ledger: Ledger, batch: Batch, keys: set[str]) -> Iterator[PhotoReport]:
        for first in range(0, batch.shards, WINDOW):
            numbers = range(first, min(first + WINDOW, batch.shards))
            for report in filter(None, all_of(partial(ledger.read_report, batch.id), numbers)):
                others = (photo for photo in report.photos if photo.outcome is not Outcome.failed)
                yield from (p for p in others if p.key in keys and self.replaces(report.shard, p))
