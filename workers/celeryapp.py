"""What `celery -A workers.celeryapp` finds: the app on this process's settings."""

from workers.app import make_app
from workers.settings import load_settings

app = make_app(load_settings())
