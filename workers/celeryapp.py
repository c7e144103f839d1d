"""The app of `celery -A workers.celeryapp`, made from this process's settings once they fit a worker."""

import sys

from workers.broker.app import make_app
from workers.config.settings import check_worker, load_settings
from workers.errors import SettingsError

try:
    settings = load_settings()
    check_worker(settings)
    app = make_app(settings)
except SettingsError as error:
    # Celery prints the stack of any exception that leaves here; the cure would be lost below it.
    print(f"apf: {error}", file=sys.stderr)
    raise SystemExit(2) from None
