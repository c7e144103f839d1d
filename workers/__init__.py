"""The worker: settings, stores, ledger, the Celery app and the one task."""

import apf as apf  # first of all: it turns ONNX Runtime's telemetry off
