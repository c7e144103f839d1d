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

from apf.errors import OtherVersion, RecipeError
from apf.guides.catalogue import DLIB
from apf.recipe import (
    BUILT_IN,
    STEPS_FIELDS,
    VERSION,
    Recipe,
    guide_digests,
    load_recipe,
    make_recipe,
    other_guides,
    other_version,
    ready_recipe,
    recipe_fields,
)
from apf.weight_files import weights_digest
from tests.conftest import OWN_SETTINGS

#: For each field but the name, a value that is not the standard recipe's.
OTHERS: dict[str, Any] = {
    "epsilon_levels": 9,
    "chroma": 0.3,
    "warp_percent": 0.0,
    "stages": ("gradient", "universal"),
    "steps": 41,
    "guides": ("dlib", "probe"),
    "jury": ("probe",),
    "guide_digests": ("f" * 64,),
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
    chroma=st.sampled_from([0.0, 0.5, 1.0]),
    warp_percent=st.sampled_from([0.0, 0.5, 3.0]),
    steps=st.sampled_from([0, 0, 1, 400]),
    guides=st.sampled_from([("dlib",), ("dlib", "probe"), ("probe", "dlib")]),
    jury=st.sampled_from([(), ("sface",)]),
    guide_digests=st.sampled_from([(), ("f" * 64,)]),
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


@pytest.fixture
def with_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user's environment is, where the built-in recipes take their steps."""
    for name in OWN_SETTINGS:
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("with_steps")
@pytest.mark.parametrize("field", sorted(set(Recipe.model_fields) - {"name", "refine_steps"}))
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


@pytest.mark.usefixtures("with_steps")
@pytest.mark.parametrize(
    ("name", "levels", "chroma", "warp", "steps", "guides"),
    [
        ("light", 6, 0.45, 0.5, 20, ("dlib", "apf-mfn")),
        ("standard", 8, 0.45, 0.6, 20, ("dlib", "apf-mfn")),
        ("strong", 12, 0.45, 0.8, 20, ("dlib", "apf-mfn")),
        ("fast", 8, 0.3, 0.6, 3, ("apf-mfn",)),
        ("modules", 10, 0.3, 0.6, 0, ()),
    ],
)
def test_built_in(name: str, levels: int, chroma: float, warp: float, steps: int, guides: tuple[str, ...]) -> None:
    """The built-in recipes have the promised bounds, all stages, and the weights and guides that are installed."""
    recipe = load_recipe(name)
    assert recipe.epsilon_levels == levels and recipe.epsilon == levels / 255
    assert (recipe.chroma, recipe.warp_percent) == (chroma, warp)
    assert recipe.stages == ("gradient", "transfer", "universal")
    assert (recipe.steps, recipe.guides) == (steps, guides)
    assert recipe.guide_digests == guide_digests(list(guides))
    assert recipe.weights == weights_digest()
    assert len({load_recipe(other).id for other in BUILT_IN}) == len(BUILT_IN)


@pytest.mark.parametrize("steps", [0, 1, 400])
def test_steps_within_their_range(tmp_path: Path, steps: int) -> None:
    """A file may ask for none to four hundred steps, and each number is a recipe of its own."""
    recipe = load_recipe(write(tmp_path, f"epsilon_levels = 8\nsteps = {steps}\n"))
    assert recipe.steps == steps
    assert (recipe.id == load_recipe("standard").id) == (steps == 0)


def test_guides_count_where_there_are_steps_alone(tmp_path: Path) -> None:
    """Without steps guides and jurors change no pixel, nor the id; with steps they change it."""

    def id_of(steps: int, guides: str, jury: str = "") -> str:
        return load_recipe(
            write(tmp_path, f"epsilon_levels = 8\nsteps = {steps}\nguides = [{guides}]\njury = [{jury}]\n")
        ).id

    assert id_of(0, '"probe"', '"dlib"') == id_of(0, '"dlib"') == id_of(0, "") == load_recipe("standard").id
    several = [('"dlib"', ""), ('"probe"', ""), ('"dlib"', '"probe"'), ('"probe", "dlib"', "")]
    assert len({id_of(2, guides, jury) for guides, jury in several}) == len(several)


def test_the_guides_files_count(tmp_path: Path) -> None:
    """Another file under a guide's name is another recipe, as is another way that the file is fed."""
    guide = tmp_path / "mine.onnx"
    ids = []
    for data, spec in ((b"one", None), (b"other", None), (b"other", "{}")):
        guide.write_bytes(data)
        if spec is not None:
            guide.with_suffix(".json").write_text(spec)
        recipe = load_recipe(write(tmp_path, f'epsilon_levels = 8\nsteps = 1\nguides = ["{guide}"]\njury = ["dlib"]\n'))
        assert recipe.guide_digests == guide_digests([str(guide), "dlib"]) and recipe.guide_digests[1] == DLIB.sha256
        assert other_version(recipe) is None
        ids.append(recipe.id)
    assert len(set(ids)) == 3


def test_guides_of_other_bytes_are_refused(tmp_path: Path) -> None:
    """An installation whose guide has other bytes, or has no such guide, does not do the recipe, and says why."""
    guide = tmp_path / "mine.onnx"
    guide.write_bytes(b"one")
    made = load_recipe(write(tmp_path, f'epsilon_levels = 8\nsteps = 1\nguides = ["dlib", "{guide}"]\n'))
    guide.write_bytes(b"other")
    here = guide_digests([str(guide)])[0]
    said = f"is for guide {str(guide)!r} with SHA-256 {made.guide_digests[1][:16]}, here it has {here[:16]}: give all"
    assert said in str(other_guides(made))
    with pytest.raises(OtherVersion, match="give all machines the same file"):
        ready_recipe(made)
    for fewer in ((), made.guide_digests[:1]):
        assert "of no digest" in str(other_guides(made.model_copy(update={"guide_digests": fewer})))
    guide.unlink()
    assert "cannot be read: name an ONNX file that is there" in str(other_guides(made))
    assert other_version(made) is None, "whoever only reads of the batch needs no guide"


def test_a_guide_that_is_known_and_not_here_is_told_before_a_photo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SFace that was not pulled, and dlib's network that is gone, keep a worker from the recipe."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    made = load_recipe(write(tmp_path, 'epsilon_levels = 8\nsteps = 1\nguides = ["sface"]\n'))
    with pytest.raises(OtherVersion, match="apf guides pull sface"):
        ready_recipe(made)
    made = load_recipe(write(tmp_path, "epsilon_levels = 8\nsteps = 1\n"))
    assert other_guides(made) is None
    monkeypatch.setattr("apf.guides.catalogue.DLIB_FILE", tmp_path / "gone.dat")
    with pytest.raises(OtherVersion, match="install the package again"):
        ready_recipe(made)


def test_a_record_of_an_older_version_is_written_as_that_version_had_it() -> None:
    """A worker of that version still reads what this one writes of its batch."""
    fields = {"name": "old", "epsilon_levels": 8, "refine_steps": 2, "version": 4}
    written = Recipe.model_validate(fields).model_dump(mode="json")
    assert written["refine_steps"] == 2 and not set(STEPS_FIELDS) & set(written)
    assert Recipe.model_validate(written).id == Recipe.model_validate(fields).id
    assert "refine_steps" not in load_recipe("modules").model_dump()


@pytest.mark.parametrize(
    ("variable", "value", "found"),
    [
        ("APF_GUIDES", "probe, dlib", {"guides": ("probe", "dlib")}),
        ("APF_JURY", "probe", {"jury": ("probe",)}),
        ("APF_STEPS", "7", {"steps": 7}),
        ("APF_STEPS", "", {"steps": 20}),
    ],
)
@pytest.mark.usefixtures("with_steps")
def test_the_environment_speaks_for_recipes_that_do_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, value: str, found: dict[str, object]
) -> None:
    """APF_GUIDES, APF_JURY and APF_STEPS count for built-in recipes and files, but not against what a file says."""
    monkeypatch.setenv(variable, value)
    silent = write(tmp_path, "epsilon_levels = 8\n")
    for recipe in (load_recipe("standard"), load_recipe(silent)):
        assert {field: getattr(recipe, field) for field in found} == found
    says = write(tmp_path, 'epsilon_levels = 8\nsteps = 3\nguides = ["dlib"]\njury = []\n')
    recipe = load_recipe(says)
    assert (recipe.steps, recipe.guides, recipe.jury) == (3, ("dlib",), ())
    assert load_recipe("fast").guides == ("apf-mfn",) and load_recipe("fast").steps == 3
    assert load_recipe("modules").steps == 0


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("APF_GUIDES", "antelope", "no guide named 'antelope'"),
        ("APF_GUIDES", "dlib,dlib", "'dlib' is there twice"),
        ("APF_JURY", "dlib", "dlib is there twice among guides and jury: keep one"),
        ("APF_STEPS", "many", r"steps\n.*integer"),
        ("APF_STEPS", "-1", r"steps\n.*greater than or equal to 0"),
    ],
)
@pytest.mark.usefixtures("with_steps")
def test_an_unfit_environment_is_told(monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str) -> None:
    """Unknown guides, ones that are named twice, and numbers that are none are RecipeErrors that name them."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(RecipeError, match=message):
        load_recipe("standard")


#: What version 4 wrote into its records, and the ids that it gave.
OLD_RECORDS = {
    '{"name":"standard","epsilon_levels":8,"stages":["gradient","transfer","universal"],"refine_steps":0,'
    '"detector":"centerface","jpeg_floor_quality":75,"keep_metadata":[],'
    f'"weights":"{"ab" * 32}","version":4}}': "003f8baf0753590f",
    '{"name":"mine","epsilon_levels":12,"stages":["gradient","universal"],"refine_steps":3,"detector":"buffalo_l",'
    f'"jpeg_floor_quality":80,"keep_metadata":["Copyright"],"weights":"{"ab" * 32}","version":4}}': "5db0b7b8622b05cc",
}


@pytest.mark.parametrize(("record", "id"), OLD_RECORDS.items(), ids=["standard", "refined"])
def test_records_of_the_version_before_keep_their_id(record: str, id: str) -> None:
    """Version 4's recipes are read, written anew and read again under the id on their outputs, and not done here."""
    recipe = Recipe.model_validate_json(record)
    again = Recipe.model_validate_json(recipe.model_dump_json())
    assert recipe.id == again.id == id and again == recipe
    assert (recipe.steps, recipe.guides, recipe.warp_percent) == (0, (), 0)
    with pytest.raises(OtherVersion, match=rf"of version 4, this installation does version {VERSION}"):
        ready_recipe(recipe)


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
        ("epsilon_levels = 8\nrefine_steps = 3", "has refine_steps, which is no more: say steps, on guides, instead"),
        ("epsilon_levels = 8\nsteps = -1", r"steps\n.*greater than or equal to 0"),
        ("epsilon_levels = 8\nsteps = 401", r"steps\n.*less than or equal to 400"),
        ("epsilon_levels = 8\nsteps = 1.5", r"steps\n.*integer"),
        ("epsilon_levels = 8\nsteps = 'many'", r"steps\n.*integer"),
        ("epsilon_levels = 8\nsteps = 2\nguides = []", "steps need a guide: name one in guides, or set steps = 0"),
        (
            "epsilon_levels = 8\nsteps = 2\nguides = ['dlib', 'probe']\njury = ['probe']",
            "probe is there twice among guides and jury",
        ),
        ("epsilon_levels = 8\nsteps = 2\nguides = ['dlib', 'dlib']", "dlib is there twice"),
        ("epsilon_levels = 8\nversion = '5'\nsteps = 2\nguides = []", "steps need a guide"),
        ("epsilon_levels = 8\nsteps = 2\nguides = ['antelope']", "no guide named 'antelope'"),
        ("epsilon_levels = 8\nsteps = 2\njury = ['/no/where.onnx']", "/no/where.onnx cannot be read"),
        ("epsilon_levels = 8\nchroma = -0.1", r"chroma\n.*greater than or equal to 0"),
        ("epsilon_levels = 8\nchroma = 1.1", r"chroma\n.*less than or equal to 1"),
        ("epsilon_levels = 8\nwarp_percent = -1", r"warp_percent\n.*greater than or equal to 0"),
        ("epsilon_levels = 8\nwarp_percent = 3.5", r"warp_percent\n.*less than or equal to 3"),
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
    with pytest.raises(RecipeError, match=r"light, standard, strong, fast|cannot be read"):
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
