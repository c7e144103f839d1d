"""Training of the three modules: `python -m apf.research.train`."""

from apf.extras import lacking

if _reason := lacking("research"):
    raise SystemExit(f"apf.research.train: {_reason}; from a checkout: make setup")
