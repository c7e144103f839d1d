"""As `workers.celeryapp`, with decoders that have a planted fault (`tests.workers.decoding.planted`)."""

from workers.celeryapp import app
from workers.decoding import decoder_process

__all__ = ["app"]

app.conf.imports = (*app.conf.imports, "tests.services.planted_celeryapp")
decoder_process.PROGRAM = "tests.workers.decoding.planted"
