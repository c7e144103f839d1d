"""Recipes: how to protect, frozen and hashed to the id that every output carries."""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from apf.errors import GuideError, OtherVersion, RecipeError
from apf.guides.catalogue import check_present, guide_digest, parse_guides
from apf.stages.constants import Stage
from apf.weight_files import WEIGHTS_DIR, check_weights, weights_digest

#: Of what the code does to pixels, whatever the weights.
VERSION = 6

#: The largest bound of a pixel, as a share of epsilon.
MOST = 1.625
#: The guides of steps unless a recipe or `APF_GUIDES` names others.
DEFAULT_GUIDES = ("dlib", "apf-mfn")
#: The version from which recipes have steps on guides, and the fields that came with it.
STEPS_VERSION = 5
STEPS_FIELDS = ("chroma", "warp_percent", "steps", "guides", "jury", "guide_digests")


def most_levels(epsilon_levels: float) -> int:
    """Levels of 255 that no pixel moves beyond under an epsilon."""
    return round(MOST * epsilon_levels)


class Recipe(BaseModel):
    """How to protect a photo. Two recipes with equal fields have equal ids, on any machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=64)
    #: How far a pixel of some texture moves, in levels of 255. Smooth skin moves by an eighth of it, and no pixel by
    #: more than 1.625 times as much (`apf.attack.bound`).
    epsilon_levels: int = Field(ge=1, le=32)
    #: Share of the change that goes into colour; the rest makes pixels lighter or darker.
    chroma: float = Field(default=0.45, ge=0, le=1)
    #: How far a point of the face may shift, in percent of the face's side.
    warp_percent: float = Field(default=0.6, ge=0, le=3)
    #: The modules that run; `transfer` needs `gradient`.
    stages: tuple[Stage, ...] = ("gradient", "transfer", "universal")
    #: Steps on the guides, through the photo's road, that start from the stages' answer.
    steps: int = Field(default=20, ge=0, le=400)
    #: The recognisers that the steps climb on (`apf.guides`): "dlib", "probe", "sface", ONNX files, InsightFace packs.
    guides: tuple[str, ...] = DEFAULT_GUIDES
    #: Recognisers that are not climbed on, and say when a face is safe; without any the guides themselves say so.
    jury: tuple[str, ...] = ()
    #: SHA-256 of each guide and juror, in order; filled in by `load_recipe`.
    guide_digests: tuple[str, ...] = ()
    #: Of records that a version before 5 wrote, whose ids count it; nothing does these steps any more.
    refine_steps: int = Field(default=0, ge=0, le=100)
    #: "centerface", "yunet", or the name or folder of an InsightFace pack.
    detector: str = "centerface"
    #: JPEGs leave with their own quantisation tables, but never coarser than this IJG quality.
    jpeg_floor_quality: int = Field(default=75, ge=1, le=95)
    #: EXIF tags, by name, that survive. Everything else but the ICC profile is stripped.
    keep_metadata: tuple[str, ...] = ()
    #: SHA-256 over the weight files; filled in by `load_recipe`.
    weights: str = ""
    #: Raised when the code changes what a recipe does to pixels.
    version: int = VERSION

    @model_validator(mode="before")
    @classmethod
    def _older(cls, fields: object) -> object:
        """Recipes of records that a version before wrote: they had no steps on guides."""
        version = fields.get("version", VERSION) if isinstance(fields, dict) else VERSION
        if isinstance(fields, dict) and isinstance(version, int) and version < STEPS_VERSION:
            return {**fields, "steps": 0, "warp_percent": 0}
        return fields

    @model_validator(mode="after")
    def _guides_fit(self) -> Recipe:
        if not self.steps:  # equal work, equal id
            for name in ("guides", "jury", "guide_digests"):
                object.__setattr__(self, name, ())
        elif not self.guides:
            raise ValueError("steps need a guide: name one in guides, or set steps = 0")
        names = [*self.guides, *self.jury]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{', '.join(twice)} is there twice among guides and jury: keep one")
        return self

    @model_serializer(mode="wrap")
    def _as_its_version(self, write: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Write a record of an older version as that version had it, so that its workers still read it."""
        left_out = STEPS_FIELDS if self.version < STEPS_VERSION else ("refine_steps",)
        return {name: value for name, value in write(self).items() if name not in left_out}

    @field_validator("stages")
    @classmethod
    def _stages_fit(cls, stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
        if not stages:
            raise ValueError("name at least one of gradient, transfer, universal")
        if "transfer" in stages and "gradient" not in stages:
            raise ValueError("the transfer stage needs the gradient stage: add it")
        return tuple(s for s in ("gradient", "transfer", "universal") if s in stages)

    @property
    def most_levels(self) -> int:
        """Levels of 255 that no pixel moves beyond, where its surroundings hide most."""
        return most_levels(self.epsilon_levels)

    @property
    def epsilon(self) -> float:
        """The bound that the three modules work at, in units of [0, 1] pixels."""
        return self.epsilon_levels / 255

    @property
    def id(self) -> str:
        """16 hex digits of the SHA-256 over all fields but the name."""
        fields = self.model_dump(mode="json", exclude={"name"})
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


#: What is done where no recipe is named.
DEFAULT_RECIPE = "standard"

BUILT_IN: dict[str, dict[str, object]] = {
    "light": {"epsilon_levels": 6, "warp_percent": 0.5},
    "standard": {"epsilon_levels": 8},
    "strong": {"epsilon_levels": 12, "warp_percent": 0.8},
    "fast": {"epsilon_levels": 8, "chroma": 0.3, "steps": 3, "guides": ("apf-mfn",)},
    "modules": {"epsilon_levels": 10, "chroma": 0.3, "steps": 0},
}


def other_version(recipe: Recipe) -> str | None:
    """Return what keeps this installation from doing the recipe: outputs carry its id, and would be other pixels under
    it.
    """
    if recipe.version != VERSION:
        return (
            f"recipe {recipe.name!r} is of version {recipe.version}, this installation does version {VERSION}: "
            "install the same version everywhere"
        )
    if recipe.weights != weights_digest():
        return (
            f"recipe {recipe.name!r} is for weights {recipe.weights[:16] or 'of no digest'}, this installation has "
            f"{weights_digest()[:16]}: install the same version everywhere"
        )
    return None


def other_guides(recipe: Recipe) -> str | None:
    """Return what keeps this installation from climbing on the recipe's guides; None where they are what it was made
    for.
    """
    names = [*recipe.guides, *recipe.jury]
    try:
        for name in names:
            check_present(name)
        found = guide_digests(names)
    except GuideError as error:
        return f"recipe {recipe.name!r}: {error}"
    made_for = recipe.guide_digests if len(recipe.guide_digests) == len(names) else [""] * len(names)
    for name, own, wanted in zip(names, found, made_for, strict=True):
        if own != wanted:
            return (
                f"recipe {recipe.name!r} is for guide {name!r} with SHA-256 {wanted[:16] or 'of no digest'}, here it "
                f"has {own[:16]}: give all machines the same file"
            )
    return None


def guide_digests(names: Sequence[str]) -> tuple[str, ...]:
    """Return the SHA-256 of each guide, with how it is fed; raises GuideError where one is unknown or missing."""
    return tuple(guide_digest(name) for name in names)


def ready_recipe(recipe: str | Path | Recipe, folder: Path = WEIGHTS_DIR) -> Recipe:
    """Return the recipe (a built-in name, a TOML file, or a Recipe), once this installation is known to do it.

    Raises:
        RecipeError: it is unknown or does not validate.
        OtherVersion: it was made for other weights or guides, or by code that does something else to pixels.
        WeightsError: the weights are missing or damaged.
    """
    found = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    if reason := other_version(found) or other_guides(found):
        raise OtherVersion(reason)
    check_weights(folder)
    return found


def check_private(recipe: Recipe) -> None:
    """Raise RecipeError where the recipe has no private mode (`apf.private`)."""
    if "gradient" not in recipe.stages:
        raise RecipeError(
            f"recipe {recipe.name!r} has no gradient stage, so that private mode would send nothing of a photo: "
            "add the stage, or protect the photos on their owners' devices"
        )


def check_jury(recipe: Recipe, *, private: bool = False) -> None:
    """Raise RecipeError where no jury says which faces are weak, so that none could fail for it."""
    if private:
        raise RecipeError("--on-weak fail asks a jury, and in private mode none sees the photo: leave one of both away")
    if not recipe.steps:
        raise RecipeError(
            f"--on-weak fail asks a jury, and recipe {recipe.name!r} has none, as it takes no steps: use one with "
            "steps, such as standard, or leave the option away"
        )


def load_recipe(name_or_file: str | Path, *, detector: str | None = None) -> Recipe:
    """Return a built-in recipe by name, or one from a TOML file; `detector` overrides the recipe's own.

    Raises:
        RecipeError: the name is unknown, or the file is missing or does not validate.
    """
    return make_recipe(recipe_fields(name_or_file), detector=detector)


def recipe_fields(name_or_file: str | Path) -> dict[str, object]:
    """Return what a recipe's file says, or the bare name of a built-in one: to be kept, and made a recipe of later.

    Raises:
        RecipeError: the name is unknown, or the file is missing or no TOML.
    """
    text = str(name_or_file)
    return {"name": text} if text in BUILT_IN else _read_toml(Path(text))


def make_recipe(fields: Mapping[str, object], *, detector: str | None = None) -> Recipe:
    """Return the recipe that `recipe_fields` were read of, with today's weights where they name none.

    Raises:
        RecipeError: the fields do not validate.
    """
    name = str(fields.get("name", ""))
    built_in: Mapping[str, object] = BUILT_IN[name] if set(fields) == {"name"} and name in BUILT_IN else {}
    over = {"detector": detector} if detector else {}
    if fields.get("refine_steps"):
        raise RecipeError(f"recipe {name!r} has refine_steps, which is no more: say steps, on guides, instead")
    try:
        said = {**_from_environment(), **built_in, **fields, **over}
        found = Recipe.model_validate({"weights": weights_digest(), **said})
        if not found.steps or found.guide_digests or found.version != VERSION:
            return found
        return found.model_copy(update={"guide_digests": guide_digests([*found.guides, *found.jury])})
    except (ValidationError, GuideError) as error:
        raise RecipeError(f"recipe {name!r} does not validate: {error}") from error


def _from_environment() -> dict[str, object]:
    """Return what the user's `APF_GUIDES`, `APF_JURY` and `APF_STEPS` say for recipes that do not say it themselves."""
    said = {field: os.environ.get(f"APF_{field.upper()}", "").strip() for field in ("guides", "jury", "steps")}
    return {field: text if field == "steps" else parse_guides(text) for field, text in said.items() if text}


def _read_toml(path: Path) -> dict[str, object]:
    if path.suffix != ".toml":
        known = ", ".join(BUILT_IN)
        raise RecipeError(f"no recipe named {str(path)!r}: use one of {known}, or a path ending in .toml")
    try:
        fields = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise RecipeError(f"recipe file {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe file {path} is not TOML: {error}") from error
    return {"name": path.stem, **fields}
