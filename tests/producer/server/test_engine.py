"""`apf serve` without a queue: single photos, by an engine in a child process."""

from __future__ import annotations

import io
import os
import signal

import numpy as np
import psutil
import pytest
import skimage.data
from PIL import Image

from tests.producer.server.platform import Api, Platform, end
from tests.producer.server.test_protect import left


def protected(api: Api, data: bytes) -> bytes:
    answer = api("POST", "/v1/protect?recipe=light", data)
    assert answer.status == 200, answer.data
    assert (answer.headers["Apf-Outcome"], answer.headers["Content-Type"]) == ("protected", "image/jpeg")
    return answer.data


@pytest.mark.timeout(600)
def test_a_photo_is_protected_without_a_queue(place: Platform) -> None:
    """By the real filter; nothing is kept; a child that is killed is started anew; what needs a queue says so."""
    picture = Image.fromarray(skimage.data.astronaut())
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    process, api = place.process(APF_BROKER_URL="", APF_SERVE_PROTECT_TIMEOUT_S="300", APF_SERVE_CONNECTIONS="20")
    try:
        with Image.open(io.BytesIO(protected(api, buffer.getvalue()))) as photo:
            moved = np.abs(np.asarray(photo).astype(int) - np.asarray(picture).astype(int)).max()
        assert moved > 2
        assert left(place) == []
        damaged = api("POST", "/v1/protect?recipe=light", buffer.getvalue()[:3000])
        assert damaged.status == 422 and damaged.headers["Content-Type"] == "application/problem+json"
        asked = {"source": place.source, "destination": place.destination}
        refused = api("POST", "/v1/batches", asked)
        assert refused.status == 503 and "APF_BROKER_URL" in refused.json["detail"]
        assert api("GET", "/readyz").status == 200 and api("GET", "/workers").status == 200
        (child,) = [one for one in psutil.Process(process.pid).children() if "producer.server.engine" in one.cmdline()]
        os.kill(child.pid, signal.SIGKILL)
        child.wait(30)
        protected(api, buffer.getvalue())
        (child,) = [one for one in psutil.Process(process.pid).children() if "producer.server.engine" in one.cmdline()]
    finally:
        assert end(process) == 0
    assert not child.is_running()
    assert left(place) == []
