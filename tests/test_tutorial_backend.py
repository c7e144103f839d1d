"""docs/backend.md does what it says: its commands and programs, against a real Redis, Swift and worker."""

from __future__ import annotations

import io
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from tests import tutorials
from tests.conftest import RedisServer, S3Server, _free_ports

PAGE = Path(__file__).parents[1] / "docs" / "backend.md"

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def buckets(swift: S3Server) -> dict[str, str]:
    """The page's names of buckets, and those that stand for them here."""
    return {name: swift.new_bucket(name) for name in ("photos", "public", "ledgers", "scratch")}


def programs(folder: Path, names: dict[str, str]) -> None:
    """Saves the page's programs under their titles."""
    for block in tutorials.blocks(PAGE, "python"):
        title = re.search(r'title="([^"]+)"', block.info)
        assert title, f"line {block.line}: a program without a title"
        (folder / title[1]).write_text(tutorials.replaced(block.text, names))


def test_the_tutorial_runs(buckets: dict[str, str], redis_server: RedisServer, swift: S3Server, tmp_path: Path) -> None:
    port = str(_free_ports([0]))
    names = {
        "redis://localhost:6379/0": redis_server.url,
        "http://localhost:8333": swift.endpoint_url,
        ":5000": f":{port}",
        "--port 5000": f"--port {port}",
        "8765": str(_free_ports([0])),
        **{f"s3://{name}": f"s3://{bucket}" for name, bucket in buckets.items()},
        **{f'Bucket="{name}"': f'Bucket="{bucket}"' for name, bucket in buckets.items()},
    }
    programs(tmp_path, names)
    picture = Image.fromarray(skimage.data.astronaut())
    picture.save(tmp_path / "me.jpg", quality=90)
    for number in (1, 2):
        data = (tmp_path / "me.jpg").read_bytes() + bytes([number])
        swift.client.put_object(Bucket=buckets["photos"], Key=f"ann/{number}.jpg", Body=data)
    commands = [
        tutorials.Command(tutorials.replaced(one.text, names), one.expected, one.line)
        for one in tutorials.commands(PAGE)
    ]
    beside_python = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    # Without steps, which are half a minute a face: the private tutorial takes them.
    environment = {name: value for name, value in os.environ.items() if name == "APF_STEPS" or name[:4] != "APF_"}
    ran = tutorials.run(commands, environment={**environment, "PATH": beside_python}, folder=tmp_path, timeout_s=500)
    tutorials.check(PAGE, ran)
    bad = {one.command.text: one.output for one in ran if one.status}
    assert not bad
    for key in ("ann/1.jpg", "ann/2.jpg", "ann/me.jpg"):
        published = swift.client.get_object(Bucket=buckets["public"], Key=key)
        assert published["Metadata"]["apf-outcome"] == "protected"
        with Image.open(io.BytesIO(published["Body"].read())) as photo:
            moved = np.abs(np.asarray(photo).astype(int) - np.asarray(picture).astype(int)).max()
        assert moved > 2, key
