"""Private batches with real parts: Redis, Swift, `apf worker` processes, the filter, and gradients of real faces."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apf.private.files import CONTENT_TYPE, Gradients, Perturbations
from producer import Client
from tests.apf.photo.photos import portrait, save
from tests.command import apf, apf_json
from tests.conftest import RedisServer, S3Server
from tests.faults.world import World, closing_world
from tests.private_files import answer, gradient_file, is_like_the_photos_road
from tests.test_end_to_end import objects, worker
from tests.waiting import until
from workers.batches.create import BatchOptions, create_batch
from workers.batches.rescue import plan_and_send
from workers.broker.client import Broker
from workers.config.settings import Settings
from workers.core.records import INTERACTIVE
from workers.store.output_metadata import source_mark

pytestmark = pytest.mark.timeout(300)

#: In a photo's comment: where it is found, the photo's bytes are.
SECRET = b"SECRET-48.8584N-2.2945E"
PHOTO = save(portrait(), "JPEG", comment=SECRET)
IGNORED = {"ann/me.jpg": PHOTO, "notes.txt": b"no gradients"}


def good() -> dict[str, bytes]:
    """Files of nine faces, and one without any."""
    return {
        "ann/1.safetensors": gradient_file(0),
        "ann/2.safetensors": gradient_file(1, 2, 3, bits=4),
        "bob/é 1.safetensors": gradient_file(4, 5, 6, bits=1),
        "bob/nobody.safetensors": gradient_file(),
        "eve/1.safetensors": gradient_file(0, 6),
    }


def bad() -> dict[str, tuple[bytes, str]]:
    """Files that cannot be answered, each with what its reason says."""
    return {
        "ann/photo.safetensors": (PHOTO, "no safetensors file of APF"),
        "bob/cut.safetensors": (gradient_file(1)[:-1000], "damaged"),
        "eve/strong.safetensors": (gradient_file(0, recipe="standard"), "made for epsilon 8 and not 6"),
    }


@pytest.fixture
def bucket(swift: S3Server) -> str:
    name = swift.new_bucket()
    for key, data in {**good(), **{key: data for key, (data, _) in bad().items()}, **IGNORED}.items():
        swift.client.put_object(Bucket=name, Key=f"in/{key}", Body=data)
    return name


@pytest.fixture
def variables(redis_server: RedisServer, swift: S3Server, bucket: str) -> dict[str, str]:
    return {
        "APF_BROKER_URL": redis_server.url,
        "APF_S3_ENDPOINT_URL": swift.endpoint_url,
        "APF_SHARD_PHOTOS": "3",
        "APF_ALLOWED_URLS": f"s3://{bucket}",
        "APF_LOG_KEYS": "true",
    }


def counts(result: dict[str, Any]) -> tuple[int, ...]:
    return tuple(result[name] for name in ("photos", "protected", "no_face", "skipped", "failed", "pending"))


def test_a_prefix_of_gradient_files_and_an_upload(
    swift: S3Server, bucket: str, variables: dict[str, str], tmp_path: Path
) -> None:
    """All that `apf protect` does for photos, for gradient files: outcomes, marks, report, retry, a second run, the
    lane of uploads; and the same bytes without a queue.
    """
    source, destination = f"s3://{bucket}/in", f"s3://{bucket}/out"
    log = tmp_path / "worker.log"
    private = ("protect", "--private", "--recipe", "light")
    with worker(variables, log):
        result = apf_json(*private, source, destination, code=1, **variables)
        assert counts(result) == (8, 4, 1, 0, 3, 0), log.read_text()
        assert (result["faces"], result["ignored"]) == (9, 2)
        reasons = {failure["key"]: failure["reason"] for failure in result["failures"]}
        assert reasons.keys() == bad().keys()
        assert all(said in reasons[key] for key, (_, said) in bad().items())
        assert objects(swift, bucket, "out/") == {key: answer(data) for key, data in good().items()}
        head = swift.client.head_object(Bucket=bucket, Key="out/ann/2.safetensors")
        source_head = swift.client.head_object(Bucket=bucket, Key="in/ann/2.safetensors")
        assert head["ContentType"] == CONTENT_TYPE
        assert head["Metadata"] == {
            "apf-source": source_mark(source, "ann/2.safetensors"),
            "apf-source-etag": source_head["ETag"].strip('"'),
            "apf-recipe": result["recipe_id"],
            "apf-batch": result["batch"],
            "apf-outcome": "protected",
            "apf-faces": "3",
        }
        made = Perturbations.decode(objects(swift, bucket, "out/")["ann/1.safetensors"])
        assert made.id == Gradients.decode(gradient_file(0)).id, "its owner tells by it which photo it is for"
        assert is_like_the_photos_road(made.encode(), 0)

        told = apf("status", destination, code=1, **variables).stderr
        assert "8 gradient files: 4 protected (9 faces), 1 without a face" in told
        page = tmp_path / "page.html"
        assert apf_json("report", destination, "-o", page, **variables)["measured"] == 0
        assert "The photos are with their owners." in page.read_text()

        swift.client.put_object(Bucket=bucket, Key="in/bob/cut.safetensors", Body=gradient_file(5, 0))
        assert counts(apf_json("retry", destination, result["batch"], code=1, **variables)) == (8, 5, 1, 0, 2, 0)
        assert objects(swift, bucket, "out/")["bob/cut.safetensors"] == answer(gradient_file(5, 0))
        assert counts(apf_json(*private, source, destination, code=1, **variables)) == (8, 0, 0, 6, 2, 0)

        swift.client.put_object(Bucket=bucket, Key="in/zoe/new.safetensors", Body=gradient_file(2))
        client = Client(Settings.model_validate({k.removeprefix("APF_").lower(): v for k, v in variables.items()}))
        upload = client.submit(
            source, destination, photos=["zoe/new.safetensors"], recipe="light", tenant="zoe", private=True
        )
        summary = client.wait(upload.destination, upload.batch, timeout_s=60)
        assert (summary.batch.lane, summary.batch.private, summary.protected) == (INTERACTIVE, True, 1)
        assert objects(swift, bucket, "out/")["zoe/new.safetensors"] == answer(gradient_file(2))

    outputs = objects(swift, bucket, "out/")
    assert all(Perturbations.decode(data) for data in outputs.values())
    kept = swift.client.list_objects_v2(Bucket=bucket, Prefix="out/")["Contents"]
    bodies = [swift.client.get_object(Bucket=bucket, Key=each["Key"])["Body"].read() for each in kept]
    assert not any(SECRET in body for body in [*bodies, log.read_bytes(), page.read_bytes()])
    assert outputs == embedded(swift, bucket, tmp_path)


def embedded(swift: S3Server, bucket: str, folder: Path) -> dict[str, bytes]:
    """What the command alone makes of the same files, in folders."""
    for key, data in objects(swift, bucket, "in/").items():
        path = folder / "in" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    apf_json("protect", "--private", "--recipe", "light", folder / "in", folder / "out", code=1)
    files = [path for path in (folder / "out").rglob("*") if path.is_file()]
    assert not any(SECRET in path.read_bytes() for path in files)
    return {
        path.relative_to(folder / "out").as_posix(): path.read_bytes() for path in files if ".apf" not in path.parts
    }


@pytest.fixture
def world(tmp_path: Path, redis_server: RedisServer) -> Iterator[World]:
    """One shard of thirty files, which takes a worker some seconds; lost workers are missed after three."""
    files = {f"{n:02}.safetensors": gradient_file(*range(7), bits=(8, 4, 2, 1)[n % 4]) for n in range(30)}
    variables = {"APF_SHARD_PHOTOS": "30", "APF_BATCH_MEGAPIXELS": "0.001"}
    place = World(
        tmp_path, redis_server, (tmp_path / "in").as_uri(), (tmp_path / "out").as_uri(),
        {**files, "cut.safetensors": gradient_file(0)[:-1]}, variables, celery_app="workers.celeryapp",
    )  # fmt: skip
    with closing_world(place):
        yield place


def test_a_worker_killed_in_the_middle_of_gradients_costs_nothing(world: World) -> None:
    """Another one takes the shard up: each file has its outcome, once, and the bytes of an undisturbed run."""
    asked = BatchOptions(recipe="light", private=True)
    _, batch = create_batch(world.source_url, world.destination_url, asked, world.settings)
    world.batch_id = batch.id
    plan_and_send(world.ledger, batch.id, Broker(world.app), world.settings)
    killed = world.start_worker()
    until(world.is_mid_shard, 60, "mid-shard", world.log, every_s=0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    written = {info.key for info in world.destination.list()}
    assert 0 < len(written) < 30
    assert world.summary().pending == 31
    world.start_worker()
    world.wait()
    summary = world.summary()
    assert (summary.protected, summary.failed, summary.skipped, summary.faces) == (30, 1, 0, 210)
    found = {info.key: world.destination.get(info.key).data for info in world.destination.list()}
    assert found == {key: answer(data) for key, data in world.photos.items() if key != "cut.safetensors"}
    planned = world.planned(summary)
    assert sorted(planned) == sorted(world.photos)
