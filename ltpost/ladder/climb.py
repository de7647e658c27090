"""What is kept: decided from which val rows each candidate has right, when each row is judged by its fold's head.

The decision is itself a choice on val. Its honest figure comes from taking it anew for every fold, on the other folds:
the rows of the fold are then judged by what would have been kept without them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from ltpost.data.priors import ShotGroups
from ltpost.scores.metrics import FIGURES, row_weights
from ltpost.scores.paired import Difference, paired_difference

LEVEL = 0.9  # of the intervals of gains: their lower end is a one-sided test at 5 %
Rows = NDArray[np.int64]
Correct = NDArray[np.bool_]


@dataclass(frozen=True)
class Judge:
    """Compares candidates on rows of val.

    Attributes:
        labels: (N,).
        num_classes: C.
        groups: many/medium/few-shot classes, or None.
        sample: (N,), which sample a row shows, or None.
        select: the figure, one of ``metrics.FIGURES``.
    """

    labels: NDArray[np.int64]
    num_classes: int
    groups: ShotGroups | None
    sample: NDArray[np.int64] | None
    select: str = "all"

    def score(self, correct: Correct, rows: Rows | None = None) -> float:
        """The figure on some rows, default all."""
        rows = np.arange(len(self.labels)) if rows is None else rows
        weights = row_weights(self.labels[rows], self.groups, self.num_classes, only=self.select)
        return float(weights[FIGURES.index(self.select)] @ correct[rows])

    def gain(self, before: Correct, after: Correct, rows: Rows | None = None) -> Difference:
        """How much better ``after`` is than ``before`` on some rows, with its 90 % interval."""
        rows = np.arange(len(self.labels)) if rows is None else rows
        sample = None if self.sample is None else self.sample[rows]
        return paired_difference(
            before[rows],
            after[rows],
            self.labels[rows],
            self.groups,
            num_classes=self.num_classes,
            sample=sample,
            level=LEVEL,
            only=self.select,
            test=False,
        )[self.select]

    def best(self, candidates: Sequence[Correct], rows: Rows | None = None) -> int:
        """The number of the best of some candidates, the first of equals."""
        scores = [self.score(correct, rows) for correct in candidates]
        return int(np.argmax(np.array(scores) >= max(scores) - 1e-9))

    def near_best(self, candidates: Sequence[Correct], rows: Rows | None = None) -> list[int]:
        """The best, and those that are worse by less than one standard error of the paired difference to it."""
        top = self.best(candidates, rows)
        near = []
        for number, correct in enumerate(candidates):
            lead = self.gain(correct, candidates[top], rows)
            if number == top or lead.value < standard_error(lead):
                near.append(number)
        return near


def standard_error(difference: Difference) -> float:
    """Of a paired difference, from its 90 % interval."""
    low, high = difference.interval
    return (high - low) / (2 * NormalDist().inv_cdf((1 + LEVEL) / 2))


def beyond_noise(gain: Difference) -> bool:
    """Whether the whole 90 % interval of a gain lies above 0, which is a one-sided test at 5 %."""
    return gain.interval[0] > 0


def climb(
    judge: Judge, foot: Correct | None, rungs: Sequence[Sequence[Correct]], rows: Rows | None = None
) -> list[bool]:
    """Whether each rung is kept: its best candidate is better than what was kept before by more than noise.

    Args:
        judge: compares them.
        foot: the joint classifier; without one the first rung is kept.
        rungs: of each, its candidates; rungs without candidates are not kept.
        rows: the rows that may be looked at, default all.
    """
    kept, current = [], foot
    for candidates in rungs:
        best = candidates[judge.best(candidates, rows)] if candidates else None
        better = best is not None and (current is None or beyond_noise(judge.gain(current, best, rows)))
        current = best if better else current
        kept.append(better)
    return kept


def honest(folds: Sequence[Rows], decided: Callable[[Rows], Correct], num_rows: int) -> Correct:
    """Which rows are right, (N,), each by what is decided on the rows of the other folds.

    Args:
        folds: the rows of each fold.
        decided: from rows that may be looked at, to which rows (N,) the choice then has right.
        num_rows: N.
    """
    correct = np.zeros(num_rows, dtype=bool)
    for inside in folds:
        correct[inside] = decided(np.setdiff1d(np.arange(num_rows), inside))[inside]
    return correct
