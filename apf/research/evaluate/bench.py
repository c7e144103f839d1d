"""One run of the command: what it is given, opened once, and measured level by level."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from apf.detection.detector import load_detector
from apf.filters.load import load_filter
from apf.filters.torch_filter import CHUNK, Filter
from apf.recipe import Recipe, load_recipe
from apf.research.evaluate.crops import Row
from apf.research.evaluate.kinds import KindRow, kinds
from apf.research.evaluate.methods import Method, chosen, middle, none, ours
from apf.research.evaluate.photos import PhotoBench, PhotoRow, photo_rows, row_key
from apf.research.evaluate.rivals import rivals
from apf.research.evaluate.store import Store
from apf.research.evaluate.targets import Pairs, Target, pairs, targets
from apf.research.evaluate.timing import timings
from apf.research.evaluate.whole_photos.judge import Judge
from apf.research.evaluate.whole_photos.protectors import PhotoMethod, by_recipe, by_rival, unprotected
from apf.research.evaluate.whole_photos.sizes import SizeRow, size_rows
from apf.research.evaluate.whole_photos.strangers import strangers
from apf.research.evaluate.whole_photos.subjects import subjects_in
from apf.research.train.data import DataError, Faces, load_faces
from apf.weight_files import WEIGHTS_DIR

logger = logging.getLogger(__name__)

#: Rivals that whole photos are compared by.
PHOTO_RIVALS = ("released APF", "MI-DI-40", "LowKey-like")


@dataclass(frozen=True)
class Settings:
    """What the command line says."""

    faces: Path
    photos: Path
    models: Path
    run: Path
    recognisers: tuple[Path, ...] = ()
    recipes: tuple[str, ...] = ("light", "standard", "strong", "fast", "modules")
    #: Names of rows; empty: all.
    methods: tuple[str, ...] = ()
    people: int = 100
    #: Everybody in the data set, not just the tenth that training keeps apart.
    all_people: bool = False
    fresh: bool = False
    device: str = "cpu"
    seed: int = 0
    #: The middle recipe once more at each of these.
    precisions: tuple[str, ...] = ()
    #: Faces to time methods on, 0 for none, and how often.
    timing_faces: int = 8
    timing_runs: int = 3
    #: The one model that the released APF trains against and Fawkes looks at; empty: the first of the train models.
    server: str = ""
    released_steps: int = 400
    #: Of whole photos only each so many-th is protected, and no more than `photos_limit` (0: no limit).
    every: int = 1
    photos_limit: int = 0
    #: Whether whole photos are also protected by rivals.
    rivals: bool = False
    #: The name or folder of an InsightFace pack whose detector finds faces, too; empty: none.
    other_detector: str = ""
    #: Folder for sheets of whole photos.
    sheets: Path | None = None


def timed_faces(faces: int, device: str) -> int:
    """At least a whole chunk of the filter: a padded one would be charged to the few faces in it."""
    return max(faces, CHUNK["cuda"]) if device.startswith("cuda") else faces


@dataclass(frozen=True)
class Bench:
    """Faces, recognisers and methods of a run, each loaded when first wanted."""

    settings: Settings

    @cached_property
    def recipes(self) -> list[Recipe]:
        return [load_recipe(name) for name in self.settings.recipes]

    @cached_property
    def middle(self) -> Recipe:
        return middle(self.recipes)

    @cached_property
    def filter(self) -> Filter:
        """Ours by the middle recipe, by torch: for its networks."""
        return Filter.load(self.middle, self.settings.device)

    @cached_property
    def everybody(self) -> Faces:
        return load_faces(self.settings.faces)

    @cached_property
    def faces(self) -> Faces:
        """Those who are measured: they give the pairs, the thresholds and the gallery."""
        found = self.everybody if self.settings.all_people else self.everybody.split()[1]
        if not len(found):
            raise DataError(f"{self.settings.faces} holds nobody whom training keeps apart: add --all-people")
        return found

    @cached_property
    def others(self) -> Faces:
        """Faces that rivals may learn from: of nobody who is protected."""
        if not self.settings.all_people:
            return self.everybody.split()[0]
        protected = set(self.pairs.people)
        return self.everybody.select([i for i, name in enumerate(self.everybody.people) if name not in protected])

    @cached_property
    def pairs(self) -> Pairs:
        return pairs(self.faces, self.settings.people)

    @cached_property
    def targets(self) -> list[Target]:
        own = self.settings
        cache = own.run / "evaluate" / "embeddings"
        return targets(own.models, own.recognisers, self.faces, cache=cache, device=own.device)

    @cached_property
    def methods(self) -> list[Method]:
        found = [none(), *self._rivals(), *ours(self.recipes, self.settings.device, self.settings.precisions)]
        return chosen(found, self.settings.methods)

    def crops(self) -> list[Row]:
        """Return the rows on aligned crops, with times taken now whatever is kept of the rest."""
        kept = Store(self.settings.run / "evaluate", fresh=self.settings.fresh)
        rows = kept.rows(self.pairs, self.targets, self.methods)
        if not self.settings.timing_faces:
            return rows
        faces = self.pairs.probes[: timed_faces(self.settings.timing_faces, self.settings.device)]
        times = timings([m for m in self.methods if m.name != "none"], faces, runs=self.settings.timing_runs)
        return [row.model_copy(update={"timing": times.get(row.method)}) for row in rows]

    @cached_property
    def photo_bench(self) -> PhotoBench:
        """The whole photos, and who judges them."""
        own = self.settings
        detector = load_detector(self.middle.detector, own.device)
        other = load_detector(own.other_detector, own.device) if own.other_detector else None
        subjects, faceless = subjects_in(own.photos, detector)
        if faceless:
            logger.warning("%d photos show no face, and are left out", faceless)
        cache = own.run / "evaluate" / "embeddings"
        judge = Judge(subjects, self.targets, strangers(self.targets, self.everybody, subjects, cache=cache))
        return PhotoBench(subjects, judge, detector, other, every=own.every, limit=own.photos_limit)

    @cached_property
    def photo_methods(self) -> list[PhotoMethod]:
        """The rows of whole photos; rivals where they are asked for, all together or by name."""
        own, base = self.settings, self.middle
        climbed = [target.name for target in self.targets if target.trained_on]
        found = [unprotected()]
        for rival in self._rivals():
            if rival.name in PHOTO_RIVALS and (own.rivals or rival.name in own.methods):
                guides = [own.server or climbed[0]] if rival.name == "released APF" else climbed
                found.append(by_rival(rival.name, rival.build, rival.key, guides, base))
        found += [by_recipe(recipe, self.targets, own.device) for recipe in self.recipes]
        wanted = [method for method in found if not own.methods or method.name in own.methods]
        if not wanted:
            names = ", ".join([*(method.name for method in found), *PHOTO_RIVALS])
            raise DataError(f"no way to protect photos is named {' or '.join(own.methods)}: use one of {names}")
        return wanted

    def photos(self) -> list[PhotoRow]:
        """Return the rows on whole photos."""
        own, bench = self.settings, self.photo_bench
        key = row_key(bench, [self.middle.detector, own.other_detector])
        kept = own.run / "evaluate" / "photos"
        return photo_rows(bench, self.photo_methods, folder=kept, key=key, fresh=own.fresh, pictures=own.sheets)

    def sizes(self) -> list[SizeRow]:
        """Return the middle recipe on whole photos, by size of the face."""
        return size_rows(self.photo_bench, by_recipe(self.middle, self.targets, self.settings.device).build())

    def kinds(self) -> list[KindRow]:
        """Return the middle recipe on the same crops, by kind of photo."""
        return kinds(self.pairs, load_filter(self.middle, self.settings.device), self.targets)

    def _rivals(self) -> list[Method]:
        """Return the rivals at the epsilon of the middle recipe; none where there is no model to climb on."""
        own, base = self.settings, self.middle
        surrogates = {target.name: target for target in self.targets if target.trained_on}
        if not surrogates:
            return []
        if own.server and own.server not in surrogates:
            raise DataError(f"no train recogniser named {own.server!r}: use one of {', '.join(surrogates)}")
        builders = rivals(
            {name: target.recogniser for name, target in surrogates.items()},
            probe=lambda: self.filter.probe,
            faces=lambda: self.others,
            run=own.run / "evaluate" / "rivals",
            epsilon=base.epsilon,
            seed=own.seed,
            server=own.server or None,
            released_steps=own.released_steps,
        )
        for name in self._impossible():
            logger.warning("no row %r: --faces holds too few photos of people who are not measured", name)
            builders.pop(name)
        keys = [target.recogniser.key for target in surrogates.values()]
        made_of = [base.epsilon_levels, own.seed, own.device, *keys]
        return [Method(name, build, json.dumps([*made_of, *self._depends(name)])) for name, build in builders.items()]

    def _impossible(self) -> list[str]:
        """Rivals that have nobody to learn from."""
        others = self.others.by_person().values()
        needs = {"released APF": any(len(photos) > 1 for photos in others), "Fawkes-like": bool(others)}
        return [name for name, met in needs.items() if not met]

    def _depends(self, rival: str) -> list[object]:
        """Return what this rival's faces depend on besides, so that new weights of ours leave the costly ones alone."""
        probe = hashlib.sha256((WEIGHTS_DIR / "probe.safetensors").read_bytes()).hexdigest()
        learnt: list[object] = [str(self.settings.faces.resolve()), self.settings.all_people, self.settings.server]
        depends: dict[str, list[object]] = {
            "PGD-10 (probe)": [probe],
            "released APF": [probe, *learnt, self.settings.released_steps],
            "Fawkes-like": learnt,
        }
        return depends.get(rival, [])
