"""As `workers.celeryapp`, with decoders that have a planted fault (`tests.workers.planted`)."""

from workers import decoder_process
from workers.celeryapp import app

__all__ = ["app"]

app.conf.imports = (*app.conf.imports, "tests.services.planted_celeryapp")
decoder_process.PROGRAM = "tests.workers.planted"
