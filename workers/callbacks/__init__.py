"""Deliver the callback of a batch that is done: payload, retries, throttle."""
