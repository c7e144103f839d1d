"""Private batches in one process: gradient files become perturbation files, and nothing else is ever written."""

from __future__ import annotations

import json
import logging
import re
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from apf.errors import PrivateFileError, RecipeError
from apf.private import files, server
from apf.private.files import MAX_FACES, MAX_HEADER_BYTES, Gradients, Perturbations
from apf.recipe import Recipe, load_recipe
from apf.runtime.stage_clock import StageClock
from tests.apf.photo.photos import portrait, save
from tests.private_files import answer, filter_of, gradient_file, is_like_the_photos_road
from tests.workers.execution.test_shard_pipeline import make_batch
from workers.batches.create import BatchOptions, new_batch
from workers.config.settings import Settings
from workers.core.records import Outcome, PhotoRef, PhotoReport, ShardJob
from workers.execution.load_engine import load_engine
from workers.execution.private_engine import GradientEngine, Perturbed
from workers.execution.run_shard import run_shard
from workers.execution.shard_pipeline import ShardRunner
from workers.ledger.batch_ledger import open_ledger
from workers.store import media_types, open_store
from workers.store.output_metadata import source_mark

LIGHT = load_recipe("light")
#: In a photo's comment: where it is found, the photo's bytes are.
SECRET = b"SECRET-48.8584N-2.2945E"


def photo() -> bytes:
    return save(portrait(), "JPEG", comment=SECRET)


def bad_files() -> dict[str, tuple[bytes, str]]:
    """Each bad file, and what its reason says."""
    whole = gradient_file(0)
    header = json.dumps({"__metadata__": {"format": "apf-gradient"}, "pad": "x" * MAX_HEADER_BYTES}).encode()
    arrays = safetensors.numpy.load(whole)
    metadata = json.loads(whole[8 : 8 + struct.unpack("<Q", whole[:8])[0]])["__metadata__"]

    def changed(array: np.ndarray | None = None, **facts: str) -> bytes:
        given = arrays["gradients"] if array is None else array
        return safetensors.numpy.save({"gradients": given}, {**metadata, **facts})

    return {
        "a photo": (photo(), "no safetensors file of APF"),
        "nothing": (b"", "no safetensors file of APF"),
        "cut short": (whole[:-1], "damaged"),
        "an answer": (answer(whole), "is no apf-gradient but apf-perturbation"),
        "someone else's": (safetensors.numpy.save({"w": np.zeros(3, np.float32)}), "no safetensors file of APF"),
        "another recipe's": (gradient_file(0, recipe="standard"), "made for epsilon 8 and not 6"),
        "other weights'": (changed(weights="0" * 64), "use the same recipe and the same version"),
        "a later version's": (changed(version="2"), "of version 2 of its format"),
        "floats": (changed(np.full((1, 6, 112, 112), np.nan, np.float32)), r"gradients are \(n, 6, 112, 112\)"),
        "another shape": (changed(np.zeros((1, 4, 112, 112), np.uint8)), r"gradients are \(n, 6, 112, 112\)"),
        "a large header": (len(header).to_bytes(8, "little") + header, "no safetensors file of APF"),
        "a false size": ((2**62).to_bytes(8, "little") + whole[8:], "no safetensors file of APF"),
    }


class Scene:
    """A private batch between two stores, by the real engine."""

    def __init__(self, name: str, objects: Mapping[str, bytes], **settings: Any) -> None:
        self.source, self.destination = open_store(f"memory://{name}-in"), open_store(f"memory://{name}-out")
        for key, data in objects.items():
            self.source.put(key, data)
        self.refs = [PhotoRef(key=i.key, etag=i.etag, size=i.size) for i in self.source.list()]
        self.settings = Settings(device="cpu", **settings)
        self.batch = make_batch(self.source.url, self.destination.url, private=True).model_copy(
            update={"recipe": LIGHT}
        )
        self.engine: Any = load_engine(LIGHT, self.settings, True)

    def run(self) -> dict[str, PhotoReport]:
        runner = ShardRunner(
            batch=self.batch,
            source=self.source,
            destination=self.destination,
            settings=self.settings,
            engine=lambda: self.engine,
        )
        return {report.key: report for report in runner.run(self.refs)}

    def outputs(self) -> dict[str, bytes]:
        return {info.key: self.destination.get(info.key).data for info in self.destination.list()}


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return "".join(c if c.isalnum() else "-" for c in request.node.name)


def test_gradient_files_become_perturbation_files_with_their_marks(name: str) -> None:
    """What the photo's own road gives, up to the quantisation; sums and marks are as for photos."""
    scene = Scene(name, {"ann/a.safetensors": gradient_file(0, 3), "b": gradient_file(1, bits=4)})
    reports = scene.run()
    assert {key: (r.outcome, r.faces) for key, r in reports.items()} == {
        "ann/a.safetensors": (Outcome.protected, 2),
        "b": (Outcome.protected, 1),
    }
    outputs = scene.outputs()
    assert outputs == {"ann/a.safetensors": answer(gradient_file(0, 3)), "b": answer(gradient_file(1, bits=4))}
    assert is_like_the_photos_road(outputs["ann/a.safetensors"], 0, 3)
    report, info = reports["ann/a.safetensors"], scene.destination.head("ann/a.safetensors")
    assert info is not None
    assert info.metadata == {
        "apf-source": source_mark(scene.batch.source, "ann/a.safetensors"),
        "apf-source-etag": scene.refs[0].etag,
        "apf-recipe": LIGHT.id,
        "apf-batch": "b1",
        "apf-outcome": "protected",
        "apf-faces": "2",
    }
    sizes = (len(gradient_file(0, 3)), len(outputs["ann/a.safetensors"]))
    assert (report.bytes_in, report.bytes_out, report.megapixels) == (*sizes, 0)


def test_what_is_no_gradient_file_of_this_recipe_fails_and_nothing_of_it_is_kept(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A photo's bytes come neither into the destination nor into a log or report, and no neighbour suffers."""
    caplog.set_level(logging.DEBUG)
    bad = bad_files()
    good = gradient_file(0, 1, 2)
    scene = Scene(name, {**{f"{key}.safetensors": data for key, (data, _) in bad.items()}, "good.safetensors": good})
    reports = scene.run()
    assert scene.outputs() == {"good.safetensors": answer(good)}
    for key, (_, reason) in bad.items():
        report = reports[f"{key}.safetensors"]
        assert (report.outcome, report.transient, report.bytes_out) == (Outcome.failed, False, 0)
        assert re.search(reason, str(report.reason)), (key, report.reason)
    told = caplog.text + "".join(report.model_dump_json() for report in reports.values())
    assert SECRET in photo()
    assert SECRET.decode() not in told
    assert "unexpected error" not in told


def test_a_file_without_faces_has_an_answer_without_faces(name: str) -> None:
    """The owner's device sees that it was dealt with; `--no-face skip` leaves it out."""
    scene = Scene(name, {"a.safetensors": gradient_file()})
    assert scene.run()["a.safetensors"].outcome is Outcome.no_face
    assert Perturbations.decode(scene.outputs()["a.safetensors"]).faces == 0
    left_out = Scene(f"{name}-skip", {"a.safetensors": gradient_file()})
    left_out.batch = left_out.batch.model_copy(update={"no_face": "skip"})
    report = left_out.run()["a.safetensors"]
    assert (report.outcome, report.reason) == (Outcome.no_face, "left out: --no-face skip")
    assert left_out.outputs() == {}


def test_a_second_run_skips_and_another_recipe_does_not(name: str) -> None:
    """Marks decide, as for photos: what carries this file and recipe is done. Files of the former recipe then fail."""
    scene = Scene(name, {"a.safetensors": gradient_file(0)})
    scene.run()
    scene.batch = scene.batch.model_copy(update={"id": "b2"})
    assert scene.run()["a.safetensors"].outcome is Outcome.skipped
    standard = load_recipe("standard")
    scene.batch = scene.batch.model_copy(update={"id": "b3", "recipe": standard})
    scene.engine = load_engine(standard, scene.settings, True)
    assert "made for epsilon 6 and not 8" in str(scene.run()["a.safetensors"].reason)
    assert scene.outputs() == {"a.safetensors": answer(gradient_file(0))}, "the older answer stays"


def test_a_file_over_the_limit_fails_before_it_is_read(name: str) -> None:
    scene = Scene(name, {"a.safetensors": gradient_file(0)}, max_photo_bytes=1000)
    report = scene.run()["a.safetensors"]
    assert report.outcome is Outcome.failed
    assert "1000" in str(report.reason)


@pytest.mark.parametrize("batch_megapixels", [0.001, 0.09, 32])
def test_bytes_do_not_depend_on_the_batch_around_them(name: str, batch_megapixels: float) -> None:
    """Faces of several files share the filter's batches, as many as its work allows; each file's answer is its own."""
    objects = {f"{n}.safetensors": gradient_file(n, (n + 1) % 7, bits=(1, 2, 4, 8)[n % 4]) for n in range(7)}
    scene = Scene(name, objects, batch_megapixels=batch_megapixels, read_threads=1)
    batches: list[int] = []

    class Counting(GradientEngine):
        def protect(self, files: Sequence[Gradients], clock: StageClock) -> list[Perturbed]:
            batches.append(len(files))
            return super().protect(files, clock)

    scene.engine = Counting(LIGHT, Settings(device="cpu"))
    scene.run()
    assert scene.outputs() == {key: answer(data) for key, data in objects.items()}
    assert sum(batches) == 7
    most = {0.001: 1, 0.09: 2, 32: 7}[batch_megapixels]  # two faces are 0.06 megapixels' work
    assert max(batches) <= most


def test_a_file_of_many_faces_is_answered_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few faces are floats at once, across the borders of files, and the answers are the same."""
    given = [Gradients.decode(data) for data in (gradient_file(0, 1, 2, 3, 4), gradient_file(), gradient_file(5, 6))]
    whole = [made.encode() for made in server.perturb(given, filter_of())]
    at_once: list[int] = []
    values = Gradients.values

    def counted(self: Gradients) -> Any:
        at_once.append(self.faces)
        return values(self)

    monkeypatch.setattr(server, "FACES_AT_ONCE", 3)
    monkeypatch.setattr(Gradients, "values", counted)
    assert [made.encode() for made in server.perturb(given, filter_of())] == whole
    assert at_once == [3, 2, 1, 1]
    assert server.perturb([], filter_of()) == []


def test_a_files_weight_is_that_of_its_faces() -> None:
    """Budget and batches count what a face takes, however few bytes it comes in; more faces than may be are refused."""
    engine = load_engine(LIGHT, Settings(device="cpu"), True)
    one, three = engine.estimate_cost(gradient_file(0)), engine.estimate_cost(gradient_file(0, 1, 2, bits=1))
    assert (one.work, three.work) == (pytest.approx(0.03), pytest.approx(0.09))
    assert one.held > len(gradient_file(0)) + 3 * 112 * 112
    assert three.held > 3 * 3 * 112 * 112
    assert (one.megapixels, engine.estimate_cost(gradient_file()).work) == (0, 0)
    crowd = Gradients("0" * 32, files.Terms.of(LIGHT), 1, np.zeros((MAX_FACES + 1, 6, 112, 14), np.uint8)).encode()
    with pytest.raises(PrivateFileError, match="4096 are the most"):
        engine.estimate_cost(crowd)


def test_no_detector_and_no_decoder_is_loaded_for_gradients(tmp_path: Any) -> None:
    """A server for private batches alone needs none: an engine is loaded, and used, in a process of its own."""
    path = tmp_path / "a.safetensors"
    path.write_bytes(gradient_file(0))
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from apf.runtime.stage_clock import StageClock\n"
        "from apf.recipe import load_recipe\n"
        "from workers.execution.load_engine import load_engine\n"
        "from workers.config.settings import Settings\n"
        "engine = load_engine(load_recipe('light', detector='none-there'), Settings(device='cpu'), True)\n"
        f"file = engine.decode(Path({str(path)!r}).read_bytes())\n"
        "sys.stdout.buffer.write(engine.encode(engine.protect([file], StageClock())[0]))\n"
        "loaded = {'apf.photo', 'pillow_heif', 'insightface', 'pyseccomp', "
        "'workers.decoding.decoder_pool'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr.decode()
    assert ended.stdout == answer(gradient_file(0))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [({"stages": ("universal",)}, "no gradient stage")],
    ids=["no gradient"],
)
def test_a_recipe_without_private_mode_is_refused(name: str, fields: dict[str, Any], reason: str) -> None:
    """Refused where the batch is made; a worker that meets one all the same fails its files with that reason."""
    bare = LIGHT.model_copy(update={"name": "bare", **fields})
    settings = Settings(device="cpu")
    source, destination = open_store(f"memory://{name}-in"), f"memory://{name}-out"
    info = source.put("a.safetensors", gradient_file(0))
    with pytest.raises(RecipeError, match=f"'bare' has {reason}"):
        new_batch(source.url, destination, BatchOptions(recipe=bare, private=True), settings)
    ledger = open_ledger(destination)
    batch = make_batch(source.url, destination, private=True, planned=True, shards=1, photos=1)
    ledger.write_batch(batch.model_copy(update={"recipe": bare}))
    ledger.write_plan("b1", 0, [PhotoRef(key=info.key, etag=info.etag, size=info.size)])
    run = run_shard(ShardJob(batch_url=ledger.batch_url("b1"), shard=0), settings)
    assert run is not None
    assert run.totals.failed == 1
    report = ledger.read_report("b1", 0)
    assert report is not None
    assert reason in str(report.photos[0].reason)


def test_the_engine_is_chosen_by_the_batch(name: str) -> None:
    """`run_shard` asks for the gradients' engine for a private batch, and for the photos' one otherwise."""
    for private in (False, True):
        scene = Scene(f"{name}-{private}", {"a.safetensors": gradient_file(0)})
        ledger = open_ledger(scene.destination.url)
        ledger.write_batch(scene.batch.model_copy(update={"private": private, "planned": True, "shards": 1}))
        ledger.write_plan("b1", 0, scene.refs)
        asked: list[object] = []

        def load(recipe: Recipe, settings: Settings, of_gradients: bool, asked: Any = asked, scene: Any = scene) -> Any:
            asked.append(of_gradients)
            return scene.engine

        run_shard(ShardJob(batch_url=ledger.batch_url("b1"), shard=0), scene.settings, load=load)
        assert set(asked) == {private}


def test_the_suffix_is_the_formats() -> None:
    """Planning may not load numpy, and so has it a second time."""
    assert f".{media_types.GRADIENT_SUFFIX}" == files.SUFFIX
    assert len(gradient_file(0)) == pytest.approx(media_types.BYTES_PER_GRADIENT, rel=0.02)
