"""Whatever dies, each photo ends with exactly one correct outcome."""

import hashlib

#: What the cheap filter's workers (`tests.faults.cheap`) are told by variables.
#: Seconds for each photo and before each report; the file to make when a report is about to be written; the file that
#: lets a process die, once, right after its report.
SECONDS, REPORT_SECONDS, REPORTING = "CHEAP_SECONDS", "CHEAP_REPORT_SECONDS", "CHEAP_REPORTING"
DEADLY_REPORT = "CHEAP_DEADLY_REPORT"
#: So many times as fast do waits for a store and for a receiver pass.
FASTER = "CHEAP_FASTER"


def cheap_output(data: bytes) -> bytes:
    """What the cheap filter makes of a photo: the same bytes from the same bytes, and never the source's."""
    return b"protected " + hashlib.sha256(data).hexdigest().encode() + data[::-1]
