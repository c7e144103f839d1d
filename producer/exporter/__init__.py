"""`apf exporter`: Prometheus metrics of queues and open batches."""
