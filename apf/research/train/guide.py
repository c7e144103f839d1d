"""Train a guide of our own: stage by stage on a teacher's maps, then as a whole, then on the teacher's gradients.

A stage from one map to the next is nearly a regression, with thousands of places a face: all of them learn at once and
alone what end-to-end distilling takes a hundred times as long to find. Joined, they learn to live with each other's
errors. What an attack climbs on is the gradient, so the last course asks for that itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from apf.guides.torch_recogniser import Recogniser
from apf.research.train import augment
from apf.research.train.data import DataError, Faces
from apf.research.train.loop import Budget, Stateful, train
from apf.research.train.student import Part, Student
from apf.research.train.taps import TappedTeacher
from apf.research.train.teachers import channels_last, half_precision
from apf.research.train.variety import noisy, various

BATCH, JOINED_BATCH, SLOPES_BATCH, SETTLED = 32, 24, 8, 96
BLOCKS_LR, JOINED_LR, SLOPES_LR = 3e-2, 1e-3, 5e-4
#: The last stage's share of the rate: one place a face is all that it learns from.
LAST = 0.5
#: Places of a map that a stage learns from in a step, about: small maps need more faces.
PLACES = 8_000
EMA = 0.98
#: Errors of maps, in shares of their variance, count as much as the embedding's cosine.
MAPS_WEIGHT, COSINE_WEIGHT, ALIKE_WEIGHT, SLOPE_WEIGHT = 1.0, 4.0, 4.0, 2.0


@dataclass
class School:
    """A teacher, its faces, and how faces are fed to it."""

    faces: Faces
    teacher: TappedTeacher
    feeding: Recogniser

    @classmethod
    def of(cls, faces: Faces, path: Path) -> School:
        teacher = TappedTeacher(path)
        return cls(faces, teacher, Recogniser(torch.nn.Identity(), teacher.spec))

    def fed(self, faces: Tensor) -> Tensor:
        """Faces (B, 3, 112, 112) in [0, 1] as teacher and student take them."""
        feeding = self.feeding
        if feeding.grid is not None:
            grid = feeding.grid.expand(len(faces), -1, -1, -1)
            faces = F.grid_sample(faces, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        return ((faces.flip(1) if feeding.bgr else faces) * 255 - feeding.mean) / feeding.std

    @torch.no_grad()
    def told(self, fed: Tensor) -> list[Tensor]:
        """Return the teacher's maps. bfloat16 errs by a hundredth of what a student does."""
        with half_precision("cpu"):
            return self.teacher.maps(channels_last(fed))

    def slopes(self, faces: Tensor, towards: Tensor) -> Tensor:
        """Return the gradient, by faces, of the teacher's likeness to unit embeddings (B, D)."""
        with torch.enable_grad():
            faces = faces.detach().requires_grad_(True)
            found = F.normalize(self.teacher(self.fed(faces)))
            (slope,) = torch.autograd.grad((found * towards).sum(), faces)
        return slope

    @torch.no_grad()
    def begin(self, seed: int) -> Student:
        """Return a student of random weights that knows the statistics of the teacher's maps.

        Raises:
            DataError: its maps are of other sizes than the teacher's.
        """
        if not all(stage.halves for stage in self.teacher.stages):
            raise DataError(f"{self.teacher.source.name} halves its maps as no student does: take another teacher")
        torch.manual_seed(seed)
        student = Student(self.teacher.stages)
        fed = self.fed(various(self.faces, SETTLED, torch.Generator().manual_seed(seed)))
        before = fed
        for part, found in zip(student.each, self.told(fed), strict=True):
            part.settle(before, found - before if part.stage.residual else found)
            before = found
        return student


class Course:
    """What the three courses share: a student, its running mean, an optimiser with a falling rate."""

    name: str
    batch: int
    rate: float

    def __init__(self, school: School, student: Student, steps: int) -> None:
        self.school, self.student, rate = school, student, self.rate
        mean_of = get_ema_multi_avg_fn(EMA)  # type: ignore[no-untyped-call]
        self.mean = AveragedModel(student, multi_avg_fn=mean_of, use_buffers=False)
        *stages, last = student.parts
        groups = [{"params": [*torch.nn.ModuleList(stages).parameters()]}, {"params": [*last.parameters()]}]
        self.optimiser = torch.optim.Adam(groups, lr=rate, betas=(0.9, 0.99))
        rates = [rate, rate * LAST]
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimiser, rates, steps, pct_start=0.1)

    def losses(self, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        raise NotImplementedError

    def step(self, _: int, generator: torch.Generator) -> dict[str, float]:
        loss, figures = self.losses(generator)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), 50.0)
        self.optimiser.step()
        self.schedule.step()
        self.mean.update_parameters(self.student)
        return figures

    def run(self, budget: Budget, seed: int, run: Path) -> Student:
        state: dict[str, Stateful] = {
            "student": self.student, "mean": self.mean, "optimiser": self.optimiser, "schedule": self.schedule
        }  # fmt: skip
        train(self.step, state, budget=budget, seed=seed, run=run, name=self.name)
        self.student.load_state_dict(self.mean.module.state_dict())
        return self.student


class Blocks(Course):
    """Every stage alone, from the teacher's map to the teacher's next."""

    name, batch, rate = "guide-blocks", BATCH, BLOCKS_LR

    def losses(self, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        before = fed = self.school.fed(various(self.school.faces, self.batch, generator))
        total, figures = torch.zeros(()), {}
        for index, (part, found) in enumerate(zip(self.student.each, self.school.told(fed), strict=True)):
            few = max(8, min(self.batch, round(PLACES / part.stage.side_out**2)))
            given, wanted = before[:few], found[:few]
            with half_precision("cpu"):
                answer = part.change(channels_last(given))
            error = off(answer.float(), wanted - given if part.stage.residual else wanted, part)
            total, before = total + error, found
            figures[f"e{index}"] = error.item()
        return total, figures


class Joined(Course):
    """The whole student on its own maps: errors of all maps, the embedding, and who is like whom in the batch."""

    name, batch, rate = "guide-joined", JOINED_BATCH, JOINED_LR

    def losses(self, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        fed = self.school.fed(various(self.school.faces, self.batch, generator))
        with half_precision("cpu"):
            answers = self.student.maps(channels_last(fed))
        return self.compare(answers, self.school.told(fed))

    def compare(self, answers: list[Tensor], wanted: list[Tensor]) -> tuple[Tensor, dict[str, float]]:
        errors = [
            ((mine.float() - its).square().mean((0, 2, 3)) / its.var((0, 2, 3)).clamp(min=1e-6)).mean()
            for mine, its in zip(answers, wanted, strict=True)
        ]
        mine, its = (F.normalize(one[-1].flatten(1).float()) for one in (answers, wanted))
        cosine = (mine * its).sum(1).mean()
        alike = (mine @ mine.T - its @ its.T).square().mean().sqrt()
        error = torch.stack(errors).mean()
        total = MAPS_WEIGHT * error + COSINE_WEIGHT * (1 - cosine) + ALIKE_WEIGHT * alike
        return total, {"maps": error.item(), "last": errors[-2].item(), "cosine": cosine.item(), "alike": alike.item()}


class Slopes(Joined):
    """And the teacher's gradients where an attack asks for them: faces on their way, some attacked by the student."""

    name, batch, rate = "guide-slopes", JOINED_BATCH, SLOPES_LR

    def losses(self, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        faces = various(self.school.faces, self.batch, generator)
        fed = self.school.fed(faces)
        few = SLOPES_BATCH
        own = self.school.told(fed)[-1].flatten(1)[:few]
        towards = F.normalize(F.normalize(own) - 0.7 * F.normalize(augment.normal(own.shape, generator, own)))
        seen = noisy(faces[:few], generator)
        if augment.uniform(generator) < 0.7:
            seen = self.attacked(seen, towards, 1 + int(torch.randint(5, (), generator=generator)))
        fed = self.school.fed(torch.cat([seen, faces[few:]]))
        with half_precision("cpu"):
            answers = self.student.maps(channels_last(fed[few:]))
        seen.requires_grad_(True)
        near = self.student.maps(self.school.fed(seen))
        total, figures = self.compare(
            [torch.cat([a.float(), b.float()]) for a, b in zip(near, answers, strict=True)],
            self.school.told(fed),
        )
        cosines = (F.normalize(near[-1].flatten(1)) * towards).sum(1)
        (mine,) = torch.autograd.grad(cosines.sum(), seen, create_graph=True)
        its = self.school.slopes(seen, towards)
        slope = F.cosine_similarity(mine.flatten(1), its.flatten(1)).mean()
        return total + SLOPE_WEIGHT * (1 - slope), {**figures, "slope": slope.item()}

    def attacked(self, faces: Tensor, towards: Tensor, steps: int) -> Tensor:
        """Faces after so many steps on the student, away from their embeddings."""
        start, rate = faces, 10 / 255 / steps
        for _ in range(steps):
            faces = faces.detach().requires_grad_(True)
            with half_precision("cpu"):
                mine = self.student(channels_last(self.school.fed(faces))).float()
            (slope,) = torch.autograd.grad((F.normalize(mine) * towards).sum(), faces)
            faces = faces - rate * torch.tanh(slope / slope.abs().mean((1, 2, 3), keepdim=True))
        return (start + (faces - start).clamp(-10 / 255, 10 / 255)).clamp(0, 1).detach()


def off(answer: Tensor, wanted: Tensor, part: Part) -> Tensor:
    """Mean squared error in shares of each channel's variance."""
    return ((answer - wanted) / part.scale.view(-1, 1, 1)).square().mean()


@torch.no_grad()
def likeness(school: School, student: Student, held_out: Faces, *, seed: int = 1, count: int = 32) -> dict[str, float]:
    """How near a student is to its teacher on people that it never saw: maps, embeddings and gradients."""
    generator = torch.Generator().manual_seed(seed)
    faces = held_out.batch(torch.randint(len(held_out), (count,), generator=generator))
    wanted, answers = school.told(school.fed(faces)), student.maps(channels_last(school.fed(faces)))
    cosine = F.cosine_similarity(wanted[-1].flatten(1), answers[-1].flatten(1)).mean().item()
    error = float(np.mean([((a - b).square().mean() / b.var()).item() for a, b in zip(answers, wanted, strict=True)]))
    own = F.normalize(wanted[-1].flatten(1))
    own = F.normalize(own - own.roll(1, 0))  # what sets a face apart from another
    seen = noisy(faces, generator)
    its = school.slopes(seen, own)
    with torch.enable_grad():
        seen.requires_grad_(True)
        mine = F.normalize(student(school.fed(seen)))
        (slope,) = torch.autograd.grad((mine * own).sum(), seen)
    found = F.cosine_similarity(slope.flatten(1), its.flatten(1)).mean().item()
    return {"maps": error, "cosine": cosine, "slope": found}
