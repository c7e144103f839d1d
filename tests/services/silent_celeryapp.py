"""`tests.faults.celeryapp` as a version before had it: a worker that keeps no record of itself in Redis."""

from celery.signals import worker_ready

from tests.faults.celeryapp import app  # noqa: F401
from workers.broker import heartbeat

worker_ready.disconnect(heartbeat.begin)
