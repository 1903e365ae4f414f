"""Gives back the disk space at the front of a file that is being written, without moving a byte of the rest."""

import ctypes
import logging
import os
import sys
from pathlib import Path

_KEEP_SIZE, _PUNCH_HOLE = 1, 2
"""Flags of fallocate(2)."""

_log = logging.getLogger(__name__)


def give_back(path: Path, end: int) -> bool:
    """Free the disk blocks of the first `end` bytes; they read as zeros from then on, and offsets stay what they are.

    A log cannot be truncated while somebody writes it: a line could arrive between the last read and the truncation.

    Returns:
        False where the system or the file system cannot do it (it is Linux's `fallocate`); the file stays as it is.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate64.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    descriptor = os.open(path, os.O_WRONLY)
    try:
        if libc.fallocate64(descriptor, _KEEP_SIZE | _PUNCH_HOLE, 0, end) == 0:
            return True
    finally:
        os.close(descriptor)
    _log.warning("the disk space of %s cannot be given back: %s", path, os.strerror(ctypes.get_errno()))
    return False
