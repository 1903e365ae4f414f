"""A model that takes longer to load than anybody waits."""

import time
from typing import Any

time.sleep(600)


def predict(value: Any) -> Any:
    return value
