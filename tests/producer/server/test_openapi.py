"""Whatever is asked that the OpenAPI document allows, or forbids, the server does not fail."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.producer.server.platform import Platform

#: Of each route; each half takes about a quarter of a minute.
EXAMPLES = "6"


@pytest.mark.rotating
@pytest.mark.parametrize("phases", ["examples,fuzzing", "coverage"])
@pytest.mark.timeout(600)
def test_no_request_makes_the_server_fail(working: Platform, tmp_path: Path, phases: str) -> None:
    """Schemathesis finds no answer of 5xx, none with a status that is not in the document, none off its schema."""
    working.serve["protect_timeout_s"] = 5
    token = working.token("fuzz", scopes=["read", "submit", "operate"])
    photos = sorted(working.world.photos)[:2]
    with working.server() as (api, _):
        asked = {"source": working.source, "destination": working.destination, "photos": photos, "recipe": "light"}
        batch = api.with_token(token)("POST", "/v1/batches", asked).json["batch"]
        schedule = {**asked, "name": "nightly", "cron": "0 3 * * *", "destination": working.destination + "/nightly"}
        del schedule["photos"]
        assert api.with_token(token)("POST", "/v1/schedules", schedule).status == 201
        # Of a batch and a schedule that are there: else nearly all answers would be 404.
        config = tmp_path / "schemathesis.toml"
        config.write_text(f'[parameters]\n"path.batch" = "{batch}"\n"path.name" = "nightly"\n')
        ran = subprocess.run(
            [
                Path(sys.executable).with_name("schemathesis"), "--config-file", config, "run",
                f"{api.url}/openapi.json",
                "--header", f"Authorization: Bearer {token}", "--max-examples", EXAMPLES,
                "--phases", phases, "--request-timeout", "30", "--seed", "1",
                "--suppress-health-check", "all", "--generation-database", "none",
                "--checks", "not_a_server_error,status_code_conformance,content_type_conformance,"
                "response_schema_conformance",
            ],
            capture_output=True, text=True, check=False, timeout=500, cwd=tmp_path, env={**os.environ, "NO_COLOR": "1"},
        )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-8000:] + ran.stderr[-2000:]
