"""Logs without secrets, Prometheus metrics and OpenTelemetry traces."""
