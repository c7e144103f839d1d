"""Photos that take their decoders over, on a real worker: each is reported, and its neighbours are right."""

from __future__ import annotations

import io
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import skimage.data
from PIL import Image

from apf.filters.load import load_filter
from apf.protect.pipeline import protect_photo
from tests.conftest import S3_SECRET, RedisServer, _without
from tests.faults.world import World, closing_world
from tests.waiting import until
from tests.workers.decoding.planted import MAGIC
from tests.workers.decoding.test_sandbox import here
from workers.config.settings import Settings
from workers.execution.engine import placement

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(sys.platform != "linux", reason="a cage is Linux's"),
]


def portrait(number: int) -> bytes:
    buffer = io.BytesIO()
    turned = Image.fromarray(skimage.data.astronaut()[:320, :400]).rotate(number)
    turned.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


#: What the photo does, and how its owner is told.
HOSTILE = {
    "reads.jpg": ("said = open('/etc/passwd').read()", "refused: PermissionError"),
    "spies.jpg": ("said = open(f'/proc/{os.getppid()}/environ').read()", "refused: PermissionError"),
    "calls.jpg": ("said = socket.create_connection(('127.0.0.1', 6379), 5)", "its decoder died 3 times"),
    "runs.jpg": ("said = subprocess.run(['/bin/true'])", "refused: PermissionError"),
    "execs.jpg": ("os.execv('/bin/true', ['true'])", "its decoder died 3 times"),
    "forks.jpg": ("while True: os.fork()", "refused: PermissionError"),
    "kills.jpg": ("os.kill(os.getppid(), 9)", "its decoder died 3 times"),
    "pickles.jpg": (
        "os.write(3, pickle.dumps(os.system).ljust(decoder_answers.SIZE, b'.')); time.sleep(60)",
        "its decoder died 3 times",
    ),
    "lies.jpg": ("os.write(3, bytes(10**6)); time.sleep(60)", "its decoder died 3 times"),
    "crashes.jpg": ("ctypes.string_at(0)", "its decoder died 3 times"),
}


@pytest.fixture
def world(tmp_path: Path, redis_server: RedisServer) -> Iterator[World]:
    if not here().whole:
        _without("the cage", str(here()))
    photos = {f"good {number}.jpg": portrait(number) for number in range(4)}
    photos |= {key: portrait(0) + MAGIC + textwrap.dedent(code).encode() for key, (code, _) in HOSTILE.items()}
    source, out = (tmp_path / "in").as_uri(), (tmp_path / "out").as_uri()
    variables = {"APF_SHARD_PHOTOS": "14", "APF_DECODER_CAGE": "require", "APF_LEASE_S": "60"}
    # Loading torch takes a busy machine half a minute.
    variables |= {"APF_SHARD_SOFT_LIMIT_S": "200", "APF_SHARD_HARD_LIMIT_S": "210", "APF_VISIBILITY_TIMEOUT_S": "430"}
    with closing_world(
        World(tmp_path, redis_server, source, out, photos, variables, celery_app="tests.services.planted_celeryapp")
    ) as made:
        yield made


def test_neighbours_are_right_and_the_worker_lives(world: World) -> None:
    """Each hostile photo fails for its reason, each good one is protected byte for byte as alone, on the first try."""
    process = world.start_worker()
    child = world.child()
    world.submit()
    until(lambda: world.summary().done, 200, "the batch is done", world.log, every_s=0.3)
    found = [world.ledger.read_report(world.batch_id, n) for n in world.ledger.reported_shards(world.batch_id)]
    reports = {photo.key: photo for report in found if report for photo in report.photos}
    assert reports.keys() == world.photos.keys()
    for key, (_, told) in HOSTILE.items():
        assert reports[key].outcome == "failed"
        assert str(reports[key].reason).startswith(told), (key, reports[key].reason)
        assert reports[key].attempts == 1, "no worker was lost to it"
    loaded = load_filter("light", **placement(Settings()))
    for key, data in world.photos.items():
        if key not in HOSTILE:
            assert reports[key].outcome in ("protected", "no_face")
            assert world.destination.get(key).data == protect_photo(data, loaded).data, key
    assert process.poll() is None
    assert world.child() == child
    assert S3_SECRET not in world.log.read_text()
