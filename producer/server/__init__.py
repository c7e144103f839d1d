"""`apf serve`: the HTTP API under /v1, for a platform in any language."""
