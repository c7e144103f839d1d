"""The lowest layer: records, the clock, the logging context, names on the wire. Knows no store."""
