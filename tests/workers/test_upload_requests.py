"""What one upload asks of the store, counted over real boto3 and HTTP."""

from __future__ import annotations

from functools import partial

import pytest

from tests.benchmarks.bench_requests import of_an_upload
from tests.conftest import S3Server
from tests.workers.fakes import FakeEngine
from workers import tasks
from workers.execution.run_shard import run_shard


@pytest.fixture
def server(moto_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    monkeypatch.setenv("APF_S3_ENDPOINT_URL", moto_server.endpoint_url)
    monkeypatch.setattr(tasks, "run_shard", partial(run_shard, load=lambda *_: FakeEngine()))
    return moto_server


def test_an_upload_with_a_callback_costs_24_requests(server: S3Server) -> None:
    """From the client's call to the delivered callback; four of them are about the photo itself."""
    found = of_an_upload(server)
    assert len(found) <= 24, found
    assert sum("ann/1.jpg" in request for request in found) == 4
    assert sum(request.startswith("LIST") for request in found) == 2


def test_an_upload_without_a_callback_costs_19_requests(server: S3Server) -> None:
    """A batch of one shard is closed by the record that its worker has read already. One request of these keeps the
    line of the audit log, and two ask whether the photo was forgotten.
    """
    found = of_an_upload(server, callback=False)
    assert len(found) <= 19, found
    assert sum("forgotten" in request for request in found) == 2
