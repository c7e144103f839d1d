"""CUDA: batches of a few fixed sizes, graphs, and recovery from a full memory.

Every part falls back to eager execution with a warning in the log where a device cannot do it.
"""
