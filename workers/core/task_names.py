"""The names of the Celery tasks in messages: they stay, wherever the code of a task moves."""

from __future__ import annotations

TASK = "workers.tasks.protect_shard"
RECONCILE = "workers.tasks.reconcile_all"
PLAN = "workers.tasks.plan_batch"
CALLBACK = "workers.tasks.deliver_callback"
RUN_SCHEDULES = "workers.tasks.run_schedules"
