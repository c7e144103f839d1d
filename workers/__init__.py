"""The shared parts of batches and their execution: stores, ledger, broker, execution, schedules, report."""

import apf as apf  # first of all: it turns ONNX Runtime's telemetry off
