"""Routes of the HTTP API: they check, call what the commands call, and answer."""
