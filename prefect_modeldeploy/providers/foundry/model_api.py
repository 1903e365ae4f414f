"""What a model takes and gives: the types of a model version's inputs and outputs, for publishing one."""

from typing import Annotated, Literal, Union

from pydantic import Field

from prefect_modeldeploy.providers.foundry.types import Rid, _Request


class PlainType(_Request):
    """A type without further fields."""

    type: Literal["any", "boolean", "date", "double", "float", "integer", "long", "string", "timestamp", "unsupported"]


class ArrayType(_Request):
    """A list of one type."""

    type: Literal["array"] = "array"
    item_type: "DataType"


class MapType(_Request):
    """A mapping."""

    type: Literal["map"] = "map"
    key_type: "DataType"
    value_type: "DataType"


DataType = Annotated[Union[PlainType, ArrayType, MapType], Field(discriminator="type")]  # noqa: UP007 - forward names


class Column(_Request):
    """A column of a table."""

    name: str = Field(min_length=1)
    required: bool | None = Field(None, description="None: true.")
    data_type: DataType


class Parameter(_Request):
    """An input or output that is a single value."""

    type: Literal["parameter"] = "parameter"
    name: str = Field(min_length=1)
    required: bool | None = Field(None, description="None: true.")
    data_type: DataType


class Tabular(_Request):
    """An input or output that is a table."""

    type: Literal["tabular"] = "tabular"
    name: str = Field(min_length=1)
    required: bool | None = Field(None, description="None: true.")
    columns: list[Column]
    format: Literal["PANDAS", "SPARK"] | None = Field(None, description="None: PANDAS.")


Entry = Annotated[Parameter | Tabular, Field(discriminator="type")]


class ModelApi(_Request):
    """Inputs and outputs of a model version."""

    inputs: list[Entry] = Field(default_factory=list)
    outputs: list[Entry] = Field(default_factory=list)


class DillFiles(_Request):
    """The model itself: a function pickled by dill, in base64. Whoever can publish one can run code in Foundry."""

    type: Literal["dill"] = "dill"
    serialized_model_function: str = Field(min_length=1, repr=False)


class NewVersion(_Request):
    """A model version to publish. It has no branch: which one it lands on is not documented."""

    model_files: DillFiles
    backing_repositories: list[Rid] = Field(default_factory=list)
    conda_requirements: list[str] = Field(default_factory=list)
    model_api: ModelApi


class NewFunction(_Request):
    """A function that wraps a model. `display_name` is for its creation only."""

    api_name: str = Field(min_length=1)
    is_row_wise: bool
    display_name: str | None = None
    ontology_binding: Rid | None = None


ArrayType.model_rebuild()
MapType.model_rebuild()
