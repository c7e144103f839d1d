"""The ground floor: records, the clock, the logging context, names on the wire. Knows no store."""
