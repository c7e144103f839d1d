"""The extra that a worker on this machine needs."""

from __future__ import annotations

from workers.config.settings import Settings


def extra_of(settings: Settings) -> str:
    """Return the extra for the device of the settings; one that is looked for is the CPU where no torch is."""
    return "cpu" if settings.device in ("auto", "cpu") else "gpu"
