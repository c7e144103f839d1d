"""Reprocessing by itself: on a clock, or when photos, recipe or weights have changed."""
