"""The worker: settings, stores, ledger, the Celery app and the one task."""
