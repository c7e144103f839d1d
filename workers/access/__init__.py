"""Checks before a photo is read or written: sources, batch records, claims on outputs."""
