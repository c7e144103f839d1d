"""Sources of events: SQS, HTTP, a Redis list."""
