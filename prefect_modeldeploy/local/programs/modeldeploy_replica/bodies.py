"""Bodies of requests and answers."""

import importlib
import json
from collections.abc import Mapping
from typing import Any

DTYPES = {
    "BOOL": "bool",
    **{f"UINT{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    **{f"INT{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": f"float{bits}" for bits in (16, 32, 64)},
    "BYTES": "object",
}
_DATATYPES = {dtype: datatype for datatype, dtype in DTYPES.items()}


class BadInput(Exception):
    """The request cannot be read: HTTP 400."""


def numpy() -> Any:
    """The interpreter of the model may lack it, and a callable may not need it."""
    return importlib.import_module("numpy")


def rows_of(body: Any) -> Any:
    """The rows in one of MLflow's bodies; data frames become rows of values, columns ordered as in the first row."""
    if not isinstance(body, dict):
        raise BadInput("the body must be an object with instances, inputs, dataframe_split or dataframe_records")
    for key in ("instances", "inputs"):
        if key in body:
            return body[key]
    try:
        if "dataframe_split" in body:
            return body["dataframe_split"]["data"]
        if "dataframe_records" in body:
            records = body["dataframe_records"]
            return [[record[column] for column in records[0]] for record in records]
    except (TypeError, KeyError, IndexError) as error:
        raise BadInput(f"cannot read the data frame: {type(error).__name__} {error}") from None
    raise BadInput(f"no instances, inputs, dataframe_split or dataframe_records among {sorted(body)}")


def decode_tensors(body: Any) -> dict[str, Any]:
    """The input tensors of an `infer` request, as numpy arrays by name; raise BadInput."""
    if not isinstance(body, dict) or not isinstance(body.get("inputs"), list) or not body["inputs"]:
        raise BadInput("the body must be an object with a list of `inputs`")
    tensors = {}
    for tensor in body["inputs"]:
        try:
            name, datatype, shape, data = (tensor[key] for key in ("name", "datatype", "shape", "data"))
            dtype = DTYPES[datatype]
        except (TypeError, KeyError) as error:
            raise BadInput(f"an input needs name, shape, data and a datatype of {sorted(DTYPES)}: {error}") from None
        try:
            tensors[name] = numpy().asarray(data, dtype=dtype).reshape(shape)
        except (TypeError, ValueError, OverflowError) as error:
            raise BadInput(f"input {name!r} is not a {datatype} tensor of shape {shape}: {error}") from None
    return tensors


def encode_tensors(outputs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Arrays by name as the output tensors of an `infer` answer."""
    tensors = []
    for name, value in outputs.items():
        array = numpy().asarray(value)
        datatype = _DATATYPES.get(str(array.dtype), "BYTES")
        data = [str(item) for item in array.ravel()] if datatype == "BYTES" else array.ravel().tolist()
        tensors.append({"name": name, "datatype": datatype, "shape": list(array.shape), "data": data})
    return tensors


def _plain(value: Any) -> Any:
    """What json cannot write: numpy's arrays and numbers, and whatever else can be a list."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"the model's answer holds a {type(value).__name__}, which is not JSON")


def to_json(value: Any) -> bytes:
    """Strict JSON: NaN and infinity are errors."""
    return json.dumps(value, default=_plain, allow_nan=False, separators=(",", ":")).encode()
