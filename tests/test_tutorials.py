"""The helper that runs tutorials notices what it should."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests import tutorials

PAGE = """# A page

```console
$ cd /tmp && A=1
$ echo "one $A" &&
> echo two >&2
one 1
two
```

1. In a list:

   ```python title="app.py"
   if True:
       print(1)
   ```

```console
$ pwd; (exit 3)
/...
$ sleep 100 & echo "$A"
1
```
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "page.md"
    path.write_text(PAGE)
    return path


def test_blocks_are_found_with_their_kind_and_line(page: Path) -> None:
    """Also in a list, where their indent is not theirs."""
    found = tutorials.blocks(page)
    assert [(block.kind, block.line) for block in found] == [("console", 4), ("python", 14), ("console", 19)]
    assert tutorials.blocks(page, "python")[0].text == "if True:\n    print(1)\n"
    assert tutorials.blocks(page, "python")[0].info == 'python title="app.py"'


def test_commands_run_in_one_shell_and_the_rest_is_ended(page: Path, tmp_path: Path) -> None:
    """Folder and variables carry over, both streams are read, statuses are told, and a job in the background ends."""
    ran = tutorials.run(tutorials.commands(page), environment={"PATH": os.environ["PATH"]}, folder=tmp_path)
    assert [one.output for one in ran] == ["", "one 1\ntwo\n", "/tmp\n", "1\n"]
    assert [one.status for one in ran] == [0, 0, 3, 0]
    tutorials.check(page, ran)


def test_another_output_than_the_pages_fails_with_its_place(page: Path, tmp_path: Path) -> None:
    """The message names the page's line, what it says and what was printed."""
    page.write_text("```console\n$ echo now\nthen\n```\n")
    ran = tutorials.run(tutorials.commands(page), environment={"PATH": os.environ["PATH"]}, folder=tmp_path)
    with pytest.raises(AssertionError, match=r"page.md:2: \$ echo now(.|\n)*then(.|\n)*now"):
        tutorials.check(page, ran)


def test_a_command_that_takes_too_long_is_named(page: Path, tmp_path: Path) -> None:
    """It is ended with its children, and the test fails instead of hanging."""
    page.write_text("```console\n$ true\n$ sleep 60\n```\n")
    with pytest.raises(AssertionError, match="ended in 'sleep 60'"):
        tutorials.run(tutorials.commands(page), environment={"PATH": os.environ["PATH"]}, folder=tmp_path, timeout_s=1)
