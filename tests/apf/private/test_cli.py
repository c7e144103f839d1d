"""The device's commands: photos in, files out, nothing half-done, and an exit status that says how it went."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.testing
from PIL import Image

from apf.filters.torch_filter import Filter
from apf.private import cli, folders
from apf.private.files import Gradients
from apf.protect.pipeline import protect_photo
from producer.cli import app
from tests.apf.attack.scenes import without_warp
from tests.apf.private.commands import answer, files_in, run, told
from tests.apf.private.conftest import encoded, pixels_of


def test_folder_in_folder_out(photos: Path, answers: Path, tmp_path: Path, standard: Filter) -> None:
    """A folder's photos become files named by ids alone, and its protected photos, under their own relative names."""
    asked = files_in(tmp_path / "asked")
    assert len(asked) == 2 and all(len(name) == 32 + len(".safetensors") for name in asked)
    everything = b"".join((tmp_path / "asked" / name).read_bytes() for name in asked)
    assert not any(word in everything for word in (b"anna", b"lake", b"trips", "Zürich".encode()))

    assert run("apply", photos, answers, "-o", tmp_path / "out") == 0

    assert files_in(tmp_path / "out") == ["anna.png", "trips/Zürich/lake.jpg"]
    expected = pixels_of(protect_photo((photos / "anna.png").read_bytes(), without_warp(standard)).data).astype(int)
    off = np.abs(expected - pixels_of((tmp_path / "out" / "anna.png").read_bytes()))
    assert (off <= 1).mean() > 0.999


def test_a_second_run_skips_what_is_there(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is there already is not computed again, a gradient for another recipe is."""
    out = tmp_path / "asked"
    arguments = ["gradient", photos, "-o", out, "--json"]
    assert run(*arguments) == 0
    first = told(capsys)
    assert (first["photos"], first["protected"], first["no_face"], first["skipped"]) == (2, 1, 1, 0)
    before = {path: path.read_bytes() for path in out.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr("apf.private.device.Device.gradients", lambda *_, **__: pytest.fail("computed again"))
        assert run(*arguments) == 0
    again = told(capsys)
    assert again["skipped"] == 2 and [one["faces"] for one in again["each"]] == [1, 0]
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    assert run(*arguments, "--recipe", "light") == 0
    assert told(capsys)["skipped"] == 0
    assert len(list(out.iterdir())) == 2


def test_a_damaged_file_is_made_anew(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that an earlier disk or copy damaged is no reason to skip a photo."""
    out = tmp_path / "asked"
    assert run("gradient", photos / "anna.png", "-o", out) == 0
    (path,) = out.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    capsys.readouterr()
    assert run("gradient", photos / "anna.png", "-o", out, "--json") == 0
    assert told(capsys)["skipped"] == 0
    assert path.read_bytes() == whole


def test_names_are_kept_where_asked(photos: Path, tmp_path: Path, standard: Filter) -> None:
    """With --names a file is named after its photo, below the same folders, and says so; its answer is found by it."""
    assert run("gradient", photos, "-o", tmp_path / "asked", "--names") == 0
    assert files_in(tmp_path / "asked") == ["anna.png.safetensors", "trips/Zürich/lake.jpg.safetensors"]
    for name in ("anna.png", "trips/Zürich/lake.jpg"):
        assert Gradients.decode((tmp_path / "asked" / f"{name}.safetensors").read_bytes()).name == name
    answer(tmp_path / "asked", tmp_path / "answers", standard)
    assert run("apply", photos, tmp_path / "answers", "-o", tmp_path / "out") == 0
    assert files_in(tmp_path / "out") == ["anna.png", "trips/Zürich/lake.jpg"]


def test_an_edited_photo_gets_a_new_file(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], portrait_png: bytes
) -> None:
    """A photo that changed under its name is not skipped for the file that has this name."""
    arguments = ["gradient", photos / "anna.png", "-o", tmp_path / "asked", "--names", "--json"]
    path = tmp_path / "asked" / "anna.png.safetensors"
    assert run(*arguments) == 0
    before = Gradients.decode(path.read_bytes())
    (photos / "anna.png").write_bytes(encoded(pixels_of(portrait_png)[2:]))
    capsys.readouterr()
    assert run(*arguments) == 0
    assert told(capsys)["skipped"] == 0
    assert Gradients.decode(path.read_bytes()).id != before.id


def test_single_photo_and_single_answer(photos: Path, answers: Path, tmp_path: Path, device_id: str) -> None:
    """One photo and one file: the output is a file of that name, or goes into a folder that is there."""
    one = answers / f"{device_id}.safetensors"
    assert run("apply", photos / "anna.png", one, "-o", tmp_path / "new" / "protected.png") == 0
    (tmp_path / "folder").mkdir()
    assert run("apply", photos / "anna.png", answers, "-o", tmp_path / "folder") == 0
    assert files_in(tmp_path / "new") == ["protected.png"] and files_in(tmp_path / "folder") == ["anna.png"]
    assert (tmp_path / "new" / "protected.png").read_bytes() == (tmp_path / "folder" / "anna.png").read_bytes()


@pytest.fixture
def device_id(photos: Path, answers: Path, tmp_path: Path) -> str:
    """The portrait's id: that of the file with a face."""
    (found,) = (path.stem for path in (tmp_path / "asked").iterdir() if Gradients.decode(path.read_bytes()).faces)
    return found


def test_a_missing_answer_fails_one_photo(
    photos: Path, answers: Path, device_id: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A face without an answer is named with the reason and has no output; the others are done; the status is 1."""
    for path in answers.iterdir():  # the landscape's, too: where there is no face none is needed
        path.unlink()
    capsys.readouterr()
    assert run("apply", photos, answers, "-o", tmp_path / "out", "--json") == 1
    found = told(capsys)
    assert (found["failed"], found["no_face"]) == (1, 1)
    (failed,) = (one for one in found["each"] if one["outcome"] == "failed")
    assert failed["photo"].endswith("anna.png") and failed["written"] is None
    assert f"{device_id}.safetensors" in failed["reason"] and "device key" in failed["reason"]
    assert files_in(tmp_path / "out") == ["trips/Zürich/lake.jpg"]
    assert run("apply", photos, answers, "-o", tmp_path / "out") == 1
    printed = capsys.readouterr()
    assert "anna.png: no perturbation in" in printed.err
    assert "2 photos, 0 faces, 1 without a face, 1 failed, 1 files ignored; written to" in printed.out


def test_what_is_no_photo_fails_for_its_own_reason(
    photos: Path, answers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without an answer a cut-off photo and a text are told as such, not as lacking an answer."""
    (photos / "cut.png").write_bytes((photos / "anna.png").read_bytes()[:2000])
    capsys.readouterr()
    named = (photos / "cut.png", photos / "trips" / "notes.txt")
    assert run("apply", *named, answers, "-o", tmp_path / "out", "--json") == 1
    found = told(capsys)
    assert found["failed"] == 2 and not any("no perturbation" in one["reason"] for one in found["each"])
    assert not files_in(tmp_path / "out")


def test_two_photos_of_one_name_are_refused(
    photos: Path, answers: Path, tmp_path: Path, portrait_png: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where two photos would be written to one place nothing is written; by their ids they have places of their own."""
    other = tmp_path / "other" / "anna.png"
    other.parent.mkdir()
    other.write_bytes(encoded(pixels_of(portrait_png)[::-1]))
    both = (photos / "anna.png", other)
    for command in (
        ["apply", *both, answers, "-o", tmp_path / "out"],
        ["alone", *both, "-o", tmp_path / "out"],
        ["gradient", *both, "-o", tmp_path / "out", "--names"],
    ):
        assert run(*command) == 2
        assert "would both become anna.png" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert run("gradient", *both, "-o", tmp_path / "out") == 0
    assert len(files_in(tmp_path / "out")) == 2
    assert run("gradient", photos, photos / "anna.png", "-o", tmp_path / "named", "--names") == 0  # one photo, twice


def test_weak_answers_are_told(
    photos: Path, answers: Path, device_id: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], standard: Filter
) -> None:
    """An answer that does not protect fails its photo, and goes through with --accept-weak."""
    path = answers / f"{device_id}.safetensors"
    question = Gradients.decode((tmp_path / "asked" / path.name).read_bytes())
    path.write_bytes(folders.Perturbations.of(question, np.zeros((1, 3, 112, 112), np.float32)).encode())
    assert run("apply", photos / "anna.png", path, "-o", tmp_path / "out.png") == 1
    assert "--accept-weak" in capsys.readouterr().err and not (tmp_path / "out.png").exists()
    assert run("apply", photos / "anna.png", path, "-o", tmp_path / "out.png", "--accept-weak") == 0
    assert (tmp_path / "out.png").exists()


def test_another_key_finds_no_answer(
    photos: Path, answers: Path, device_id: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With another device's key a photo's answer is not found by its id, and refused where it is named."""
    other = tmp_path / "other.key"
    assert run("gradient", photos / "anna.png", "-o", tmp_path / "elsewhere", "--key", other) == 0
    assert other.exists()
    capsys.readouterr()
    for named, reason in ((answers, "no perturbation in"), (answers / f"{device_id}.safetensors", "device key")):
        assert run("apply", photos / "anna.png", named, "-o", tmp_path / "out.png", "--key", other) == 1
        assert reason in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("gradient {here}/none -o {here}/out", "none is not there"),
        ("gradient {here}/empty -o {here}/out", "no photo in"),
        ("gradient {photo} -o {here}/out --recipe unknown", "no recipe named 'unknown'"),
        ("gradient {photo} -o {here}/out --recipe {here}/refined.toml", "refine_steps, which is no more"),
        ("gradient {photo} -o {here}/out --recipe {here}/plain.toml", "no gradient stage"),
        ("gradient {photo} -o {here}/out --key {here}/foul.key", "foul.key has 2 bytes"),
        ("apply {photo} {here}/none -o {here}/out", "none is not there"),
        ("apply {photo} {here}/empty -o {here}/out", "no device key at"),
        ("show {photo}", "no safetensors file"),
        ("show {here}/none", "No such file"),
    ],
)
def test_what_cannot_run_is_told(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, reason: str
) -> None:
    """What was asked wrongly ends with status 2 and one line that names it; nothing is written."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "foul.key").write_text("abcd")
    (tmp_path / "refined.toml").write_text("refine_steps = 3\nepsilon_levels = 8\n")
    (tmp_path / "plain.toml").write_text('stages = ["universal"]\nepsilon_levels = 8\n')
    arguments = command.format(here=tmp_path, photo=photos / "anna.png").split()
    assert run(*arguments) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("apf: ") and reason in printed.err and printed.err.count("\n") == 1
    assert not printed.out and not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [["--max-megapixels", "many"], ["--bits", "8"], ["--noise", "1"], []])
def test_impossible_options_are_refused(tmp_path: Path, options: list[str]) -> None:
    """Options that are no numbers, or are none any more, and a missing --output end as argparse ends, with status 2."""
    out = ["-o", str(tmp_path)] if options else []
    with pytest.raises(SystemExit) as ended:
        run("gradient", tmp_path, *out, *options)
    assert ended.value.code == 2


def test_bad_photos_fail_alone(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A cut-off photo, and a named file that is no photo, are told; the others get their files."""
    whole = (photos / "anna.png").read_bytes()
    (photos / "cut.png").write_bytes(whole[: len(whole) // 2])
    assert run("gradient", photos, photos / "trips" / "notes.txt", "-o", tmp_path / "out", "--json") == 1
    found = told(capsys)
    failed = {Path(one["photo"]).name for one in found["each"] if one["outcome"] == "failed"}
    assert failed == {"cut.png", "notes.txt"} and found["photos"] == 4
    assert len(files_in(tmp_path / "out")) == 2


def test_an_interrupt_leaves_what_is_whole(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C ends with status 130; what was done is there, of the rest is nothing, and a second run does it."""
    write, out = folders.write_gradients, tmp_path / "out"

    def interrupted(source: folders.Source, *rest: Any, **more: Any) -> folders.PhotoOutcome:
        if source.relative.name == "lake.jpg":
            raise KeyboardInterrupt
        return write(source, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(folders, "write_gradients", interrupted)
        assert run("gradient", photos, "-o", out, "--json") == 130
    printed = capsys.readouterr()
    assert "interrupted" in printed.err and not printed.out
    assert len(files_in(out)) == 1
    assert run("gradient", photos, "-o", out, "--json") == 0
    assert told(capsys)["skipped"] == 1


@pytest.mark.parametrize("moment", ["write", "replace"])
def test_nothing_half_written_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """Ended in the middle of writing, the file that was there is still whole, and no draft stays beside it."""
    path = tmp_path / "photo.png"
    folders.write_whole(path, b"old", mode=0o600)

    def cut_off(place: int | Path, *rest: Any) -> None:
        if isinstance(place, int):
            os.write(place, b"ne")
            os.close(place)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(*{"write": (os, "fdopen"), "replace": (Path, "replace")}[moment], cut_off)
        with pytest.raises(KeyboardInterrupt):
            folders.write_whole(path, b"new", mode=0o600)
    assert path.read_bytes() == b"old" and files_in(tmp_path) == ["photo.png"]
    folders.write_whole(path, b"new", mode=0o600)
    assert path.read_bytes() == b"new" and files_in(tmp_path) == ["photo.png"]


def test_show_tells_what_a_file_holds(
    photos: Path, answers: Path, device_id: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both kinds of file are told in JSON; a damaged gradient file is told as damaged, not as the other kind."""
    capsys.readouterr()
    path = tmp_path / "asked" / f"{device_id}.safetensors"
    assert run("show", path) == 0
    found = told(capsys)
    assert (found["kind"], found["id"], found["faces"], found["epsilon_levels"]) == ("gradients", device_id, 1, 8)
    assert found["bytes"] == path.stat().st_size and found["name"] is None
    assert run("show", answers / path.name) == 0
    assert told(capsys)["kind"] == "perturbations"
    path.write_bytes(path.read_bytes()[:-1])
    assert run("show", path) == 2
    assert "damaged" in capsys.readouterr().err


def test_alone_protects_by_the_first_stages(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], standard: Filter
) -> None:
    """Without a server a photo gets what the filter's gradient and universal stages give it, and no key is made."""
    assert run("alone", photos, "-o", tmp_path / "out", "--json") == 0
    found = told(capsys)
    assert (found["protected"], found["no_face"]) == (1, 1)
    assert not list(Path(os.environ["XDG_CONFIG_HOME"]).iterdir())
    recipe = standard.recipe.model_copy(update={"stages": ("gradient", "universal")})
    source = (photos / "anna.png").read_bytes()
    expected = pixels_of(protect_photo(source, without_warp(Filter.load(recipe))).data).astype(int)
    own = pixels_of((tmp_path / "out" / "anna.png").read_bytes())
    assert (np.abs(own - expected) <= 1).mean() > 0.999
    assert np.abs(own.astype(int) - pixels_of(source)).max() <= recipe.most_levels


def test_the_whole_command_hands_over(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`apf private` hands its arguments to the device's own commands: output, errors, status, help."""
    cases = (
        ["gradient", photos, "-o", tmp_path / "out", "--json"],
        ["gradient", photos / "none", "-o", tmp_path / "out"],
        ["gradient", photos, "-o", tmp_path / "out", "--max-megapixels", "many"],
        ["gradient", "--help"],
        ["--help"],
    )
    run(*cases[0])  # so that both find the files there
    capsys.readouterr()
    for case in cases:
        arguments = list(map(str, case))
        try:
            status: Any = cli.main(arguments)
        except SystemExit as ended:
            status = ended.code
        printed = capsys.readouterr()
        result = typer.testing.CliRunner().invoke(app, ["private", *arguments])
        assert (result.exit_code, result.stdout, result.stderr) == (status, printed.out, printed.err)


def test_the_whole_command_without_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A producer without NumPy says what private mode needs."""
    monkeypatch.setattr("apf.extras.find_spec", lambda name: None if name == "numpy" else True)
    result = typer.testing.CliRunner().invoke(app, ["private", "show", "x"])
    assert result.exit_code == 2 and 'pip install "apf-protect[private]"' in result.output


def test_a_home_with_a_percent_sign(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The help names the key's place whatever characters it has."""
    monkeypatch.setenv("XDG_CONFIG_HOME", "/home/100%")
    with pytest.raises(SystemExit) as ended:
        run("gradient", "--help")
    assert ended.value.code == 0 and "/home/100%/apf/device.key" in "".join(capsys.readouterr().out.split())


def test_a_large_photo_names_the_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A photo over the device's limit in pixels or in bytes fails with the option that raises it."""
    raw = tmp_path / "raw.tif"
    Image.new("RGB", (1500, 1000)).save(raw)
    assert run("alone", raw, "-o", tmp_path / "out", "--max-megapixels", 1) == 1
    assert "1,500,000 pixels, over the limit of 1,000,000: raise --max-megapixels" in capsys.readouterr().err
    raw.write_bytes(raw.read_bytes() + bytes(8_000_000))
    assert run("alone", raw, "-o", tmp_path / "out", "--max-megapixels", 1) == 1
    assert "over the limit of 8,000,000: raise --max-megapixels" in capsys.readouterr().err
