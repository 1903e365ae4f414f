"""Another machine, as far as the network goes: a namespace of its own, joined to this one by a pair of interfaces."""

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Namespace:
    """`here` is this machine's address on the way to it, `there` its own."""

    name: str
    here: str
    there: str

    def command(self, *command: str) -> list[str]:
        """What runs the command there."""
        return ["ip", "netns", "exec", self.name, *command]


@contextmanager
def network_namespace() -> Iterator[Namespace]:
    """Make one for as long as the block lasts; skip the test where that cannot be done."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("LOUD: only root can make a network namespace, with iproute2: NO REMOTE WORKER WAS TESTED")
    number = random.randint(0, 255)
    space = Namespace(f"modeldeploy-{os.getpid()}-{number}", f"10.213.{number}.1", f"10.213.{number}.2")
    ours, theirs = f"md{number}h", f"md{number}n"
    try:
        _ip("netns", "add", space.name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"LOUD: no network namespace can be made, NO REMOTE WORKER WAS TESTED: {error.stderr}")
    try:
        _ip("link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", space.name)
        _ip("address", "add", f"{space.here}/30", "dev", ours)
        _ip("link", "set", ours, "up")
        for arguments in (("address", "add", f"{space.there}/30", "dev", theirs), ("link", "set", theirs, "up")):
            _ip("-n", space.name, *arguments)
        _ip("-n", space.name, "link", "set", "lo", "up")
        yield space
    finally:
        _ip("netns", "delete", space.name)  # and the pair with it


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
