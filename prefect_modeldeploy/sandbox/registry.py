"""Finds emulators by name: `scale` is the class `EMULATOR` in the module `prefect_modeldeploy.sandbox.scale`."""

import importlib
import importlib.util

from prefect_modeldeploy.errors import InvalidInput
from prefect_modeldeploy.sandbox.emulator import Emulator

PROVIDERS = ("baseten", "scale", "foundry", "fiddler", "gradient")


def available() -> list[str]:
    """Names of the providers that this version has an emulator for."""
    return [name for name in PROVIDERS if importlib.util.find_spec(f"{__package__}.{name}")]


def find(name: str) -> type[Emulator]:
    """The emulator of a provider.

    Raises:
        InvalidInput: There is none; says which there are.
    """
    if name not in available():
        raise InvalidInput("providers", name, f"there is no such emulator; there are {', '.join(available())}")
    module = importlib.import_module(f"{__package__}.{name}")
    found = getattr(module, "EMULATOR", None)
    if not (isinstance(found, type) and issubclass(found, Emulator) and found.name == name):
        raise TypeError(f"{module.__name__} must bind EMULATOR to a subclass of Emulator whose name is {name!r}")
    return found
