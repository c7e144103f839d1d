"""What `celery -A workers.celeryapp` finds: the app on this process's settings, once they are fit for a worker."""

import sys

from workers.app import make_app
from workers.errors import SettingsError
from workers.settings import check_worker, load_settings

try:
    settings = load_settings()
    check_worker(settings)
    app = make_app(settings)
except SettingsError as error:
    # Celery prints the stack of any exception that leaves here; the cure would be lost below it.
    print(f"apf: {error}", file=sys.stderr)
    raise SystemExit(2) from None
