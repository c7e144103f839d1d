"""The commands that are loaded when they are called."""

from __future__ import annotations

import inspect

import pytest
import typer
from typer.testing import CliRunner

from producer.cli import app, schedules
from producer.cli.lazy import LazyCommand


def listed(group: typer.Typer) -> dict[str, LazyCommand]:
    """By name, those of a group that are lazy."""
    commands = typer.main.get_group(group).commands
    return {name: command for name, command in commands.items() if isinstance(command, LazyCommand)}


COMMANDS = {
    **listed(app),
    **{f"schedule {name}": command for name, command in listed(schedules.app).items()},
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_listed_as_it_describes_itself(name: str) -> None:
    """The list's line is the first paragraph of the command's own help, and the command is where the table says."""
    real = COMMANDS[name].load()
    own = inspect.cleandoc(real.help or "").split("\n\n", maxsplit=1)[0]
    assert " ".join(own.split()) == COMMANDS[name].help


def test_a_command_takes_its_own_arguments_and_prints_its_own_help() -> None:
    """`--help` behind a lazy command, or behind one of a lazy group, is the command's; a wrong option is an error."""
    run = CliRunner().invoke
    assert "Follow until the batch is done." in run(app, ["status", "--help"], env={"COLUMNS": "200"}).output
    assert "Zone" not in run(app, ["schedule", "--help"]).output
    assert "--timezone" in run(app, ["schedule", "add", "--help"], env={"COLUMNS": "200"}).output
    refused = run(app, ["status", "--nonsense"])
    assert refused.exit_code == 2
    assert "--nonsense" in refused.output


def test_a_command_that_is_mistyped_is_guessed() -> None:
    """The list of names is there without the modules, and so is the nearest one."""
    refused = CliRunner().invoke(app, ["statu"])
    assert refused.exit_code == 2
    assert "Did you mean 'status'?" in refused.output
