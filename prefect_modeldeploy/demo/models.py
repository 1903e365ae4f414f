"""Three versions of a classifier of hand-written digits; the third one is subtly broken."""

import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

WRONG_PERCENT = 20
"""Share of the digits for which version 3 mixes its features up."""

FAILING_PERCENT = 8
"""Share of the digits for which version 3 raises an error, which the server answers with HTTP 500."""

Floats = NDArray[np.float64]


class Sample(NamedTuple):
    """One labelled request."""

    pixels: list[float]
    digit: int


class MixedUp:
    """A model after a careless release: it reads some images back to front, and trips over others."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def predict(self, rows: Floats) -> Floats:
        """Predict; which rows suffer depends on their content only, so the demo is the same each time."""
        luck = np.array([zlib.crc32(row.astype(np.float64).tobytes()) % 100 for row in rows])
        if (luck < FAILING_PERCENT).any():
            raise ValueError("feature 'pixel_63' is missing")
        mixed = np.where((luck >= 100 - WRONG_PERCENT)[:, None], rows[:, ::-1] * -1.0, rows)
        return np.asarray(self._model.predict(mixed))


def train(directory: Path) -> tuple[dict[str, Path], list[Sample]]:
    """Train the three versions.

    Returns:
        The model file of each version, and labelled samples that none of them was trained on.
    """
    import joblib
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    digits = load_digits()
    known, unseen, labels, truth = train_test_split(digits.data, digits.target, test_size=0.5, random_state=0)
    models = {
        "1": make_pipeline(StandardScaler(), LogisticRegression(C=0.002, max_iter=500)).fit(known, labels),
        "2": make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500)).fit(known, labels),
    }
    models["3"] = MixedUp(models["2"])
    files = {version: directory / f"digits-{version}.joblib" for version in models}
    for version, model in models.items():
        joblib.dump(model, files[version])
    samples = [Sample(row.tolist(), int(digit)) for row, digit in zip(unseen, truth, strict=True)]
    return files, samples
