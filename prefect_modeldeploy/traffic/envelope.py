"""How a vendor wraps bodies. Used by the hop in `adapter.py`, which is small because this imports no pydantic."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, ClassVar, Self


@dataclasses.dataclass(frozen=True)
class Envelope:
    """The payload goes into `field`, beside the constants; the answer is at `answer`.

    Foundry: `{"input": payload}` and `answer["output"]`. Fiddler: `{"model_id": ..., "data": [payload]}` and
    `answer["data"]["predictions"][0]`.

    Args:
        field: Name of the payload in the vendor's body.
        answer: Path to the answer in what the vendor sends back.
        constants: The rest of the vendor's body, JSON.
        rows: The vendor takes and gives lists: a payload that is none travels in one.
        error_name: Field of the vendor's error answers that names the error.
        failures: Names with which the vendor answers 4xx when the model broke. Clients get 500 instead.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    field: str
    answer: tuple[str, ...]
    constants: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    rows: bool = False
    error_name: str | None = None
    failures: tuple[str, ...] = ()

    def failed(self, said: Any) -> bool:
        """Whether a 4xx means that the model failed, and not that the request is bad."""
        return isinstance(said, dict) and self.error_name is not None and said.get(self.error_name) in self.failures

    def wrap(self, payload: Any) -> dict[str, Any]:
        """The vendor's body."""
        return {**self.constants, self.field: [payload] if self.rows and not isinstance(payload, list) else payload}

    def unwrap(self, said: Any, payload: Any) -> Any:
        """The answer to `payload` in what the vendor said. Raises ValueError when it is not there."""
        for step in self.answer:
            if not isinstance(said, dict) or step not in said:
                raise ValueError(f"the deployment's answer has no {'.'.join(self.answer)}")
            said = said[step]
        if not self.rows or isinstance(payload, list):
            return said
        if not isinstance(said, list) or len(said) != 1:
            raise ValueError(f"{'.'.join(self.answer)} of the deployment's answer is not a list of one")
        return said[0]

    def to_header(self) -> str:
        """As one line of ASCII."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_header(cls, text: str) -> Self:
        """Raises ValueError or TypeError for what `to_header` has not made."""
        return cls(**json.loads(text))
