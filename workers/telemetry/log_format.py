"""Formats of log lines (APF_LOG_FORMAT): text for people, or one JSON object each; both name batch and shard.

Masks (`workers.telemetry.redaction`) are applied when a record is made, before any formatter sees it. JSON shows the
fields that are listed here and nothing else: what libraries hang on their records could name anybody.
"""

from __future__ import annotations

import logging
import os
import warnings
from datetime import UTC, datetime
from typing import Any

from celery.signals import (
    after_setup_logger,
    after_setup_task_logger,
    celeryd_after_setup,
    celeryd_init,
    worker_process_init,
)
from celery.utils.log import ColorFormatter, get_multiprocessing_logger
from pythonjsonlogger.json import JsonFormatter

from workers.config.settings import load_settings
from workers.core.log_context import NAMES, current_context, inherit_context
from workers.core.task_names import RECONCILE, RUN_SCHEDULES
from workers.telemetry.redaction import install, masked

#: Where a record carries what its thread was at (`workers.core.log_context`).
AT = "apf_at"

#: Tasks that `apf beat` sends once a minute.
LOOKS = (RECONCILE, RUN_SCHEDULES)
#: Celery's own lines name a task by a field of theirs.
_CELERY_DATA, _CELERY_TASK = "data", "id"


class TextFormatter(ColorFormatter):
    """Celery's own lines, with what the thread was at behind the message."""

    def format(self, record: logging.LogRecord) -> str:
        text = str(super().format(record))
        facts = " ".join(f"{name}={value}" for name, value in _facts(record).items() if name in ("batch", "shard"))
        message, line_end, more = text.partition("\n")
        return f"{message} [{facts}]{line_end}{more}" if facts else text


class JsonLineFormatter(JsonFormatter):
    """`time` (ISO 8601, UTC), `level`, `logger`, `process`, `message`, what the thread was at, and `exc_info`."""

    def format(self, record: logging.LogRecord) -> str:
        if record.exc_text:
            # Masked when the record was made; formatted anew it would not be.
            record = logging.makeLogRecord({**record.__dict__, "exc_info": None})
        return str(super().format(record))

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        log_data["time"] = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        log_data["level"] = record.levelname
        log_data["logger"] = record.name
        log_data["process"] = record.process
        log_data["message"] = record.getMessage()
        log_data.update(_facts(record))
        for name in ("exc_info", "stack_info"):
            if text := message_dict.get(name):
                log_data[name] = masked(str(text))


def _facts(record: logging.LogRecord) -> dict[str, object]:
    facts = {name: value for name, value in getattr(record, AT, {}).items() if name in NAMES}
    data = getattr(record, _CELERY_DATA, None)
    if "task" not in facts and isinstance(data, dict) and _CELERY_TASK in data:
        facts["task"] = data[_CELERY_TASK]
    return facts


class IdlePassFilter(logging.Filter):
    """Leaves away that a look at schedules or open batches was begun, and that it ended with nothing to do."""

    def filter(self, record: logging.LogRecord) -> bool:
        data = getattr(record, _CELERY_DATA, None)
        if record.levelno > logging.INFO or not isinstance(data, dict) or data.get("name") not in LOOKS:
            return True
        return bool(data.get("return_value", "{}") != "{}")


# Celery logs there that a task was received, and how it ended.
for _name in ("celery.worker.strategy", "celery.app.trace"):
    logging.getLogger(_name).addFilter(IdlePassFilter())


def format_lines(logger: logging.Logger) -> None:
    """Have a logger's handlers write as APF_LOG_FORMAT says."""
    as_json = load_settings().log_format == "json"
    for handler in logger.handlers:
        if as_json:
            handler.setFormatter(JsonLineFormatter())
        elif isinstance(handler.formatter, ColorFormatter):
            handler.setFormatter(TextFormatter(handler.formatter._fmt, use_color=handler.formatter.use_color))


def configure() -> None:
    """For a process that is no worker, and has made its handlers already: masks, and APF_LOG_FORMAT."""
    install()
    format_lines(logging.getLogger())


@celeryd_init.connect
@worker_process_init.connect
def name_worker(sender: object = None, **_: object) -> None:
    """Add the worker's name to log records outside tasks."""
    if sender:
        inherit_context({**current_context(), "worker": sender})


@celeryd_init.connect
def before_setup(**_: object) -> None:
    """Celery warns of some things before it has any handler: as root, say."""
    if load_settings().log_format == "json":
        warnings.showwarning = _warn_in_json


def _warn_in_json(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object, **__: object
) -> None:
    text = warnings.formatwarning(message, category, filename, lineno).rstrip()
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLineFormatter())
    logger = logging.getLogger("py.warnings")
    handler.handle(logger.makeRecord(logger.name, logging.WARNING, filename, lineno, text, (), None))


@celeryd_after_setup.connect
def before_children(**_: object) -> None:
    """Billiard, Celery's multiprocessing, would have a child log its start before it can know how lines look."""
    if load_settings().log_format == "json":
        os.environ.pop("_MP_FORK_LOGLEVEL_", None)


@after_setup_logger.connect
@after_setup_task_logger.connect
def on_setup(logger: logging.Logger, **_: object) -> None:
    """Celery has made its handlers: of the root logger and billiard's, then of tasks' own."""
    format_lines(logger)
    if billiards := get_multiprocessing_logger():
        format_lines(billiards)
