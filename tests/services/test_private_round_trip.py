"""Private mode from end to end over real Redis and Swift: the photos come out protected and were never anywhere else.

Every byte to and from Redis and the store is kept and searched.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from apf.faces.alignment import align, alignment
from apf.filters.torch_filter import Filter
from apf.photo import decode
from apf.private.files import Gradients, Perturbations
from apf.protect.pipeline import protect_photo
from producer import Client
from tests.command import apf_json
from tests.conftest import OWN_SETTINGS, RedisServer, S3Server
from tests.private_files import SIX_FACES, filter_of
from tests.tap import Tap
from tests.test_end_to_end import worker
from workers.config.settings import Settings

pytestmark = pytest.mark.timeout(300)

RECIPE = "standard"
#: Bytes of a photo, or of what is made from it, that are looked for; by chance so many are never met.
FRAGMENT = 16
#: How pictures of any kind begin.
JPEGS = tuple(b"\xff\xd8\xff" + byte for byte in (b"\xe0", b"\xe1", b"\xe2", b"\xdb", b"\xee"))
SIGNATURES = (*JPEGS, b"\x89PNG\r\n", b"WEBPVP8", b"ftypheic", b"ftypavif", b"JFIF\0", b"Exif\0\0")
NAMES = ("wedding", "Müller", "thérèse")


@dataclass(frozen=True)
class Trip:
    """What a round trip has left, and all that went over the wires on its way."""

    photos: dict[str, bytes]
    #: As the device made them of the answers.
    protected: dict[str, bytes]
    #: All objects of the bucket, by key.
    stored: dict[str, bytes]
    to_store: bytes
    to_redis: bytes
    #: Redis' own append-only file: each write that it ever took.
    redis_log: bytes


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven faces in two photos, one of them turned by EXIF, and one photo without a face; with names that tell."""
    folder = tmp_path_factory.mktemp("album")
    (folder / "wedding 2024").mkdir()
    exif = Image.Exif()
    exif[0x010E] = "Thérèse Müller at her wedding"
    exif[0x0112] = 6
    astronaut = Image.fromarray(skimage.data.astronaut()).rotate(90, expand=True)
    astronaut.save(folder / "wedding 2024" / "thérèse müller.jpg", quality=92, exif=exif)
    shutil.copy(SIX_FACES, folder / "wedding guests.jpg")
    Image.fromarray(skimage.data.coffee()).resize((300, 200)).save(folder / "wedding cake.png")
    return folder


@pytest.fixture(scope="module")
def trip(
    album: Path, redis_process: RedisServer, swift: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Trip]:
    """Gradients on the device, a bulk batch and an upload through the queue, apply on the device."""
    folder = tmp_path_factory.mktemp("trip")
    bucket = swift.new_bucket()
    redis_tap, store_tap = Tap(redis_process.url), Tap(swift.endpoint_url)
    variables = {
        "APF_BROKER_URL": redis_tap.url,
        "APF_S3_ENDPOINT_URL": store_tap.url,
        "APF_ALLOWED_URLS": f"s3://{bucket}",
    }
    client = S3Server(store_tap.url).client
    on_device(folder, "gradient", album, "-o", folder / "gradients", "--recipe", RECIPE)
    files = sorted((folder / "gradients").iterdir())
    for number, path in enumerate(files):
        prefix = "uploads" if number == 0 else "album"
        client.put_object(Bucket=bucket, Key=f"{prefix}/{path.name}", Body=path.read_bytes())
    with worker(variables, folder / "worker.log"):
        bulk = apf_json("protect", "--private", f"s3://{bucket}/album", f"s3://{bucket}/answers", **variables)
        assert bulk["photos"] == 2 and bulk["failed"] == 0, (folder / "worker.log").read_text()
        single = upload(variables, bucket, files[0].name)
        assert single == 1
    (folder / "answers").mkdir()
    for path in files:
        found = client.get_object(Bucket=bucket, Key=f"answers/{path.name}")["Body"].read()
        (folder / "answers" / path.name).write_bytes(found)
    on_device(folder, "apply", album, folder / "answers", "-o", folder / "out", "--recipe", RECIPE)
    stored = everything(client, bucket)
    client.close()
    log = b"".join(path.read_bytes() for path in redis_process.folder.rglob("*.aof") if path.is_file())
    yield Trip(
        photos={path.relative_to(album).as_posix(): path.read_bytes() for path in album.rglob("*.*") if path.is_file()},
        protected={
            path.relative_to(folder / "out").as_posix(): path.read_bytes()
            for path in (folder / "out").rglob("*.*")
            if path.is_file()
        },
        stored=stored,
        to_store=store_tap.seen,
        to_redis=redis_tap.seen,
        redis_log=log,
    )
    redis_tap.close()
    store_tap.close()


def on_device(folder: Path, *arguments: object) -> dict[str, object]:
    """One of the device's commands, which must succeed."""
    command = [sys.executable, "-m", "apf.private.cli", *map(str, arguments), "--key", str(folder / "key"), "--json"]
    clean = {n: value for n, value in os.environ.items() if n in OWN_SETTINGS or not n.startswith("APF_")}
    ended = subprocess.run(command, env=clean, check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found: dict[str, object] = json.loads(ended.stdout)
    return found


def upload(variables: dict[str, str], bucket: str, name: str) -> int:
    """One file through the interactive lane; how many photos it was."""
    settings = Settings(
        broker_url=variables["APF_BROKER_URL"],
        s3_endpoint_url=variables["APF_S3_ENDPOINT_URL"],
        allowed_urls=variables["APF_ALLOWED_URLS"],
    )
    client = Client(settings)
    sent = client.submit(f"s3://{bucket}/uploads", f"s3://{bucket}/answers", photos=[name], private=True)
    summary = client.wait(sent.destination, sent.batch, timeout_s=120)
    return summary.protected + summary.no_face


def everything(client: object, bucket: str) -> dict[str, bytes]:
    """The store's listing, and each object with its metadata."""
    found = {}
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)  # type: ignore[attr-defined]
    for item in (item for page in pages for item in page.get("Contents", [])):
        got = client.get_object(Bucket=bucket, Key=item["Key"])  # type: ignore[attr-defined]
        found[item["Key"]] = got["Body"].read() + json.dumps(got["Metadata"]).encode()
    return found


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def test_the_photos_come_out_as_by_their_own_road(trip: Trip) -> None:
    """Each photo is there under its name, protected as `protect_photo` protects it, but for the quantisation."""
    standard: Filter = filter_of(RECIPE)
    assert trip.protected.keys() == trip.photos.keys()
    for name, photo in trip.photos.items():
        road = protect_photo(photo, standard)
        ours, theirs = pixels(trip.protected[name]), pixels(road.data)
        assert ours.shape == theirs.shape
        if road.outcome == "no_face":
            assert trip.protected[name] == road.data
            continue
        before = decode(photo).pixels.astype(int)
        assert np.abs(ours - before)[theirs != before].mean() > 1, f"{name}: hardly anything was changed"


def test_the_store_holds_gradients_perturbations_and_the_ledger(trip: Trip) -> None:
    """By its listing: three gradient files, three answers, records of batches; each is what its place says."""
    gradients = [data for key, data in trip.stored.items() if key.startswith(("album/", "uploads/"))]
    answers = [data for key, data in trip.stored.items() if key.startswith("answers/") and "/.apf/" not in key]
    assert len(gradients) == len(answers) == len(trip.photos) == 3
    asked = sorted(Gradients.decode(without_metadata(data)).faces for data in gradients)
    assert asked == sorted(Perturbations.decode(without_metadata(data)).faces for data in answers) == [0, 1, 6]
    others = {key for key in trip.stored if not key.startswith(("album/", "uploads/", "answers/"))}
    assert {key for key in others if "/.apf/" not in f"/{key}"} == set()


def without_metadata(stored: bytes) -> bytes:
    """The object's bytes, without the user metadata that `everything` adds behind them."""
    return stored[: stored.rindex(b"{")]


def test_no_picture_ever_went_over_a_wire(trip: Trip) -> None:
    """No image of any format, nothing of a photo's bytes, of a face cut out or of a thumbnail; no name, no comment."""
    places = {"the store": trip.to_store, "Redis": trip.to_redis, "Redis' log": trip.redis_log}
    places["the bucket"] = b"\0".join(trip.stored.values()) + b"\0".join(key.encode() for key in trip.stored)
    for place, seen in places.items():
        assert len(seen) > 1000, f"nothing was seen of {place}"
        for text in (*SIGNATURES, *(name.encode() for name in NAMES), *(name.lower().encode() for name in NAMES)):
            assert text not in seen, f"{text!r} was in {place}"
        for what, fragment in fragments(trip.photos):
            assert fragment not in seen, f"{what} was in {place}"


def test_the_search_finds_what_is_there(trip: Trip) -> None:
    """The search itself: where a photo passes, it is found; and the taps saw all of the files."""
    photo = trip.photos["wedding guests.jpg"]
    made = dict(fragments({"wedding guests.jpg": photo}))
    assert len(made) > 100
    assert any(fragment in b"PUT /" + photo for fragment in made.values())
    for key, data in trip.stored.items():
        if key.startswith("album/"):
            assert without_metadata(data)[-2000:] in trip.to_store


def fragments(photos: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """Pieces of the photos' bytes, and of their pixels, faces and thumbnails as programs hold them."""
    for name, data in photos.items():
        for at in range(1000, len(data) - FRAGMENT, 509):
            yield f"byte {at} of {name}", data[at : at + FRAGMENT]
        whole = decode(data).pixels
        found = filter_of(RECIPE).detector.detect([whole])[0]
        crops = [align(whole, alignment(face.landmarks)).transpose(1, 2, 0) for face in found]
        pictures = {"its pixels": whole}
        pictures |= {f"face {number}": np.rint(crop * 255).astype(np.uint8) for number, crop in enumerate(crops)}
        pictures |= {
            f"a thumbnail of {side}": np.asarray(Image.fromarray(whole).resize((side, side))) for side in (32, 64, 160)
        }
        for what, picture in pictures.items():
            yield from (
                (f"{what} of {name}, {form}, row {row}", piece)
                for form, array in forms(picture)
                for row, piece in rows(array)
            )
        for face in found:
            for kind in ("<f4", "<f8"):
                yield f"landmarks of {name}", np.array(face.landmarks, kind)[:2].tobytes()
            yield f"a landmark of {name} as text", f"{face.landmarks[0][0]:.3f}".encode()


def forms(picture: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    yield "in bytes", picture
    yield "in planes", picture.transpose(2, 0, 1)
    yield "in grey", np.asarray(Image.fromarray(picture).convert("L"))
    yield "in floats", (picture / 255).astype(np.float32)
    yield "in planes of floats", (picture.transpose(2, 0, 1) / 255).astype(np.float32)


def rows(array: np.ndarray) -> Iterator[tuple[int, bytes]]:
    """A piece of the middle of some rows; flat ones, which could be anything, are left out."""
    flat = np.ascontiguousarray(array).reshape(-1, array.shape[-1] * (array.shape[-2] if array.shape[-1] == 3 else 1))
    for row in range(len(flat) // 7, len(flat), max(1, len(flat) // 7)):
        middle = flat[row][len(flat[row]) // 2 :][:FRAGMENT]
        if len(set(middle.tolist())) > FRAGMENT // 2:
            yield row, middle.tobytes()
