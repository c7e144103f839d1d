"""The Celery app. Each setting that departs from Celery's default says why."""

from __future__ import annotations

from celery import Celery
from kombu import Exchange, Queue

from workers.broker.queues import all_queues
from workers.config.redis_url import redis_tls, without_tls
from workers.config.settings import Settings
from workers.core.records import INTERACTIVE
from workers.core.task_names import RECONCILE, RUN_SCHEDULES
from workers.telemetry import tracing

EMBEDDED_BROKER = "memory://localhost/"
#: Where messages go whose queue binding Redis has lost; without it they vanish silently.
DEAD_LETTERS = "apf-unroutable"


def make_app(settings: Settings) -> Celery:
    """Return an app on the settings' Redis, or on an in-process broker where there is none.

    Raises:
        SettingsError: APF_OTEL is set, and the extra is not installed.
    """
    if settings.otel:
        tracing.start()
    tls = redis_tls(settings)
    app = Celery("apf", broker=without_tls(settings.broker_url or EMBEDDED_BROKER), backend=None)
    app.conf.update(
        imports=("workers.tasks",),
        # The ledger is the truth; no result is read, and none is stored.
        task_ignore_result=True,
        broker_connection_retry_on_startup=True,
        broker_connection_timeout=5,
        # Default None: a publisher waits for ever for a connection.
        broker_pool_acquire_timeout=30,
        worker_hijack_root_logger=False,
        worker_send_task_events=True,
        **({"broker_use_ssl": tls} if tls else {}),
        **_schedule(settings),
        **_messages(),
        **_delivery(settings),
        **_transport(settings),
    )
    return app


def _schedule(settings: Settings) -> dict[str, object]:
    """Return what `apf beat` sends; a pass that is not taken up before the next one is dropped."""
    passes = {"reconcile": (RECONCILE, settings.reconcile_every_s)}
    passes |= {"schedules": (RUN_SCHEDULES, settings.schedule_every_s)}
    return {
        # Nothing to remember between starts: no file. The state of schedules lies in the object store.
        "beat_scheduler": "celery.beat:Scheduler",
        "beat_schedule": {
            name: {"task": task, "schedule": every, "options": {"queue": INTERACTIVE, "expires": every}}
            for name, (task, every) in passes.items()
        },
    }


def _messages() -> dict[str, object]:
    return {
        # Left to Celery, both would be bound to the default queue's exchange and key.
        "task_queues": [Queue(name, Exchange(name), routing_key=name) for name in all_queues()],
        # Tasks about batches, that take no time, go ahead of all shards.
        "task_default_queue": INTERACTIVE,
        "task_create_missing_queues": False,
        # With pickle, write access to Redis would be code execution.
        "task_serializer": "json",
        "accept_content": ["json"],
        "result_accept_content": ["json"],
        "task_publish_retry": True,
        "task_publish_retry_policy": {"max_retries": 5, "interval_start": 0.2, "interval_step": 0.5, "interval_max": 3},
    }


def _delivery(settings: Settings) -> dict[str, object]:
    return {
        # The default acknowledges before the run, and loses the shard of a worker that dies.
        "task_acks_late": True,
        # With late acks, 1 reserves just what runs.
        "worker_prefetch_multiplier": 1,
        # False would drop a failed shard, or requeue it for ever.
        "task_acks_on_failure": True,
        "task_acks_on_timeout": True,
        # A lost worker is a failure, after which `workers.tasks` sends the shard again: deaths are counted in the
        # ledger. Celery's own retry counts by message, and task_reject_on_worker_lost loops without bound.
        "task_retry_on_worker_lost": False,
        "task_reject_on_worker_lost": False,
        # True loses the running task when Redis restarts.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        # Loading models takes longer than the default of 4 s, after which every replacement child is killed.
        "worker_proc_alive_timeout": 300,
        # CUDA breaks under fork; the prefork parent survives a crash, and time limits work.
        "worker_pool": "prefork",
        "worker_pool_start_method": "spawn",
        "worker_concurrency": 1,
        "task_soft_time_limit": settings.shard_soft_limit_s,
        "task_time_limit": settings.shard_hard_limit_s,
        # With REMAP_SIGTERM=SIGQUIT (`apf worker` sets it) SIGTERM gives the shard back within the grace period.
        "worker_soft_shutdown_timeout": settings.shutdown_grace_s,
        "worker_enable_soft_shutdown_on_idle": True,
    }


def _transport(settings: Settings) -> dict[str, object]:
    if not settings.broker_url:
        return {"broker_transport_options": {"polling_interval": 0.05}}
    shared = {
        # Over twice the hard limit: a shard that still runs is never delivered twice. Results must have the same.
        "visibility_timeout": settings.visibility_timeout_s,
        # One of the two without the prefix breaks under Redis ACLs.
        "global_keyprefix": settings.broker_key_prefix,
        # Default None: a publisher hangs on a dead connection.
        "socket_timeout": 30,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
    }
    return {
        "broker_transport_options": {
            **shared,
            # Redelivery after a kill in seconds instead of minutes.
            "unacked_restore_interval": 5,
            "unacked_restore_throttle": 1,
            "deadletter_queue": DEAD_LETTERS,
            # Fresh uploads go ahead of bulk work, and tenants take turns.
            "queue_order_strategy": "workers.broker.queues:FairQueueOrder",
            # Lanes are queues: no message has a priority, and each step would be one more key to ask.
            "priority_steps": [0],
        },
        "result_backend_transport_options": shared,
    }
