"""Formats of stores' events, brought to one form."""
