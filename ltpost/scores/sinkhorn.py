"""A shift per class after which the mean prediction on unlabelled rows is a known class prior.

    mean_i softmax(z_i + b) = q        b <- b + log q - log mean_i softmax(z_i + b)

Each step is one pass over the rows: the scaling of Sinkhorn and Knopp (Pacific J. Math. 21, 1967), whose other half is
the softmax itself. It converges from everywhere where q is positive.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ltpost.heads import Array, Head
from ltpost.scores.posteriors import Passes, softmax

if TYPE_CHECKING:
    from ltpost.data.features import FeatureSet
    from ltpost.data.unlabelled import UnlabelledRows

TOLERANCE = 1e-6
MOST_PASSES = 500


def shift_to_prior(
    rows: FeatureSet | UnlabelledRows,
    head: Head,
    log_prior: Array,
    start: Array | None = None,
    *,
    tolerance: float = TOLERANCE,
    most: int = MOST_PASSES,
) -> tuple[NDArray[np.float64], int, bool]:
    """The shift b, (C,), with mean 0.

    Args:
        rows: N rows, N > 0; labels are not read.
        head: its logits are z.
        log_prior: (C,) log q.
        start: (C,) where to start; default 0.
        tolerance: stop where the mean prediction differs from q by at most this, in the L1 norm.
        most: give up after so many passes.

    Returns:
        b; the passes over the rows; whether the tolerance was reached.
    """
    blocks, shift = Passes([(head, rows)]), np.zeros(len(log_prior)) if start is None else np.array(start, float)
    prior = np.exp(log_prior - np.max(log_prior))
    prior /= prior.sum()
    for passes in range(1, most + 1):
        total = np.zeros(len(prior))
        for _, _, scores in blocks:
            total += softmax(scores, shift)[0].sum(axis=0)
        mean = total / total.sum()
        if np.abs(mean - prior).sum() <= tolerance:
            return shift - shift.mean(), passes, True
        shift = shift + np.log(prior) - np.log(np.maximum(mean, 1e-300))
    return shift - shift.mean(), most, False
