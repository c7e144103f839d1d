"""Measurement of protection, as a stranger would do it: `python -m apf.research.evaluate`."""

from apf.extras import lacking

if _reason := lacking("research"):
    raise SystemExit(f"apf.research.evaluate: {_reason}; from a checkout: make setup")
