"""Which windows were counted already, in bounded space.

Windows come in order, and what is delivered twice is delivered soon after: a task is retried, a run is restored from
the state before last. The judge therefore remembers the ids of the last 64 windows that it counted, as hashes of 30
bits. A window that was forgotten would be counted again; a window is taken for another with probability 6e-8, and is
then left out, which makes no evidence.
"""

import hashlib
from collections import deque
from collections.abc import Iterable

REMEMBERED = 64
"""How many ids are remembered."""

_CHARACTERS = 5  # of 6 bits


class Memory:
    """The ids that were counted last."""

    def __init__(self, text: str = "") -> None:
        hashes = (text[at : at + _CHARACTERS] for at in range(0, len(text), _CHARACTERS))
        self._hashes: deque[str] = deque(hashes, maxlen=REMEMBERED)

    def add(self, window_id: str) -> bool:
        """Remember an id; False if it was there already."""
        digest = _hash(window_id)
        if digest in self._hashes:
            return False
        self._hashes.append(digest)
        return True

    @property
    def text(self) -> str:
        """What to give to a new `Memory`."""
        return "".join(self._hashes)


_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def _hash(window_id: str) -> str:
    number = int.from_bytes(hashlib.sha256(window_id.encode()).digest()[:4], "big")
    return "".join(_digits(number))


def _digits(number: int) -> Iterable[str]:
    for place in range(_CHARACTERS):
        yield _ALPHABET[number >> 6 * place & 63]
