"""Fiddler's v3 and v2 APIs, at the root of a port (the vendor's client allows no path prefix).

What is unknown about the vendor, and what the emulator does: the table in docs/sandbox.md.

The model's callable is asked once per row, and what it answers is the row, or its output column.
"""

from prefect_modeldeploy.sandbox.fiddler.emulator import FiddlerEmulator

EMULATOR = FiddlerEmulator

__all__ = ["EMULATOR", "FiddlerEmulator"]
