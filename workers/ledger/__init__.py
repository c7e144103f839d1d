"""The state of batches, kept as objects in the store: plans, reports, leases, callbacks."""
