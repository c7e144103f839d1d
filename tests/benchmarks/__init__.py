"""Benchmarks: each is one command that prints a table and one JSON object, and keeps its history (`record.py`)."""
