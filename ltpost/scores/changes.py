"""A curve as its changes: at which values of the parameter more or fewer rows of a class become right.

A few bytes for each row say what every class does at every value; sums of them are the hits per class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ltpost.heads import Array
from ltpost.scores.curve import Curve
from ltpost.scores.exact import ExactCurve

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Changes:
    """E changes along K values, sorted by class, then by position.

    Attributes:
        of_class: (E,), the class.
        position: (E,), which of the values; at the first of them every class changes from 0.
        amount: (E,), how many more rows of the class are right there than at the value before.
    """

    of_class: Integers
    position: Integers
    amount: Integers

    def hits(self, position: int, num_classes: int) -> Integers:
        """Right rows of every class at one of the values, (C,)."""
        until = self.position <= position
        return np.bincount(self.of_class[until], self.amount[until], num_classes).astype(np.int64)


def changes(curve: Curve, values: Array) -> Changes:
    """The changes of a curve along ascending values, (K,); of a tabulated curve those of its grid."""
    steps = len(values) + 1  # the last is for rows that stay right until the end
    labels = curve.labels.astype(np.int64)
    if isinstance(curve, ExactCurve):
        ever = np.flatnonzero(curve.low <= curve.high)
        begin = np.searchsorted(values, curve.low[ever], side="left")
        end = np.maximum(begin, np.searchsorted(values, curve.high[ever], side="right"))
        keys = np.concatenate([labels[ever] * steps + begin, labels[ever] * steps + end])
        signs = np.repeat([1, -1], len(ever))
    else:
        right = np.stack([curve.correct(float(value)) for value in values]).astype(np.int64)
        change = np.diff(right, axis=0, prepend=0)  # (K, N)
        position, row = np.nonzero(change)
        keys, signs = labels[row] * steps + position, change[position, row]
    places, which = np.unique(keys, return_inverse=True)
    amounts = np.bincount(which, signs, len(places)).astype(np.int64)
    kept = (amounts != 0) & (places % steps < len(values))
    return Changes(places[kept] // steps, places[kept] % steps, amounts[kept])
