"""The fixed forms of what a worker and its decoders write to each other; answers are
`workers.decoding.decoder_answers`'s.
"""

from __future__ import annotations

import struct

#: Commands to the template process: to make a decoder (with its memory in bytes, threads, cage), or to end one by id.
COMMAND = struct.Struct("<cQQB")
START, END = b"S", b"E"
#: Its reply: the decoder's id, or the status that it ended with.
REPLY = struct.Struct("<q")
#: A request: its number, its kind, and the bytes of its parameters (JSON) and of what follows them in lent memory.
REQUEST = struct.Struct("<QBQQ")
HEADER, DECODE, ENCODE = 1, 2, 3
#: The kind of an answer is that of its request, or this.
FAULT = 4
#: Before the first request a decoder says in so many bytes of JSON what holds it.
GREETING = struct.Struct("<I")


class BadAnswer(Exception):
    """Raised where an answer is not one that a decoder of ours gives: it is broken, or was taken over."""

    def __str__(self) -> str:
        return f"a decoder answered what none does: {super().__str__()}"
