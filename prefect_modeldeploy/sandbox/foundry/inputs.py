"""Whether the inputs of a request fit a model's API: the vendor's `InferenceInvalidInput.errorType`."""

from typing import Any

from prefect_modeldeploy.sandbox.world import Record

_WHOLE, _NUMBER, _TEXT = frozenset({"integer", "long"}), frozenset({"double", "float"}), frozenset(
    {"string", "date", "timestamp"}
)  # fmt: skip


def misfit(api: Record, given: dict[str, Any]) -> Record | None:
    """The first thing that is wrong, as the vendor says it; None when all fits, or the API names no inputs."""
    declared = {entry["name"]: entry for entry in api["inputs"] if entry.get("name")}
    if not declared:
        return None
    for name in given:
        if name not in declared:
            return {"type": "unknownInputName", "inputName": name}
    for name, entry in declared.items():
        if given.get(name) is None:
            if entry.get("required") is not False:
                return {"type": "requiredValueMissing", "fieldName": name}
        elif wrong := _entry(name, entry, given[name]):
            return wrong
    return None


def _entry(name: str, entry: Record, value: Any) -> Record | None:
    if entry["type"] == "tabular":
        return _table(name, entry, value)
    return _value(entry["dataType"], value) if entry["type"] == "parameter" else None


def _table(name: str, entry: Record, rows: Any) -> Record | None:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return {"type": "invalidTabularFormat", "inputFieldName": name}
    for row in rows:
        for column in entry.get("columns") or []:
            if row.get(column["name"]) is None:
                if column.get("required") is not False:
                    return {"type": "requiredValueMissing", "fieldName": column["name"]}
            elif wrong := _value(column["dataType"], row[column["name"]]):
                return wrong
    return None


def _value(kind: Record, value: Any) -> Record | None:
    word = kind["type"]
    if word == "array":
        if not isinstance(value, list):
            return _mismatch(word, value)
        return next((wrong for item in value if (wrong := _inner(kind.get("itemType"), item))), None)
    if word == "map":
        if not isinstance(value, dict):
            return {"type": "invalidMapFormat"}
        return next((wrong for item in value.values() if (wrong := _inner(kind.get("valueType"), item))), None)
    if word == "unsupported":
        return {"type": "unsupportedType", "unsupportedType": word}
    return None if _plain(word, value) else _mismatch(word, value)


def _inner(kind: Record | None, value: Any) -> Record | None:
    return _value(kind, value) if kind else None


def _plain(word: str, value: Any) -> bool:
    if word == "any":
        return True
    if word == "boolean" or isinstance(value, bool):
        return word == "boolean" and isinstance(value, bool)
    if word in _WHOLE:
        return isinstance(value, int)
    if word in _NUMBER:
        return isinstance(value, int | float)
    return word in _TEXT and isinstance(value, str)


def _mismatch(expected: str, value: Any) -> Record:
    return {"type": "typeMismatch", "expectedType": expected, "actualType": type(value).__name__}
