"""`python -m apf.research.train guide`: a guide of our own from a teacher, in three courses that go on where they broke
off.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import typer
from safetensors.torch import load_file, save_file

from apf.research.train.data import load_split
from apf.research.train.guide import Blocks, Joined, School, Slopes, likeness
from apf.research.train.guide_export import write_guide
from apf.research.train.loop import Budget
from apf.research.train.student import Student


def learn(faces: Path, teacher: Path, run: Path, *, seed: int, steps: Sequence[int], minutes: float) -> Path:
    """Return the ONNX file, in the folder `run`, of a teacher's student after three courses of so many steps.

    Every course leaves its own there, for `apf.research.evaluate.guide`, and tells how like the teacher it is.
    """
    train, held_out = load_split(faces)
    school = School.of(train, teacher)
    student, path = begun(school, run, seed), run / "guide.onnx"
    for course, count in zip((Blocks, Joined, Slopes), steps, strict=True):
        if not count:
            continue
        student = course(school, student, count).run(Budget(steps=count, minutes=minutes), seed, run)
        path = run / f"{course.name}.onnx"
        write_guide(path, student, school.teacher.spec, school.teacher.source.digest)
        found = likeness(school, student, held_out)
        typer.echo(json.dumps({course.name: {name: round(value, 4) for name, value in found.items()}}))
    return path


def begun(school: School, run: Path, seed: int) -> Student:
    """Return what the first course starts from: the run's own, where it was begun before."""
    start = run / f"guide-start-{seed}.safetensors"
    if start.exists():
        student = Student(school.teacher.stages)
        student.load_state_dict(load_file(start))
        return student
    student = school.begin(seed)
    run.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in student.state_dict().items()}, start)
    return student
