"""When a path of heads need not go on: its heads have clearly become worse on the rows of the choice."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ltpost.data.features import FeatureSet
from ltpost.heads import Array, Head
from ltpost.model_selection import Selection
from ltpost.scores.bootstrap import resamples
from ltpost.scores.goal import Goal
from ltpost.scores.metrics import FIGURES, SELECT, row_weights, selection_score
from ltpost.scores.predict import predict

RESAMPLES = 200
CLEARLY = 39 / 40  # of the resamples


class Turn:
    """Whether the heads of a path, judged one after the other, have clearly become worse on a split.

    Args:
        selection: says by which figure. Where it is not a share of rows (f1, a cost), or others must be kept, no head
            counts as clearly worse.
        split: N rows, those of the choice.
    """

    def __init__(self, selection: Selection, split: FeatureSet):
        self._selection, self._split = selection, split
        self._is_judged = selection.select in SELECT and not selection.keep
        self._best: NDArray[np.bool_] | None = None

    def __call__(self, head: Head) -> bool:
        """Whether the next head is clearly worse than the best so far: in 39 of 40 resamples of the rows."""
        if not self._is_judged:
            return False
        correct = predict(head, self._split, self._selection.device) == self._split.labels
        if self._best is None:
            self._best = correct
            return False
        both = np.stack([self._best, correct])
        once = np.ones(len(self._split))
        if self._scores(both, once) @ (-1, 1) > 0:
            self._best = correct
            return False
        draws = resamples(self._split.labels, self._split.num_classes, self._split.sample, num=RESAMPLES, seed=0)
        return bool(np.mean([self._scores(both, times) @ (1, -1) > 0 for times in draws]) >= CLEARLY)

    def _scores(self, correct: NDArray[np.bool_], times: Array) -> Array:
        """The figure that is chosen by, of several heads, where rows count ``times`` (N,)."""
        select, split = self._selection.select, self._split
        weights = row_weights(split.labels, self._selection.groups, split.num_classes, times, only=Goal(select).usual)
        return selection_score(dict(zip(FIGURES, weights @ correct.T, strict=True)), select)
