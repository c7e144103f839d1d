"""The Node program of docs/backend.md runs against a real server, queue and worker."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import tutorials
from tests.faults import cheap_output
from tests.producer.server.conftest import place, working  # noqa: F401  fixtures
from tests.producer.server.platform import Platform

PAGE = Path(__file__).parents[1] / "docs" / "backend.md"


@pytest.mark.skipif(not shutil.which("node"), reason="node is not installed")
def test_the_node_program_protects_a_photo_and_a_batch(working: Platform, tmp_path: Path) -> None:  # noqa: F811
    """A photo by POST /v1/protect, a batch followed by its events, with nothing but Node's own fetch."""
    (block,) = tutorials.blocks(PAGE, "js")
    name = sorted(working.world.photos)[0]
    replaced = {'"s3://photos"': f'"{working.source}"', '"s3://public"': f'"{working.destination}"'}
    program = tutorials.replaced(block.text, {**replaced, "ann/1.jpg": name})
    (tmp_path / "protect.mjs").write_text(program)
    (tmp_path / "me.jpg").write_bytes(b"face of mine")
    token = working.token("backend", scopes=["read", "submit"])
    with working.server() as (api, _):
        environment = {**os.environ, "APF_URL": api.url, "APF_TOKEN": token}
        ran = subprocess.run(
            ["node", "protect.mjs"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
            timeout=120,
        )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert re.fullmatch(r"protected, 1 faces\ndone: 1 of 1\n", ran.stdout)
    assert (tmp_path / "protected.jpg").read_bytes() == cheap_output(b"face of mine")
