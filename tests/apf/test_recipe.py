"""Recipes: equal fields have equal ids, and nothing unclear is ever run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from apf.errors import RecipeError
from apf.recipe import BUILT_IN, VERSION, Recipe, load_recipe, make_recipe, recipe_fields, weights_digest

#: For each field but the name, a value that is not the standard recipe's.
OTHERS: dict[str, Any] = {
    "epsilon_levels": 9,
    "stages": ("gradient", "universal"),
    "refine_steps": 3,
    "detector": "buffalo_l",
    "jpeg_floor_quality": 80,
    "keep_metadata": ("Copyright",),
    "weights": "f" * 64,
    "version": VERSION + 1,
}

recipes = st.builds(
    Recipe,
    name=st.text(min_size=1, max_size=64),
    epsilon_levels=st.integers(1, 32),
    stages=st.sampled_from([("gradient",), ("universal",), ("gradient", "transfer"), ("gradient", "universal")]),
    refine_steps=st.integers(0, 100),
    detector=st.text(max_size=10),
    jpeg_floor_quality=st.integers(1, 95),
    weights=st.text("0123456789abcdef", max_size=64),
)


def write(folder: Path, text: str) -> Path:
    file = folder / "mine.toml"
    file.write_text(text, encoding="utf-8")
    return file


@given(recipe=recipes, name=st.text(min_size=1, max_size=64))
def test_equal_fields_have_equal_ids(recipe: Recipe, name: str) -> None:
    """The id survives a round trip through JSON and does not depend on the name."""
    again = Recipe.model_validate_json(recipe.model_dump_json())
    assert again == recipe and again.id == recipe.id
    assert recipe.model_copy(update={"name": name}).id == recipe.id


@given(one=recipes, other=recipes)
def test_ids_are_equal_only_for_equal_fields(one: Recipe, other: Recipe) -> None:
    """Two recipes share an id if and only if they agree in everything but the name."""
    same = one.model_dump(exclude={"name"}) == other.model_dump(exclude={"name"})
    assert (one.id == other.id) == same


@pytest.mark.parametrize("field", sorted(set(Recipe.model_fields) - {"name"}))
def test_every_field_counts(field: str) -> None:
    """Changing any field but the name changes the id: outputs made differently are told apart."""
    recipe = load_recipe("standard")
    changed = Recipe.model_validate({**recipe.model_dump(), field: OTHERS[field]})
    assert changed.id != recipe.id


def test_id_is_the_same_in_another_process() -> None:
    """The id does not hang on the process's hash seed: workers on many machines agree."""
    code = "from apf.recipe import load_recipe; print(load_recipe('strong').id)"
    env = {**os.environ, "PYTHONHASHSEED": "1"}
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=env).stdout
    assert shown.strip() == load_recipe("strong").id
    assert len(shown.strip()) == 16 and int(shown, 16) >= 0


def test_order_of_stages_does_not_matter() -> None:
    """Stages run in the paper's order and count once, however they were listed."""
    shuffled = Recipe(name="a", epsilon_levels=8, stages=("universal", "transfer", "gradient", "universal"))
    assert shuffled.stages == ("gradient", "transfer", "universal")
    assert shuffled.id == Recipe(name="b", epsilon_levels=8).id


@pytest.mark.parametrize(("name", "levels"), [("light", 5), ("standard", 8), ("strong", 12)])
def test_built_in(name: str, levels: int) -> None:
    """The three built-in recipes have the promised bounds, all stages, and the weights that are installed."""
    recipe = load_recipe(name)
    assert recipe.epsilon_levels == levels and recipe.epsilon == levels / 255
    assert recipe.stages == ("gradient", "transfer", "universal")
    assert recipe.refine_steps == 0, "further steps are for those who ask for them"
    assert recipe.weights == weights_digest()
    assert len({load_recipe(other).id for other in BUILT_IN}) == len(BUILT_IN)


@pytest.mark.parametrize("steps", [0, 1, 100])
def test_refine_steps_within_their_range(tmp_path: Path, steps: int) -> None:
    """A file may ask for none to a hundred further steps, and each number is a recipe of its own."""
    recipe = load_recipe(write(tmp_path, f"epsilon_levels = 8\nrefine_steps = {steps}\n"))
    assert recipe.refine_steps == steps
    assert (recipe.id == load_recipe("standard").id) == (steps == 0)


def test_detector_can_be_overridden() -> None:
    """A detector given by hand takes the recipe's place, and counts in the id."""
    recipe = load_recipe("standard", detector="buffalo_l")
    assert recipe.detector == "buffalo_l" and recipe.id != load_recipe("standard").id
    assert load_recipe("standard").detector == "centerface", "the built-in recipe was changed"


def test_recipes_are_frozen() -> None:
    """A recipe cannot change after its id was written down."""
    with pytest.raises(ValidationError, match="frozen"):
        load_recipe("light").epsilon_levels = 9  # type: ignore[misc]


def test_toml_file(tmp_path: Path) -> None:
    """A TOML file gives any field; its stem is the name unless it gives one."""
    file = write(tmp_path, 'epsilon_levels = 6\nstages = ["universal"]\nkeep_metadata = ["Copyright"]\n')
    recipe = load_recipe(file)
    assert (recipe.name, recipe.epsilon_levels, recipe.stages) == ("mine", 6, ("universal",))
    assert recipe.keep_metadata == ("Copyright",) and recipe.weights == weights_digest()
    assert load_recipe(write(tmp_path, 'name = "ours"\nepsilon_levels = 6\n')).name == "ours"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epsilon_levels = ", "is not TOML"),
        ("name = 'a'", "epsilon_levels"),
        ("epsilon_levels = 0", "epsilon_levels"),
        ("epsilon_levels = 33", "epsilon_levels"),
        ("epsilon_levels = 8.5", "epsilon_levels"),
        ("epsilon_levels = 8\nepsilon = 0.1", "epsilon"),
        ("epsilon_levels = 8\nstages = []", "name at least one"),
        ('epsilon_levels = 8\nstages = ["transfer"]', "needs the gradient stage"),
        ('epsilon_levels = 8\nstages = ["transfer", "universal"]', "needs the gradient stage"),
        ('epsilon_levels = 8\nstages = ["magic"]', "magic"),
        ("epsilon_levels = 8\nrefine_steps = -1", r"refine_steps\n.*greater than or equal to 0"),
        ("epsilon_levels = 8\nrefine_steps = 101", r"refine_steps\n.*less than or equal to 100"),
        ("epsilon_levels = 8\nrefine_steps = 1.5", r"refine_steps\n.*integer"),
        ("epsilon_levels = 8\nrefine_steps = 'many'", r"refine_steps\n.*integer"),
        ("epsilon_levels = 8\njpeg_floor_quality = 100", "jpeg_floor_quality"),
        ("epsilon_levels = 8\nname = ''", "name"),
    ],
)
def test_unfit_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    """A file that is no TOML or no recipe is a RecipeError that names the field."""
    with pytest.raises(RecipeError, match=message):
        load_recipe(write(tmp_path, text))


def test_undecodable_file(tmp_path: Path) -> None:
    """Bytes that are no UTF-8 are a RecipeError, not a crash."""
    file = tmp_path / "mine.toml"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="is not TOML"):
        load_recipe(file)


@pytest.mark.parametrize("name", ["gentle", "", "Standard", "/nowhere/at/all.toml"])
def test_unknown_names_are_refused(name: str) -> None:
    """An unknown name lists the known ones; a missing file is named."""
    with pytest.raises(RecipeError, match=r"light, standard, strong|cannot be read"):
        load_recipe(name)


def test_a_recipe_is_kept_as_it_was_asked_for_and_gets_its_weights_when_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kept fields make the recipe that the name or the file makes; with other weights they make another."""
    file = tmp_path / "mine.toml"
    file.write_text("epsilon_levels = 9\n")
    for asked in ("light", file):
        fields = recipe_fields(asked)
        assert make_recipe(fields) == load_recipe(asked)
        assert make_recipe(fields, detector="buffalo_l").detector == "buffalo_l"
        assert "weights" not in fields
    before = make_recipe({"name": "light"}).id
    monkeypatch.setattr("apf.recipe.weights_digest", lambda: "0" * 64)
    assert make_recipe({"name": "light"}).id != before
    with pytest.raises(RecipeError, match="recipe 'nobody' does not validate"):
        make_recipe({"name": "nobody"})
