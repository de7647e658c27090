"""What a row of each class counts in a loss, from the training class counts n_c. All sum to C."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ltpost.data.priors import class_list, log_prior
from ltpost.errors import DataError, UsageError
from ltpost.heads import Array


def inverse_power(class_counts: Array, rho: float) -> NDArray[np.float64]:
    """Generalised re-weighting, v_c ∝ π_c^-ρ, (C,).

    Source: Zhang et al., "Distribution Alignment …" (DisAlign), CVPR 2021, section 3.3.

    Raises:
        DataError: a class without training samples.

    >>> inverse_power(np.array([90, 10]), 1.0).round(3)
    array([0.2, 1.8])
    """
    return _to_mean_one(np.exp(-rho * log_prior(class_counts)))


def effective_number(class_counts: Array, beta: float) -> NDArray[np.float64]:
    """One over the effective number of samples, v_c ∝ (1 - β) / (1 - β^n_c), (C,).

    Source: Cui et al., "Class-balanced loss based on effective number of samples", CVPR 2019, equations 2 and 3.

    Args:
        class_counts: (C,) training samples per class, all positive.
        beta: 0 gives ones; towards 1 it gives 1 / n_c.

    Raises:
        DataError: a class without training samples.
        UsageError: β outside of 0..1, 1 itself not included.

    >>> effective_number(np.array([9, 1]), 0.0)
    array([1., 1.])
    """
    if not 0 <= beta < 1:
        raise UsageError(f"beta= must be at least 0 and less than 1, but is {beta}")
    counts = positive(class_counts)
    if beta == 0:
        return np.ones(len(counts))
    return _to_mean_one(1 / -np.expm1(counts * np.log(beta)))


def positive(class_counts: Array) -> NDArray[np.float64]:
    """The class counts as float64.

    Raises:
        DataError: a class without training samples; the message names it.
    """
    missing = np.flatnonzero(np.asarray(class_counts) <= 0)
    if len(missing):
        raise DataError(
            f"class_counts must be positive to weigh classes by them, but {class_list(missing)} has none; merge or "
            "remove such classes"
        )
    return np.asarray(class_counts, dtype=np.float64)


def _to_mean_one(weight: NDArray[np.float64]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = weight * (len(weight) / weight.sum())
    return result
