"""The whole road with real parts: a Redis process, an `apf worker` process, a Swift S3 server; and without them."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import insightface
import numpy as np
import pytest
import redis
import skimage.data
from PIL import Image

from tests.command import APF, apf_json
from tests.conftest import OWN_SETTINGS, RedisServer, S3Server
from tests.waiting import until

pytestmark = pytest.mark.timeout(600)

SIX_FACES = Path(insightface.__file__).parent / "data" / "images" / "t1.jpg"


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("album")
    (folder / "group").mkdir()
    (folder / "group" / "six faces +1%.jpg").write_bytes(SIX_FACES.read_bytes())
    astronaut = Image.fromarray(skimage.data.astronaut())
    astronaut.save(folder / "astronaut.png")
    astronaut.convert("L").resize((300, 300)).save(folder / "grey.jpg", quality=88)
    Image.fromarray(skimage.data.coffee()).save(folder / "coffee.jpg")
    (folder / "broken.jpg").write_bytes(SIX_FACES.read_bytes()[:5000])
    return folder


@pytest.fixture(scope="module")
def calm(album: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """The pixels that a run without a queue gives."""
    out = tmp_path_factory.mktemp("calm")
    result = apf_json("protect", album, out, code=1)
    assert (result["protected"], result["no_face"], result["failed"], result["faces"]) == (3, 1, 1, 8)
    files = [path for path in sorted(out.rglob("*")) if path.is_file() and ".apf" not in path.parts]
    return {path.relative_to(out).as_posix(): pixels(path.read_bytes()) for path in files}


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as photo:
        return np.asarray(photo)


@contextmanager
def worker(variables: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """An `apf worker` process in a session of its own, killed at the end with all its children."""
    clean = {n: value for n, value in os.environ.items() if n in OWN_SETTINGS or not n.startswith("APF_")}
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*APF, "worker"], env={**clean, **variables}, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def uploaded(album: Path, swift: S3Server) -> str:
    bucket = swift.new_bucket()
    for path in sorted(album.rglob("*.*")):
        swift.client.put_object(Bucket=bucket, Key=f"in/{path.relative_to(album).as_posix()}", Body=path.read_bytes())
    return bucket


def objects(swift: S3Server, bucket: str, prefix: str) -> dict[str, bytes]:
    listing = swift.client.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
    keys = [item["Key"] for item in listing if "/.apf/" not in item["Key"]]
    return {key.removeprefix(prefix): swift.client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}


def test_bucket_queue_and_worker_give_the_same_pixels_as_a_folder_alone(
    album: Path, calm: dict[str, np.ndarray], redis_server: RedisServer, swift: S3Server, tmp_path: Path
) -> None:
    bucket = uploaded(album, swift)
    variables = {
        "APF_BROKER_URL": redis_server.url,
        "APF_S3_ENDPOINT_URL": swift.endpoint_url,
        "APF_SHARD_PHOTOS": "2",
        "APF_ALLOWED_URLS": f"s3://{bucket}",
    }
    source, destination = f"s3://{bucket}/in", f"s3://{bucket}/out"
    log = tmp_path / "worker.log"
    with worker(variables, log):
        result = apf_json("protect", source, destination, code=1, **variables)
        assert (result["protected"], result["no_face"], result["failed"], result["faces"]) == (3, 1, 1, 8), (
            log.read_text()
        )
        found = {key: pixels(data) for key, data in objects(swift, bucket, "out/").items()}
        assert found.keys() == calm.keys()
        for key, wanted in calm.items():
            np.testing.assert_array_equal(found[key], wanted, err_msg=key)
        head = swift.client.head_object(Bucket=bucket, Key="out/astronaut.png")
        assert head["Metadata"]["apf-recipe"] == result["recipe_id"]
        assert head["ContentType"] == "image/png"
        again = apf_json("protect", source, destination, code=1, **variables)
        assert (again["protected"], again["skipped"], again["failed"]) == (0, 4, 1)
        doctor = apf_json("doctor", source, **variables)
    assert all(finding["ok"] for finding in doctor)


def test_a_killed_workers_shard_is_delivered_again_and_ends_right(
    album: Path, calm: dict[str, np.ndarray], redis_server: RedisServer, tmp_path: Path
) -> None:
    """SIGKILL of the whole worker while it holds a shard; another worker takes it up after the visibility timeout."""
    out = tmp_path / "out"
    variables = {
        "APF_BROKER_URL": redis_server.url,
        "APF_SHARD_SOFT_LIMIT_S": "14",
        "APF_SHARD_HARD_LIMIT_S": "15",
        "APF_VISIBILITY_TIMEOUT_S": "31",
        "APF_SHARD_PHOTOS": "1",
        "APF_ALLOWED_URLS": f"{album.as_uri()} {tmp_path.as_uri()}",
    }
    log = tmp_path / "worker.log"
    batch = apf_json("protect", album, out, "--no-wait", **variables)["batch"]
    with redis.Redis(port=redis_server.port) as client, worker(variables, log) as first:
        until(lambda: client.hlen("unacked"), 120, "the first worker holds a shard")
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    with worker(variables, log):
        until(lambda: not apf_status(out, batch)["pending"], 240, "no photo is pending", log, every_s=0.5)
    result = apf_status(out, batch)
    assert (result["photos"], result["protected"], result["no_face"], result["failed"]) == (5, 3, 1, 1), log.read_text()
    for key, wanted in calm.items():
        np.testing.assert_array_equal(pixels((out / key).read_bytes()), wanted, err_msg=key)


def apf_status(out: Path, batch: str) -> Any:
    return apf_json("status", out, batch, code=None)


def test_planning_and_status_never_load_torch(album: Path, redis_server: RedisServer, tmp_path: Path) -> None:
    """A producer machine plans, sends and asks for status with none of the worker's libraries in memory."""
    code = (
        "import sys; from producer.cli import app\n"
        "try: app(sys.argv[1:])\n"
        "except SystemExit as ended: assert not ended.code, ended\n"
        "heavy = {'torch', 'torchvision', 'numpy', 'PIL', 'cv2', 'onnx'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    environment = {**os.environ, "APF_BROKER_URL": redis_server.url}
    for args in (["protect", str(album), str(tmp_path / "out"), "--no-wait"], ["status", str(tmp_path / "out")]):
        ended = subprocess.run(
            [sys.executable, "-c", code, *args], capture_output=True, text=True, check=False, env=environment
        )
        assert ended.returncode == 0, ended.stderr
