"""Reliability: how sure a classifier says it is, against how often it is right, in bins of its confidence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ltpost.heads import Array

BINS = 15


@dataclass(frozen=True)
class Reliability:
    """The bins (0, 1/B], (1/B, 2/B], …, (1 - 1/B, 1] of the confidence.

    Attributes:
        share: (B,), of the rows (by their weight) that lie in each bin.
        confidence: (B,), their mean confidence; NaN where there are none.
        accuracy: (B,), how many of them are right, a fraction; NaN where there are none.
    """

    share: Array
    confidence: Array
    accuracy: Array

    @property
    def error(self) -> float:
        """Expected calibration error: Σ_b share_b |accuracy_b - confidence_b|, a fraction; NaN without rows."""
        return float(np.nansum(self.share * np.abs(self.accuracy - self.confidence))) if len(self.share) else np.nan


def reliability(confidence: Array, correct: Array, weight: Array | None = None, bins: int = BINS) -> Reliability:
    """The bins of rows; right-closed as in Guo et al. (ICML 2017) and MiSLAS.

    Args:
        confidence: (N,).
        correct: (N,).
        weight: (N,), what each row counts; default alike.
        bins: B.
    """
    if len(confidence) == 0:
        return Reliability(*(np.empty(0) for _ in range(3)))
    weight = np.ones(len(confidence)) if weight is None else weight
    where = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    total, sure, right = (np.bincount(where, weight * values, bins) for values in (1.0, confidence, correct))
    with np.errstate(invalid="ignore"):
        return Reliability(total / total.sum(), sure / total, right / total)


def calibration_error(confidence: Array, correct: Array, weight: Array | None = None, bins: int = BINS) -> float:
    """Expected calibration error, see :attr:`Reliability.error`; arguments as for :func:`reliability`.

    >>> round(calibration_error(np.array([0.9, 0.9, 0.2]), np.array([1, 0, 0])), 4)
    0.3333
    """
    return reliability(confidence, correct, weight, bins).error
