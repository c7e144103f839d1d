"""How far a batch is, aggregated from the reports of its shards."""
