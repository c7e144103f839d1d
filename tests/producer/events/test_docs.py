"""What docs/events.md shows is run as it stands there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.producer.events.helpers import Notes
from tests.producer.events.sources.test_http import serving
from tests.producer.events.test_auth import SECRET

DOCS = (Path(__file__).parents[3] / "docs" / "events.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", DOCS, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(("language", "key"), [("bash", "ann/1.jpg"), ("python", "bob/2.jpg")])
def test_the_examples_sign_as_the_listener_asks(language: str, key: str) -> None:
    """With curl and with Python; a wrong secret is refused, so it is the signature that lets them in."""
    if language == "bash" and not (shutil.which("curl") and shutil.which("openssl")):
        pytest.skip("curl or openssl is missing")
    (example,) = blocks(language)
    command = ["bash", "-euc", example] if language == "bash" else [sys.executable, "-c", example]
    notes = Notes()
    with serving(notes) as site:
        variables = {**os.environ, "URL": f"http://127.0.0.1:{site.port}"}

        def run(secret: str) -> subprocess.CompletedProcess[str]:
            env = {**variables, "APF_LISTEN_SECRET": secret}
            return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)

        assert run("whsec_" + "QUFB" * 8).returncode != 0
        assert notes.keys == []
        ended = run(SECRET)
    assert ended.returncode == 0, ended.stderr
    assert notes.keys == [key]
    assert "1" in ended.stdout


def test_policies_and_settings_parse() -> None:
    """JSON with the JSON inside it, and the filer's TOML; each ARN names the one queue."""
    queue, notify, role = map(json.loads, blocks("json"))
    assert json.loads(queue["RedrivePolicy"])["maxReceiveCount"] == "20"
    (statement,) = json.loads(queue["Policy"])["Statement"]
    arns = {statement["Resource"], notify["QueueConfigurations"][0]["QueueArn"], role["Statement"][0]["Resource"]}
    assert arns == {"arn:aws:sqs:eu-west-1:123456789012:uploads"}
    (filer,) = map(tomllib.loads, blocks("toml"))
    assert filer["notification"]["webhook"]["endpoint"].endswith("/events")


def test_every_option_is_in_the_docs() -> None:
    """And no other."""
    ended = subprocess.run(
        [sys.executable, "-m", "producer", "listen", "--help"],
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    options = set(re.findall(r"--[a-z][a-z-]+", ended.stdout)) - {"--help"}
    table = DOCS.partition("| option |")[2].partition("\n\n")[0]
    assert options == set(re.findall(r"--[a-z][a-z-]+", table))
