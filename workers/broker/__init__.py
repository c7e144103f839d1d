"""Celery and Redis: the app, queues and their fairness, sending, and which workers listen."""
