"""A guide of our own from a made-up teacher: its stages, its courses, its file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from apf.guides import load_guide
from apf.guides.loading import find_source
from apf.guides.torch_guide import torch_guide
from apf.research.train.__main__ import app
from apf.research.train.data import DataError, Faces, is_held_out
from apf.research.train.guide import Blocks, Course, Joined, School, Slopes, likeness
from apf.research.train.guide_export import guide_onnx, write_guide
from apf.research.train.loop import Budget, OutOfTime
from apf.research.train.student import Stage, Student
from apf.research.train.variety import various

#: What the made-up teacher consists of, between the maps that all it knows passes through.
STAGES = [
    Stage(3, 8, 32, 16),
    Stage(8, 8, 16, 8),
    Stage(8, 8, 8, 8, residual=True),
    Stage(8, 8, 8, 8, residual=True, gated=True),
    Stage(8, 12, 8, 1),
]
SPEC = {"height": 32, "width": 32, "channel_order": "BGR", "landmarks_xy": [
    [11, 15], [21, 15], [16, 20], [12, 26], [20, 26]
]}  # fmt: skip


class Net:
    """Collects convolutions with random weights."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def add(self, kind: str, *inputs: str, name: str = "", **attributes: object) -> str:
        output = name or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def conv(self, x: str, inputs: int, outputs: int, kernel: int = 1, **attributes: object) -> str:
        size = self.random.normal(size=(outputs, inputs, kernel, kernel)) * (2 / inputs / kernel**2) ** 0.5
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(size.astype(np.float32), name))
        return self.add("Conv", x, name, **attributes)


def teacher(folder: Path) -> Path:
    """A small recogniser with a plain block, a gated one, and an embedding of 12 numbers."""
    net = Net()
    x = net.add("Relu", net.conv("input", 3, 8, 3, strides=[2, 2], pads=[1] * 4))
    wide = net.add("Relu", net.conv(x, 8, 24))
    x = net.conv(net.add("Relu", net.conv(wide, 1, 24, 3, strides=[2, 2], pads=[1] * 4, group=24)), 24, 8)
    x = net.add("Add", x, net.conv(net.add("Relu", net.conv(x, 8, 16)), 16, 8))
    inner = net.conv(net.add("Relu", net.conv(x, 8, 16)), 16, 8)
    gate = net.add("Sigmoid", net.conv(net.add("GlobalAveragePool", inner), 8, 8))
    x = net.add("Add", x, net.add("Mul", inner, gate))
    net.add("Flatten", net.conv(x, 8, 12, 8), name="embedding", axis=1)
    return saved(net, folder / "small.onnx")


def saved(net: Net, path: Path) -> Path:
    """The network's file, and how it is fed beside it."""
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)]
        for name, shape in (("input", ["N", 3, 32, 32]), ("embedding", ["N", 12]))
    ]
    graph = helper.make_graph(net.nodes, "teacher", *ends, initializer=net.weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    path.with_suffix(".json").write_text(json.dumps(SPEC))
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The made-up teacher's file."""
    return teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def faces() -> Faces:
    """Forty blurred patterns."""
    coarse = torch.rand(40, 3, 7, 7, generator=torch.Generator().manual_seed(0))
    pixels = torch.nn.functional.interpolate(coarse, (112, 112), mode="bicubic").clamp(0, 1) * 255
    return Faces(pixels.to(torch.uint8), tuple(f"person {number % 20}" for number in range(40)))


@pytest.fixture(scope="module")
def school(file: Path, faces: Faces) -> School:
    """The teacher before its faces."""
    return School.of(faces, file)


def state(student: Student) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in student.state_dict().items()}


def test_stages_end_where_all_paths_meet(school: School) -> None:
    """Stages end at joins and before the map grows, never inside of a block."""
    assert school.teacher.stages == STAGES


def test_a_teacher_in_parts_is_the_teacher(school: School, file: Path, faces: Faces) -> None:
    """The parts one after the other embed as the whole file does, and so do their gradients."""
    crops = faces.batch(torch.arange(3))
    whole = load_guide(str(file))
    own = torch.nn.functional.normalize(school.teacher(school.fed(crops)))
    np.testing.assert_allclose(own.numpy(), whole.embed(crops.numpy()), atol=1e-4)
    towards = own.roll(1, 0)
    expected = whole.climb(crops.numpy(), towards.numpy())[1]
    np.testing.assert_allclose(school.slopes(crops, towards).numpy(), expected, atol=1e-4 * np.abs(expected).max())


def test_a_student_begins_with_numbers_of_size_one(school: School) -> None:
    """Before the first step, what a stage is to learn has the mean and the spread that the stage assumes."""
    student = school.begin(0)
    fed = school.fed(various(school.faces, 64, torch.Generator().manual_seed(5)))
    before = fed
    for part, found in zip(student.parts, school.told(fed), strict=True):
        change = found - before if part.stage.residual else found  # type: ignore[union-attr]
        off = (change - part.mean.view(-1, 1, 1)) / part.scale.view(-1, 1, 1)  # type: ignore[operator, union-attr]
        assert off.mean().abs() < 0.3
        assert 0.6 < off.std() < 1.5
        before = found


@pytest.mark.rotating("training")
@pytest.mark.parametrize("course", [Blocks, Joined, Slopes])
def test_a_broken_off_course_goes_on(school: School, tmp_path: Path, course: type[Course]) -> None:
    """A course that ran out of minutes ends, when called again, at the weights of one that was never broken off."""
    whole = state(course(school, school.begin(1), 3).run(Budget(steps=3), 7, tmp_path / "whole"))
    for _ in range(3):
        try:
            parts = course(school, school.begin(1), 3).run(Budget(steps=3, minutes=1e-6), 7, tmp_path / "parts")
            break
        except OutOfTime:
            pass
    else:
        parts = course(school, school.begin(1), 3).run(Budget(steps=3), 7, tmp_path / "parts")
    for name, tensor in state(parts).items():
        torch.testing.assert_close(tensor, whole[name], rtol=0, atol=0)


@pytest.mark.rotating("training")
def test_courses_come_nearer_to_the_teacher(school: School, faces: Faces, tmp_path: Path) -> None:
    """Stages alone, joined, and on gradients: a student that knew nothing embeds and climbs as its teacher does."""
    student = school.begin(2)
    first = likeness(school, student, faces)
    for course, steps in ((Blocks, 60), (Joined, 40), (Slopes, 12)):
        student = course(school, student, steps).run(Budget(steps=steps), 0, tmp_path)
    last = likeness(school, student, faces)
    assert first["cosine"] < 0.9
    assert last["cosine"] > first["cosine"] + 0.05
    assert last["slope"] > first["slope"] + 0.01  # of a random network it is a hard thing to learn


def test_the_file_is_the_student(school: School, faces: Faces, tmp_path: Path) -> None:
    """A guide's file embeds and climbs as the student does, by both roads, and names its teacher."""
    student, path = school.begin(3), tmp_path / "guide.onnx"
    write_guide(path, student, school.teacher.spec, "abc")
    crops = faces.batch(torch.arange(2))
    guide = load_guide(str(path))
    with torch.no_grad():
        wanted = torch.nn.functional.normalize(student(school.fed(crops))).numpy()
    found = guide.embed(crops.numpy())
    np.testing.assert_allclose(found, wanted, atol=5e-3)
    assert guide.teachers == ("abc",)
    cosines, gradients = guide.climb(crops.numpy(), found[::-1].copy())
    other = torch_guide(find_source(str(path)), "cpu").climb(crops.numpy(), found[::-1].copy())
    np.testing.assert_allclose(cosines, other[0], atol=1e-5)
    np.testing.assert_allclose(gradients, other[1], atol=1e-3 * np.abs(gradients).max())
    assert np.abs(gradients).max() > 0


def test_weights_are_kept_in_half_precision(school: School) -> None:
    """A guide's file takes two bytes a weight."""
    student = school.begin(0)
    weights = sum(parameter.numel() for parameter in student.parameters())
    assert guide_onnx(student, school.teacher.spec, "").ByteSize() < 2 * weights + 12_000


def test_faces_are_varied(faces: Faces) -> None:
    """A seed is a batch; faces stay pictures, and differ from those that they are made of."""
    one, again = (various(faces, 16, torch.Generator().manual_seed(3)) for _ in range(2))
    torch.testing.assert_close(one, again, rtol=0, atol=0)
    assert one.shape == (16, 3, 112, 112)
    assert 0 <= float(one.min()) < float(one.max()) <= 1
    known = faces.pixels.float() / 255
    assert all((known - face).abs().mean((1, 2, 3)).min() > 0.004 for face in one)


def test_the_command_ships_what_it_made(file: Path, tmp_path: Path) -> None:
    """`apf.research.train guide` leaves each course's file in the run, ships the last under its name, and notes its
    digest.
    """
    people = tmp_path / "faces"
    for number in range(24):
        (people / f"person {number}").mkdir(parents=True)
        coarse = np.random.default_rng(number).integers(0, 255, (7, 7, 3), np.uint8)
        Image.fromarray(coarse).resize((112, 112)).save(people / f"person {number}" / "a.png")
    assert any(is_held_out(f"person {number}") for number in range(24))
    out, run = tmp_path / "weights", tmp_path / "run"
    said = [
        "guide", "--teacher", "small", "--name", "apf-small", "--faces", str(people), "--models", str(file.parent),
        "--out", str(out), "--run", str(run), "--steps", "2", "--joined-steps", "2", "--slope-steps", "1",
    ]  # fmt: skip
    result = CliRunner().invoke(app, said)
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    assert [list(line) for line in lines] == [["guide-blocks"], ["guide-joined"], ["guide-slopes"]]
    shipped = out / "apf-small.onnx"
    assert shipped.read_bytes() == (run / "small" / "guide-slopes.onnx").read_bytes()
    assert "apf-small.onnx" in (out / "SHA256SUMS").read_text()
    bad = CliRunner().invoke(app, [*said[:4], "small", *said[5:]])
    assert bad.exit_code == 2
    assert "apf-" in bad.output


def test_a_teacher_of_odd_maps_is_refused(faces: Faces, tmp_path: Path) -> None:
    """One whose maps shrink otherwise than by halves is told so before any training."""
    net = Net()
    x = net.add("Relu", net.conv("input", 3, 8, 3, strides=[3, 3]))
    x = net.add("Add", x, net.conv(x, 8, 8))
    net.add("Flatten", net.conv(x, 8, 12, 10), name="embedding", axis=1)
    with pytest.raises(DataError, match="odd halves its maps as no student does: take another teacher"):
        School.of(faces, saved(net, tmp_path / "odd.onnx")).begin(0)
