"""Output on any terminal, and text files as Windows saves them."""

from __future__ import annotations

import codecs
import io
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from apf.private.key import load_key
from apf.recipe import load_recipe
from producer.cli import progress
from tests.conftest import S3Server
from workers.config.settings import Settings
from workers.errors import StoreUnavailable
from workers.ledger.batch_ledger import all_of
from workers.store import open_store
from workers.telemetry.redaction import install


def test_a_failed_photo_is_listed_on_an_ascii_terminal(tmp_path: Path) -> None:
    """A name that stdout cannot show is escaped, and the command ends as on any other terminal."""
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    (source / "é.jpg").write_bytes(b"no photo")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("APF_")}
    apf = [sys.executable, "-m", "producer"]
    subprocess.run([*apf, "protect", source, out], env=clean, capture_output=True, check=False, timeout=240)
    asked = [*apf, "status", out, "--failed"]
    environment = {**clean, "PYTHONIOENCODING": "ascii"}
    ended = subprocess.run(asked, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 1, ended.stderr
    assert "\\xe9.jpg" in ended.stdout


def test_files_of_users_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    """A recipe, a device's key and secrets are read as Notepad saves them."""
    (tmp_path / "bom.toml").write_bytes(codecs.BOM_UTF8 + b"epsilon_levels = 10\r\n")
    assert load_recipe(str(tmp_path / "bom.toml")).epsilon_levels == 10
    (tmp_path / "key").write_bytes(codecs.BOM_UTF8 + b"ab" * 32 + b"\r\n")
    assert load_key(tmp_path / "key", create=False) == b"\xab" * 32
    (tmp_path / "secrets").write_bytes(codecs.BOM_UTF8 + b"whsec_" + b"A" * 43 + b"=")
    assert len(Settings(callback_secrets_file=str(tmp_path / "secrets")).callback_keys()) == 1


def test_the_pool_holds_the_ledgers_connections() -> None:
    """Sixteen questions at once discard no connection, however few threads read photos."""
    assert Settings(read_threads=1, write_threads=1).s3.max_pool_connections >= 16


def test_a_store_that_is_down_is_logged_without_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """An error that is foreseen is its own words; a bug keeps its traceback."""
    before = logging.getLogRecordFactory()
    install()
    try:
        for error in (StoreUnavailable("start the store"), ValueError("a bug")):
            try:
                raise error
            except type(error):
                logging.getLogger("apf.test").exception("left: %s", error)
    finally:
        logging.setLogRecordFactory(before)
    foreseen, bug = caplog.records
    assert "start the store" in foreseen.getMessage() and not foreseen.exc_info
    assert bug.exc_info


def test_many_questions_at_once_bring_no_warning_of_the_connections_pool(
    moto_server: S3Server, caplog: pytest.LogCaptureFixture
) -> None:
    """`apf retry` of many photos asks a real server for each, with a store made for one thread of reading."""
    settings = Settings(s3_endpoint_url=moto_server.endpoint_url, read_threads=1, write_threads=1)
    store = open_store(f"s3://{moto_server.new_bucket()}", s3=settings.s3)
    assert all_of(store.head, [f"{number}.jpg" for number in range(200)]) == [None] * 200
    assert not [record for record in caplog.records if "pool" in record.getMessage()]


def test_times_in_the_bar_are_named() -> None:
    """The time that has passed cannot be taken for the time that is left."""
    bar = progress._bar(show=True)
    bar.add_task("protecting", total=10, faces=0, rate=0.0)
    told = io.StringIO()
    Console(file=told, width=160).print(bar.get_renderable())
    assert re.search(r"photos/s after +\d:\d\d:\d\d left: ", told.getvalue())
