"""`apf schedule` as its users call it, without a queue: one machine, real photos, a clock of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import skimage.data
from PIL import Image

from apf.recipe import load_recipe
from tests.command import APF, apf, apf_json
from tests.conftest import OWN_SETTINGS
from tests.faults.strikes import SOAK
from tests.private_files import answer, gradient_file

pytestmark = pytest.mark.timeout(300)


class Library:
    """A folder with a portrait, and the commands about its schedule."""

    def __init__(self, folder: Path) -> None:
        self.source, self.out, self.folder = folder / "in", folder / "out", folder
        self.source.mkdir()
        Image.fromarray(skimage.data.astronaut()).save(self.source / "a.jpg")

    def run(self, *args: str | Path, code: int = 0) -> str:
        """What it says to people."""
        ended = apf("schedule", *args, code=code, APF_LEDGER_URL=str(self.folder / "ledger"))
        return ended.stdout + ended.stderr

    def json(self, *args: str | Path, code: int = 0) -> Any:
        return apf_json("schedule", *args, code=code, APF_LEDGER_URL=str(self.folder / "ledger"))

    @contextmanager
    def running(self, *args: str) -> Iterator[subprocess.Popen[str]]:
        """The command while it runs; killed where it has not ended."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("APF_")}
        env = {**clean, **OWN_SETTINGS, "APF_LEDGER_URL": str(self.folder / "ledger")}
        pipe = subprocess.PIPE
        # Tests that run in the background of a shell inherit that Ctrl-C is ignored.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            command = subprocess.Popen([*APF, "schedule", *args], stdout=pipe, stderr=pipe, text=True, env=env)
        finally:
            signal.signal(signal.SIGINT, before)
        with command:
            try:
                yield command
            finally:
                command.kill()

    def add(self, *args: str | Path, name: str = "mine") -> Any:
        return self.json("add", name, self.source, self.out, *args)


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path)


def test_one_machine_needs_nothing_but_a_tick(library: Library) -> None:
    """Due: the tick does the work here; not due: it says so, and loads nothing."""
    library.add("--every", "1d", "--on-change", "new", "--recipe", "light")
    (ran,) = library.json("tick")["batches"]
    assert (ran["photos"], ran["protected"], ran["recipe"]) == (1, 1, "light")
    assert (library.out / "a.jpg").exists()
    assert library.json("tick")["batches"] == []
    (listed,) = library.json("list")["schedules"]
    assert (listed["last"]["status"], listed["last"]["totals"]["protected"]) == ("done", 1)
    assert "mine" in library.run("list")
    (again,) = library.json("run-now", "mine")["batches"]
    assert (again["protected"], again["skipped"]) == (0, 1)


def test_a_private_schedule_answers_gradient_files(library: Library) -> None:
    """The photo beside them is nobody's business; `show` says what the schedule takes."""
    (library.source / "b.safetensors").write_bytes(gradient_file(0))
    added = library.add("--every", "1d", "--recipe", "light", "--private")
    assert added["private"] is True
    assert "takes     gradient files" in library.run("show", "mine")
    (ran,) = library.json("tick")["batches"]
    assert (ran["photos"], ran["protected"], ran["ignored"], ran["private"]) == (1, 1, 1, True)
    assert (library.out / "b.safetensors").read_bytes() == answer(gradient_file(0))
    assert not (library.out / "a.jpg").exists()
    bare = library.folder / "bare.toml"
    bare.write_text('epsilon_levels = 8\nstages = ["universal"]\n')
    refused = library.run(
        "add", "two", library.source, library.out, "--every", "1d", "--private", "--recipe", bare, code=2
    )
    assert "'bare' has no gradient stage" in refused


def test_what_a_killed_tick_has_left_is_gone_on_with(library: Library) -> None:
    """The batch was made and never planned: without a queue nobody reconciles, so the next tick does."""
    from workers.config.settings import Settings  # noqa: PLC0415
    from workers.schedules.fire import run_due  # noqa: PLC0415

    library.add("--every", "1d", "--recipe", "light")
    assert run_due(Settings(ledger_url=str(library.folder / "ledger")), None)
    (ran,) = library.json("tick")["batches"]
    assert (ran["protected"], ran["pending"]) == (1, 0)


def test_a_schedule_is_changed_paused_and_removed(library: Library) -> None:
    """Each command shows in the next `show`; a recipe's file is kept as what it says."""
    mine = library.folder / "mine.toml"
    mine.write_text("epsilon_levels = 9\n")
    added = library.add("--cron", "0 3 * * *", "--timezone", "Europe/Berlin", "--recipe", mine)
    mine.unlink()
    assert (added["trigger"], added["recipe"], added["last"]) == ("cron 0 3 * * * Europe/Berlin", "mine", None)
    changed = library.json("change", "mine", "--every", "6h", "--on-change", "new", "--recipe", "strong",
                           "--fraction", "0.05")  # fmt: skip
    assert (changed["trigger"], changed["on_change"]) == ("every 6h", ["new"])
    assert (changed["recipe"], changed["new_recipe"], changed["fraction"]) == ("mine", "strong", 0.05)
    assert library.json("change", "mine", "--fraction", "0.2", "--always")["fraction"] == 0.2
    refused = library.run("change", "mine", "--recipe", "light", code=2)
    assert "apf schedule promote mine or apf schedule rollback mine first" in refused
    library.run("promote", "mine")
    library.run("pause", "mine")
    shown = library.json("show", "mine")
    assert (shown["recipe"], shown["new_recipe"], shown["on_change"], shown["paused"], shown["next"]) == (
        "strong", "", [], True, "",
    )  # fmt: skip
    assert "is paused: apf schedule go-on mine" in library.run("run-now", "mine", code=2)
    library.run("resume", "mine")
    library.run("remove", "mine")
    assert library.json("list") == {"schedules": []}
    library.add("--every", "1d")


def test_what_a_batch_carries_can_be_changed_and_taken_away(library: Library) -> None:
    """Callback, tenant and what becomes of photos without a face; a callback that is no URL is refused."""
    from workers.config.settings import Settings  # noqa: PLC0415
    from workers.schedules.repository import find_schedule  # noqa: PLC0415

    def kept() -> tuple[str | None, str, str]:
        schedule = find_schedule("mine", Settings(ledger_url=str(library.folder / "ledger"))).read("mine")
        return schedule.callback, schedule.tenant, schedule.no_face

    library.add("--every", "1d")
    url = "https://example.com/done"
    library.json("change", "mine", "--callback", url, "--tenant", "ann", "--no-face", "skip")
    assert kept() == (url, "ann", "skip")
    assert "a callback's URL is malformed" in library.run("change", "mine", "--callback", "ftp://x", code=2)
    library.json("change", "mine", "--callback", "", "--tenant", "")
    assert kept() == (None, "", "skip")


def test_a_span_that_the_clock_does_not_keep_is_warned_of(library: Library) -> None:
    """`apf beat` looks once a minute: the schedule is kept all the same."""
    told = library.run("add", "mine", library.source, library.out, "--every", "30s")
    assert "every 60 s (APF_SCHEDULE_EVERY_S), so this one does not run every 30s" in told
    assert "does not run" not in library.run("change", "mine", "--every", "60s")
    assert "does not run every 59s" in library.run("change", "mine", "--every", "59s")
    assert "does not run" not in library.run("change", "mine", "--tenant", "ann")


def test_what_is_left_is_no_success(library: Library) -> None:
    """A batch that is cancelled while its tick waits: status 1, as of `apf protect`."""
    import shutil  # noqa: PLC0415

    from workers.batches.create import find_ledger  # noqa: PLC0415
    from workers.config.settings import Settings  # noqa: PLC0415

    library.add("--every", "1d", "--recipe", "light")
    for number in range(60):
        shutil.copy(library.source / "a.jpg", library.source / f"{number}.jpg")
    with library.running("tick") as tick:
        ledger = find_ledger(str(library.out), Settings(ledger_url=str(library.folder / "ledger")))
        while not (batches := ledger.batches()) or not ledger.read_batch(batches[0]).planned:
            assert tick.poll() is None, "it must still be at work"
            time.sleep(0.05)
        ledger.stop(batches[0], "cancelled")
        _, told = tick.communicate(timeout=120)
    assert (tick.returncode, "cancelled" in told) == (1, True), told


def test_an_interrupted_tick_says_how_to_go_on(library: Library) -> None:
    """Ctrl-C: status 130 and the command, which then does what is left."""
    library.add("--every", "1d", "--recipe", "light")
    with library.running("tick") as tick:
        while not list(library.folder.glob("ledger/*/batches/*/attempts/*/*.json")):
            assert tick.poll() is None, "it must still be at work"
            time.sleep(0.05)
        tick.send_signal(signal.SIGINT)
        _, told = tick.communicate(timeout=120)
    assert (tick.returncode, "interrupted; go on with: apf schedule tick" in told) == (130, True), told
    # The shard in hand is finished first, and this one was the only one.
    assert all(ran["pending"] == 0 for ran in library.json("tick")["batches"])
    assert (library.out / "a.jpg").exists()


@pytest.mark.parametrize(
    ("args", "cure"),
    [
        (["add", "x", "IN", "OUT"], "Give --cron, --every or --on-change"),
        (["add", "x", "IN", "OUT", "--every", "6"], "write a number and s, m, h, d or w, such as 6h"),
        (["add", "x", "IN", "OUT", "--cron", "0 3 * *"], "write minute, hour, day, month and weekday"),
        (["add", "x", "IN", "OUT", "--cron", "0 3 * * *", "--every", "6h"], "either a cron line or a time span"),
        (["add", "x", "IN", "OUT", "--on-change", "moon"], "use recipe (it or the weights changed) or new (photos)"),
        (["add", "x", "IN", "IN/out", "--every", "6h"], "overlap: give a destination outside the source"),
        (["add", "x", "NOWHERE", "OUT", "--every", "6h"], "there is no folder or photo"),
        (["add", "X y", "IN", "OUT", "--every", "6h"], "a schedule cannot be like this: name"),
        (["add", "x", "IN", "OUT", "--every", "6h", "--recipe", "none"], "no recipe named 'none'"),
        (["add", "there", "IN", "OUT", "--every", "6h"], "there is a schedule 'there' already"),
        (["show", "x"], "there is no schedule 'x': `apf schedule list` shows all"),
        (["change", "there"], "nothing to change"),
        (["change", "there", "--fraction", "0.1"], "--fraction is of a new recipe: give --recipe, too"),
        (["change", "there", "--recipe", "strong", "--fraction", "1.5"], "a recipe cannot be rolled out so: fraction"),
        (["change", "there", "--timezone", "Europe/Berlin"], "--timezone is of a cron line"),
        (["compare", "there"], "has no rollout to compare: start one with apf schedule change there --recipe NEW"),
        (["promote", "there"], "has no rollout: start one with"),
        (["rollback", "there"], "has no rollout to drop"),
    ],
)
def test_what_cannot_be_is_refused_with_its_cure(
    library: Library, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, args: list[str], cure: str
) -> None:
    """Status 2 and one line; in this process, as there are many."""
    import typer.testing  # noqa: PLC0415

    from producer.cli import console as terminal  # noqa: PLC0415
    from producer.cli import schedules  # noqa: PLC0415

    monkeypatch.setenv("APF_LEDGER_URL", str(library.folder / "ledger"))
    library_places = {"IN/out": library.source / "out", "IN": library.source, "OUT": library.out,
                      "NOWHERE": library.folder / "nowhere"}  # fmt: skip
    console = terminal.Console(stderr=True, width=400)
    monkeypatch.setattr(terminal, "console", console)
    runner = typer.testing.CliRunner()
    first = ["add", "there", str(library.source), str(library.out), "--every", "1d"]
    assert runner.invoke(schedules.app, first).exit_code == 0
    ended = runner.invoke(schedules.app, [str(library_places.get(arg, arg)) for arg in args])
    assert (ended.exit_code, cure in ended.stderr) == (2, True), ended.stderr


def test_without_a_place_for_schedules_the_cure_is_told(tmp_path: Path) -> None:
    ended = apf("schedule", "list", code=2)
    assert "set APF_ALLOWED_URLS to buckets and folders (not *), or APF_LEDGER_URL to one" in ended.stderr


@pytest.mark.skipif(not SOAK, reason="long, and the operator's tutorial compares, too: make soak")
def test_a_rollout_is_compared_by_figures_and_looks(library: Library) -> None:
    """The same photo under both recipes; how they look is measured on what is there now."""
    from workers.batches.plan import in_fraction  # noqa: PLC0415

    portrait = skimage.data.astronaut()
    names = [f"{number}.jpg" for number in range(50)]
    inside = [name for name in names if in_fraction(name, "mine", 0.3)][:1]
    outside = [name for name in names if not in_fraction(name, "mine", 0.3)][:1]
    (library.source / "a.jpg").unlink()
    for name in inside + outside:
        Image.fromarray(portrait).save(library.source / name)
    (library.source / "broken.jpg").write_bytes(b"no photo")
    library.add("--every", "1d", "--on-change", "new", "--recipe", "light")
    library.json("tick", code=1)
    library.json("change", "mine", "--recipe", "strong", "--fraction", "0.3", "--now")
    assert "strong" in library.run("compare", "mine", "--sample", "0"), "before anything ran, too"
    library.json("tick", code=1)
    found = library.json("compare", "mine")
    new, old = found["new"], found["old"]
    assert (new["recipe_id"], old["recipe_id"]) == (load_recipe("strong").id, load_recipe("light").id)
    assert new["photos"] == old["photos"] == 1 + in_fraction("broken.jpg", "mine", 0.3)
    assert (new["sample"], old["sample"]) == (1, 1)
    assert new["psnr_db"] < old["psnr_db"] - 2, "strong shows more"
    assert new["similarity"] < old["similarity"], "and protects more"
