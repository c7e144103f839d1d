"""Forget photos: their outputs and all that the ledger says of them, and keep them forgotten."""
