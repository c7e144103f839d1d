"""Create, plan, rescue and retry batches."""
