"""CUDA: batches of a few fixed sizes, graphs, and recovery from a full memory.

Every part gives way to the plain road with a warning in the log where a device cannot do it.
"""
