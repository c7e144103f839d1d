"""The engine as a worker loads it."""

from __future__ import annotations

import logging

import pytest

from apf.recipe import load_recipe
from tests.benchmarks.bench_start import engine_parts
from workers.config.settings import Settings
from workers.execution.load_engine import load_engine


def test_the_log_tells_what_loading_took(caplog: pytest.LogCaptureFixture) -> None:
    """One line for a new engine, with the seconds of each part, which do not add up to more than all; none for a kept
    one.
    """
    caplog.set_level(logging.INFO, "workers.execution.load_engine")
    recipe, settings = load_recipe("light"), Settings(max_photo_pixels=1_000_001)  # nobody else's, so it is not loaded
    load_engine(recipe, settings)
    parts = engine_parts(caplog.text)
    assert set(parts) >= {"load_s", "load_networks_s", "load_detector_s"}
    assert sum(seconds for name, seconds in parts.items() if name != "load_s") <= parts["load_s"] + 0.2
    load_engine(recipe, settings)
    assert caplog.text.count("engine for recipe light ready in") == 1
