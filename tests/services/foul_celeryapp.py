"""As `tests.faults.celeryapp`; a photo that begins with `foul` makes its reader fail in a way that nobody foresaw."""

from typing import Any

from tests.faults.celeryapp import app
from tests.faults.cheap import CheapEngine

__all__ = ["app"]

decode = CheapEngine.decode


def foul(engine: CheapEngine, data: bytes) -> Any:
    if data.startswith(b"foul"):
        raise RuntimeError("cannot read 'hospital/anna müller.jpg'")
    return decode(engine, data)


app.conf.imports = (*app.conf.imports, "tests.services.foul_celeryapp")
CheapEngine.decode = foul  # type: ignore[method-assign]
