"""Probabilities as logits: z_c = log p_c, which have the same softmax and the same order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ltpost.errors import DataError
from ltpost.extract.messages import tell

#: by which a row may miss 1: float16, or five digits of 1,000 classes
_ROUNDING = 0.01
_SMALLEST = float(np.finfo(np.float32).tiny)


def log_probabilities(name: str, values: NDArray[np.floating]) -> NDArray[np.float32]:
    """The logarithm of probabilities (N, C); a probability of 0 counts as 1.2e-38, the smallest that is stored.

    Raises:
        DataError: a row has a value outside [0, 1], or does not sum to 1.
    """
    values = values.astype(np.float64)
    sums = values.sum(axis=1)
    for what, bad in (
        ("lie in [0, 1]", ~((values >= 0) & (values <= 1)).all(axis=1)),
        ("sum to 1", ~(np.abs(sums - 1) <= _ROUNDING)),
    ):
        for row in np.flatnonzero(bad)[:1]:
            found = f"sums to {sums[row]:.4g}" if what == "sum to 1" else f"has {_odd(values[row]):.4g}"
            raise DataError(
                f"{name}: probabilities must {what} in every row, but row {row} {found}; leave probabilities= out "
                "where they are logits"
            )
    zeros = int((values == 0).sum())
    if zeros:
        tell(f"warning: {name}: {zeros:,} probabilities are 0, and are stored as the logarithm of {_SMALLEST:.2g}")
    logs: NDArray[np.float32] = np.log(np.maximum(values, _SMALLEST)).astype(np.float32)
    return logs


def two_classes(values: NDArray[np.floating], *, are_probabilities: bool) -> NDArray[np.float32]:
    """The scores of two classes, (N, 2), from those of class 1 alone: 1 - p and p, or logits 0 and z."""
    other = 1 - values if are_probabilities else np.zeros_like(values)
    return np.stack([other, values], axis=1).astype(np.float64 if are_probabilities else np.float32)


def _odd(row: NDArray[np.float64]) -> float:
    return float(row[~((row >= 0) & (row <= 1))][0])
