"""The parts of `apf.research.evaluate.photos`: each knows how to do one thing with a whole photo."""
