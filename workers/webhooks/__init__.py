"""One signed POST to a URL that a stranger gave: the SSRF guard, the signature, the request."""
