"""Decoders on a machine without Landlock, as an older kernel has none. Of tests alone."""

from __future__ import annotations

from workers.decoding import decoder_child, sandbox


def _no_landlock() -> int:
    raise sandbox._Lacking("Landlock (Function not implemented): Linux 5.13 or newer has it")


if __name__ == "__main__":
    sandbox._landlock_abi = _no_landlock
    decoder_child.main()
