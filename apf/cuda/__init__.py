"""One GPU's road: batches of a few fixed sizes, CUDA graphs, reduced precision, and what is done when memory ends.

Every part gives way to the plain road with a warning in the log where a device cannot do it.
"""
