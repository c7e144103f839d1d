"""What `celery -A workers.celeryapp` finds: the app on this process's settings, once they are fit for a worker."""

from workers.app import make_app
from workers.settings import check_worker, load_settings

settings = load_settings()
check_worker(settings)
app = make_app(settings)
