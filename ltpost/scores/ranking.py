"""How well scores rank the rows of one class before the others, whatever the threshold."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ltpost.data.features import FeatureSet
from ltpost.heads import Array, Head
from ltpost.heads.blocks import score_blocks


def average_precision(scores: Array, positive: NDArray[np.bool_]) -> float:
    """The area under the curve of precision against recall, as the sum of its steps; NaN without a positive row.

    Equal scores are one step (as in scikit-learn's ``average_precision_score``).

    Args:
        scores: (N,), higher for rows that look positive.
        positive: (N,).

    >>> average_precision(np.array([0.9, 0.8, 0.7]), np.array([True, False, True])).__round__(4)
    0.8333
    """
    if not positive.any():
        return np.nan
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    hits = np.cumsum(positive[order])[last]
    precision, recall = hits / (last + 1), hits / positive.sum()
    return float(np.diff(recall, prepend=0.0) @ precision)


def score_differences(head: Head, feature_set: FeatureSet, positive: int) -> Array:
    """Of two classes, the logit of ``positive`` less that of the other, (N,) float64."""
    differences = np.empty(len(feature_set))
    for part, scores in score_blocks(head, feature_set):
        differences[part] = scores[:, positive].astype(np.float64) - scores[:, 1 - positive]
    return differences
