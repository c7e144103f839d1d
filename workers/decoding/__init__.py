"""Decode photos in processes of their own, and trust nothing that these answer."""
