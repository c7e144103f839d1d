"""Measurement of protection, as a stranger would do it: `python -m apf.research.evaluate`."""
