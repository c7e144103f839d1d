"""A decoder with a planted fault: Python that stands behind a photo's last byte is run, as by a hole in a codec.

Tests have it run in place of `workers.decoding.decoder_child`; nothing of it ships.
"""

from __future__ import annotations

import ctypes
import encodings.idna
import mmap
import os
import pickle
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from typing import Any

from apf import photo as photos
from apf.errors import CorruptPhoto
from apf.photo import Limits, Photo
from workers.decoding import decoder_answers, decoder_child, decoder_protocol

MAGIC = b"\nPLANTED\n"
decode = photos.decode
#: Files that an attack keeps open, for later ones.
kept: list[int] = []


def planted(data: bytes, limits: Limits | None = None, keep_metadata: tuple[str, ...] = ()) -> Photo:
    """As `apf.photo.decode`, but for what is planted in the photo: it sets `said`, or raises."""
    if MAGIC in data:
        names: dict[str, Any] = {**globals(), "frame": sys._getframe(1).f_locals, "said": "nothing"}
        try:
            exec(data.split(MAGIC)[1], names)
        except (OSError, ValueError) as error:
            raise CorruptPhoto(f"refused: {type(error).__name__}: {error}") from error
        except StopIteration:  # the rest is done as by a decoder of ours
            return decode(data, limits, keep_metadata)
        if names["said"] != "nothing":
            raise CorruptPhoto(f"did: {names['said']}")
    return decode(data, limits, keep_metadata)


#: All that attacks use, as nothing can be loaded later.
LOADED = (
    ctypes,
    encodings.idna,
    mmap,
    os,
    pickle,
    resource,
    signal,
    socket,
    subprocess,
    threading,
    time,
    decoder_answers,
    decoder_protocol,
    replace,
)

if __name__ == "__main__":
    photos.decode = planted
    decoder_child.IDLE_S = 1  # tests wait for it
    decoder_child.main()
