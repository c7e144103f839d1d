"""Schedules: protect a library again on a clock, or when photos, recipe or weights have changed."""
