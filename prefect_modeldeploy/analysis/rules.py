"""The rules that evidence is gathered under, as a short text to compare: it must not be continued under others.

Only what differs from its default is a rule that somebody gave. A field that is new, with a default, therefore changes
nothing: evidence outlives an upgrade. Whoever changes a default, or what a rule means, raises the judge's `SCHEMA`.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

Given = tuple[str, dict[str, object]]


def given(rule: Any, *, but: Iterable[str] = ()) -> Given:
    """What kind of rule it is, and the values that are not its defaults, sorted by their names.

    Args:
        rule: Settings, a metric, a threshold rule.
        but: Names of fields that may change although evidence was gathered.
    """
    values = {field.name: getattr(rule, field.name) for field in fields(rule)}
    defaults = {field.name: field.default for field in fields(rule)}
    names = sorted(name for name in values if name not in but and values[name] != defaults[name])
    return type(rule).__name__, {name: values[name] for name in names}


def fingerprint(rules: Iterable[Given]) -> str:
    """Changes with the rules, and with their order."""
    return hashlib.sha256(repr(list(rules)).encode()).hexdigest()[:12]
