"""Training of the three modules: `python -m apf.research.train`."""
