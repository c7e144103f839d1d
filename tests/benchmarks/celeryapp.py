"""`celery -A tests.benchmarks.celeryapp worker`: the real worker on the real queue, with the simulated filter."""

from tests.benchmarks import simulated
from workers.broker.app import make_app
from workers.config.settings import check_worker, load_settings

settings = load_settings()
check_worker(settings)
app = make_app(settings)
app.conf.imports = ("workers.tasks", "tests.benchmarks.celeryapp")
simulated.install()
