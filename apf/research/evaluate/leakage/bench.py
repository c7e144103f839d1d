"""A run of the measurement: what is given, what is learnt first, and the rows, each kept once it is finished."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from apf.filters.torch_filter import Filter
from apf.private.quantise import REACHED
from apf.research.evaluate.conditions import eight_bits
from apf.research.evaluate.crops import fingerprint
from apf.research.evaluate.leakage.attacker import Attacker
from apf.research.evaluate.leakage.attacks import Measured, few, leaks
from apf.research.evaluate.leakage.clipped import Noise, Shown, released, shown
from apf.research.evaluate.leakage.gradients import Sent, gradients_of, seeds_of, sent
from apf.research.evaluate.leakage.puzzle import Puzzle, Straight
from apf.research.evaluate.leakage.reductions import COMMON, ROWS, Reduction
from apf.research.evaluate.leakage.rows import Ceiling, Kept, Row, alone, ceiling, kept
from apf.research.evaluate.leakage.training import Lesson, Look, common, own, slug
from apf.research.evaluate.targets import Pairs, Target, pairs, targets
from apf.research.train.data import DataError, is_held_out, load_faces
from apf.research.train.probe import Targets
from apf.research.train.teachers import embeddings, load_teachers
from apf.stages.constants import CHANNELS

#: Raised when the same faces and settings would now give other figures.
VERSION = "1"
#: Faces that the clipped noise is shown on.
CLIPPED_FACES = 40
#: Faces from which an attacker learns how to undo moves.
PUZZLE_FACES = 1500
#: Of the reductions, the one whose noise is held against the released method's.
PLAIN = "sign"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The command's options."""

    faces: Path
    models: Path
    run: Path
    seed: int = 0
    #: The rows.
    reductions: tuple[Reduction, ...] = tuple(ROWS.values())
    #: Of the attacker that all rows go on from, and of each row's own.
    steps: int = 1200
    own_steps: int = 90
    #: Who are protected and looked for.
    people: int = 100


@dataclass(frozen=True)
class Bench:
    """What the rows share, each loaded when first wanted."""

    settings: Settings

    @cached_property
    def filter(self) -> Filter:
        return Filter.load("standard")

    @cached_property
    def everybody(self) -> Sent:
        return sent(load_faces(self.settings.faces), self.filter, self.settings.run / "gradients.npy")

    @cached_property
    def apart(self) -> Sent:
        """Those who are measured."""
        people = self.everybody.faces.people
        found = self.everybody.select([i for i, name in enumerate(people) if is_held_out(name)])
        if not len(found):
            raise DataError(f"{self.settings.faces} holds nobody whom training keeps apart: give more people")
        return found

    @cached_property
    def known(self) -> Sent:
        """Those whom attackers learn from."""
        people = self.everybody.faces.people
        return self.everybody.select([i for i, name in enumerate(people) if not is_held_out(name)])

    @cached_property
    def said(self) -> tuple[Tensor, Tensor]:
        """What the recognisers that training attacked say of the known and of the others: (N, 320) and (M, 320)."""
        teachers = load_teachers(self.settings.models)
        cache = self.settings.run / "embeddings"
        known = embeddings(teachers, self.known.faces, cache / "known")
        apart = embeddings(teachers, self.apart.faces, cache / "apart")
        wanted = Targets.of(teachers, known)
        measured = torch.stack([found(apart[name]) for name, found in wanted.projections.items()], 1)
        size = len(teachers) ** 0.5
        return wanted.clean.flatten(1) / size, measured.flatten(1) / size

    @cached_property
    def lesson(self) -> Lesson:
        return Lesson(self.known, self.said[0], self.filter.probe)

    @cached_property
    def common(self) -> Attacker:
        own = self.settings
        reductions = [ROWS[name] for name in COMMON]
        return common(self.lesson, reductions, steps=own.steps, seed=own.seed, run=own.run / "attackers")

    @cached_property
    def strangers(self) -> list[Target]:
        """The recognisers that no training attacked."""
        cache = self.settings.run / "embeddings" / "apart"
        found = targets(self.settings.models, (), self.apart.faces, cache=cache)
        return [one for one in found if not one.trained_on] or found

    @cached_property
    def pairs(self) -> Pairs:
        return pairs(self.apart.faces, self.settings.people)

    @cached_property
    def who(self) -> Measured:
        """The photos that are linked: a few of each person who is kept apart."""
        keep = few(self.apart.faces.people)
        return Measured(self.apart.select(keep), self.said[1][keep])

    def rows(self) -> list[Row]:
        """Each from an earlier run with the same settings, or made now and kept."""
        return [
            self._kept(reduction) or self._keep(reduction, self._row(reduction))
            for reduction in self.settings.reductions
        ]

    def alone(self) -> dict[str, Kept]:
        return alone(self.filter, self.pairs, self.strangers)

    def ceiling(self) -> Ceiling:
        mean_face = self.known.faces.pixels.float().mean(0) / 255
        return ceiling(self.filter, self.who, mean_face, self.pairs, self.strangers)

    def clipped(self) -> list[Shown]:
        """Return the clipped-noise leak in the released method, in ours, and in ours as it is sent."""
        epsilon, filter_ = self.filter.recipe.epsilon, self.filter

        def ours(faces: Tensor) -> Tensor:
            return torch.from_numpy(gradients_of(filter_, faces)[:, :3])

        def plain(faces: Tensor) -> Tensor:
            seeds = seeds_of(eight_bits(faces))
            return torch.from_numpy(ROWS[PLAIN].seen(gradients_of(filter_, faces), seeds)[:, :3])

        noises: dict[str, Noise] = {
            "released APF": released(self.filter.probe, epsilon, self.settings.seed),
            "ours": ours,
            f"ours, {PLAIN}": plain,
        }
        return shown(self.pairs.probes[:CLIPPED_FACES], noises, epsilon)

    def _row(self, reduction: Reduction) -> Row:
        settings = self.settings
        run = settings.run / "attackers"
        look = self._look(reduction)
        attacker = own(self.common, self.lesson, reduction, look, steps=settings.own_steps, seed=settings.seed, run=run)
        channels = CHANNELS if reduction.momentum else REACHED
        return Row(
            name=reduction.name,
            bits_a_pixel=channels * reduction.bits,
            protection=kept(self.filter, reduction, self.pairs, self.strangers),
            leaks=leaks(attacker, look, self.who, self.pairs, self.strangers),
        )

    def _look(self, reduction: Reduction) -> Look:
        """Return an attacker first undoes what a device moved, as far as it can."""
        if not (reduction.tile or reduction.turned):
            return reduction.seen
        some = self.known.select(list(range(0, len(self.known), max(1, len(self.known) // PUZZLE_FACES))))
        still = replace(reduction, tile=0, turned=False)
        plain = still.seen(some.of(torch.arange(len(some))), some.seeds)
        puzzle = Puzzle.of(plain, reduction.tile) if reduction.tile else Straight.of(plain)
        return lambda gradients, seeds: puzzle.solved(reduction.seen(gradients, seeds))

    def _kept(self, reduction: Reduction) -> Row | None:
        with suppress(OSError, ValueError, KeyError, ValidationError):  # missing, cut off, or of another version
            found = json.loads(self._file(reduction).read_text())
            return Row.model_validate(found["row"]) if found["key"] == self._key(reduction) else None
        return None

    def _keep(self, reduction: Reduction, row: Row) -> Row:
        file = self._file(reduction)
        file.parent.mkdir(parents=True, exist_ok=True)
        kept = {"key": self._key(reduction), "row": row.model_dump(mode="json")}
        file.write_text(json.dumps(kept, indent=1) + "\n")
        return row

    def _file(self, reduction: Reduction) -> Path:
        return self.settings.run / "rows" / f"{slug(reduction.name)}.json"

    def _key(self, reduction: Reduction) -> str:
        own = self.settings
        made_of = (own.seed, own.steps, own.own_steps, own.people, [target.recogniser.key for target in self.strangers])
        reductions = [*(ROWS[name] for name in COMMON), reduction]
        return fingerprint(VERSION, repr((made_of, reductions)), self.filter.recipe.id, self.everybody.faces.pixels)
