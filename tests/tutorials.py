"""Tutorials that are run: the commands of a page, in its order, in one shell, against what the page says they print.

    ```console
    $ apf protect ~/album ~/album-protected
    ...
    3 photos: 2 protected (5 faces), ...
    ```

A line that begins with "$ " is a command, lines after it that begin with "> " go on with it, and all others are what it
prints. "..." stands for anything. Blocks of other kinds (`sh`, `text`) are for the reader alone.
"""

from __future__ import annotations

import doctest
import os
import re
import signal
import subprocess
import textwrap
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```[ ]*$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    #: What stands after the fence: `console`, `python`, `python title="app.py"`.
    info: str
    text: str
    #: Of the block's first line in the page, from 1.
    line: int

    @property
    def kind(self) -> str:
        return self.info.partition(" ")[0]


@dataclass(frozen=True)
class Command:
    """One command, and what the page says that it prints; empty where the page says nothing."""

    text: str
    expected: str
    line: int


@dataclass(frozen=True)
class Ran:
    """A command that was run."""

    command: Command
    #: stdout and stderr together.
    output: str
    status: int


def blocks(page: Path, kind: str | None = None) -> list[Block]:
    """The fenced blocks of a Markdown page, of one kind or all."""
    text = page.read_text(encoding="utf-8")
    found = [
        Block(match["info"].strip(), textwrap.dedent(match["text"]), text.count("\n", 0, match.start()) + 2)
        for match in _FENCE.finditer(text)
    ]
    return [block for block in found if kind in (None, block.kind)]


def commands(page: Path) -> list[Command]:
    """The commands of all `console` blocks of a page."""
    return [command for block in blocks(page, "console") for command in _commands(block)]


def _commands(block: Block) -> list[Command]:
    found: list[Command] = []
    for number, line in enumerate(block.text.splitlines(), start=block.line):
        if line.startswith("$ "):
            found.append(Command(line[2:], "", number))
            continue
        assert found, f"line {number}: a console block begins with a command"
        last = found[-1]
        if line.startswith("> ") and not last.expected:
            found[-1] = Command(f"{last.text}\n{line[2:]}", "", last.line)
        else:
            found[-1] = Command(last.text, f"{last.expected}{line}\n", last.line)
    return found


def replaced(text: str, names: Mapping[str, str]) -> str:
    """The text with the page's names of services and places changed for those that stand for them in a test."""
    for name, ours in names.items():
        text = text.replace(name, ours)
    return text


def run(
    to_run: Sequence[Command], *, environment: Mapping[str, str], folder: Path, timeout_s: float = 300
) -> list[Ran]:
    """Run commands one after the other in one bash, so that variables, folders and jobs carry over.

    What is still running at the end, such as a worker in the background, is ended.
    """
    mark = uuid.uuid4().hex
    script = "".join(f"{command.text}\nprintf '\\n%s %d\\n' {mark} $?\n" for command in to_run)
    process = subprocess.Popen(
        ["bash", "-c", script],
        env=dict(environment),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout
    parts: list[tuple[str, int]] = []
    output: list[str] = []
    begun = time.monotonic()
    with _ended(process, timeout_s), process.stdout:
        for line in process.stdout:
            if line.startswith(mark):
                parts.append(("".join(output).removesuffix("\n"), int(line.split()[1])))
                output.clear()
                print(f"{time.monotonic() - begun:6.1f} s after: {to_run[len(parts) - 1].text}")
                if len(parts) == len(to_run):
                    break  # a job in the background may hold the pipe open
            else:
                output.append(line)
    assert len(parts) == len(to_run), f"ended in {to_run[len(parts)].text!r}: {''.join(output)}"
    return [Ran(command, text, status) for command, (text, status) in zip(to_run, parts, strict=True)]


@contextmanager
def _ended(process: subprocess.Popen[str], timeout_s: float) -> Iterator[None]:
    """Ends a process and its children when the block ends, or when it is late."""

    def kill() -> None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    late = threading.Timer(timeout_s, kill)
    late.start()
    try:
        yield
    finally:
        late.cancel()
        kill()
        process.wait()


def check(page: Path, ran: Sequence[Ran]) -> None:
    """Whether each command printed what its page says, line by line, "..." being anything."""
    checker = doctest.OutputChecker()
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    for one in ran:
        wanted, got = one.command.expected, f"{one.output}\n"
        assert not wanted or checker.check_output(wanted, got, flags), (
            f"{page.name}:{one.command.line}: $ {one.command.text}\nthe page says:\n{wanted}\nit printed:\n{got}"
        )
