"""Ports that are still free when they are used."""

import secrets
import socket
from contextlib import suppress


def free_port(host: str = "127.0.0.1") -> int:
    """A port that is none of those that the system gives to whoever asks for any: nobody gets it in the meantime."""
    while True:
        port = 20_000 + secrets.randbelow(10_000)
        with suppress(OSError), socket.socket() as probe:
            probe.bind((host, port))
            return port
