"""The producer: plans a batch, sends its shards and tells how far they are. Never loads torch."""
