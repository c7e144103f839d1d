"""Engines by recipe: the last few stay loaded."""

from __future__ import annotations

import logging
import time
from functools import lru_cache

from apf.extras import extra_for, need
from apf.recipe import Recipe
from apf.runtime.stage_clock import StageClock
from workers.config.settings import Settings
from workers.execution.engine import Engine, FilterEngine
from workers.execution.process_limits import take_share
from workers.telemetry import metrics

log = logging.getLogger(__name__)


@lru_cache(maxsize=4)
def load_engine(recipe: Recipe, settings: Settings, private: bool = False) -> Engine:
    """Return the engine for a recipe, and for gradient files where `private`; the last four stay loaded.

    Raises:
        ApfError: the weights are not the recipe's, its detector cannot be loaded, or it has no private mode.
        MissingExtra: the device's libraries are not installed.
    """
    need(extra_for(settings.device), "a worker")
    started, clock = time.monotonic(), StageClock()
    take_share(settings)
    engine = _gradient_engine(recipe, settings) if private else FilterEngine(recipe, settings, clock)
    took = time.monotonic() - started
    metrics.observe("apf_model_load_seconds", took)
    parts = ", ".join(f"{part} {seconds:.1f}" for part, seconds in clock.seconds.items())
    log.info("engine for recipe %s ready in %.1f s%s", recipe.name, took, f": {parts}" if parts else "")
    return engine


def _gradient_engine(recipe: Recipe, settings: Settings) -> Engine:
    from workers.execution.private_engine import GradientEngine  # noqa: PLC0415  photos need none of it

    return GradientEngine(recipe, settings)
