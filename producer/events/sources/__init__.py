"""Sources of events: SQS and HTTP."""
