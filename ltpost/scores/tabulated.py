"""Accuracy against one parameter, at some values of it only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltpost.data.features import FeatureSet
from ltpost.data.priors import ShotGroups
from ltpost.errors import UsageError
from ltpost.heads import Array, Head
from ltpost.scores.bootstrap import resamples
from ltpost.scores.curve import Best, Curve
from ltpost.scores.goal import SAME, Goal, answer_figures
from ltpost.scores.metrics import FIGURES, Figures, row_weights
from ltpost.scores.predict import predict


class GridCurve(Curve):
    """Figures at some values only, from which rows are right at each of them.

    Args:
        parameter: its name.
        values: (K,); the order is the order of preference where figures are equal.
        correct: (K, N) bool.
        labels: (N,).
        groups: see :class:`Curve`.
        num_classes: C.
        sample: see :class:`Curve`.
        predicted: (K, N), the answers; needed for goals of answers with C > 2 alone.
    """

    is_tabulated = True

    def __init__(
        self,
        parameter: str,
        values: Iterable[float],
        correct: NDArray[np.bool_],
        labels: NDArray[np.int64],
        groups: ShotGroups | None,
        num_classes: int,
        sample: NDArray[np.int64] | None = None,
        predicted: NDArray[np.integer[Any]] | None = None,
    ):
        super().__init__(parameter, labels, groups, num_classes, sample)
        self.values, self._correct = np.asarray(list(values), dtype=np.float64), correct
        if predicted is None and num_classes == 2:
            predicted = np.where(correct, labels, 1 - labels)
        self._predicted = predicted

    @classmethod
    def of_heads(
        cls,
        parameter: str,
        values: Iterable[float],
        heads: Iterable[Head],
        feature_set: FeatureSet,
        groups: ShotGroups | None,
        device: str = "cpu",
    ) -> GridCurve:
        """The curve of one head per value, on the rows of a split; ``device`` is where to compute."""
        labels = feature_set.labels
        predicted = np.stack([predict(head, feature_set, device).astype(np.int32) for head in heads])
        shared = (labels, groups, feature_set.num_classes, feature_set.sample)
        return cls(parameter, values, predicted == labels, *shared, predicted)

    def correct(self, value: float) -> NDArray[np.bool_]:
        """(N,), which rows are right at ``value``."""
        return np.asarray(self._correct[self._index(value)])

    def predicted(self, value: float) -> NDArray[np.int64] | None:
        """(N,), the answer to each row at ``value``; None where it is not known."""
        return None if self._predicted is None else self._predicted[self._index(value)].astype(np.int64)

    def at(self, values: Iterable[float]) -> list[Figures]:
        """The figures at each of ``values``, which must be in the grid."""
        table = self._table(row_weights(self.labels, self.groups, self.num_classes))
        return [Figures(*map(float, table[:, self._index(value)])) for value in values]

    def best(
        self, select: str | Goal = "all", low: float = -np.inf, high: float = np.inf, multiplicity: Array | None = None
    ) -> Best:
        """See :meth:`Curve.best`; here ``low`` = ``high`` = the value, the first of equals in the grid's order."""
        inside = (low <= self.values) & (self.values <= high)
        if not inside.any():
            raise UsageError(f"no value of {self.parameter} lies from {low:g} to {high:g}")
        goal = Goal.of(select)
        only = None if multiplicity is None else goal.usual
        weights = row_weights(self.labels, self.groups, self.num_classes, multiplicity, only)
        return self._best(weights, goal, inside, multiplicity)

    def _best_of_resamples(self, select: str | Goal, low: float, high: float, num: int, seed: int) -> Iterator[Best]:
        goal = Goal.of(select)
        inside = (low <= self.values) & (self.values <= high)
        weights = row_weights(self.labels, self.groups, self.num_classes, only=goal.usual)
        for times in resamples(self.labels, self.num_classes, self.sample, num=num, seed=seed):
            yield self._best(weights * times, goal, inside, times)

    def _best(self, weights: Array, goal: Goal, inside: NDArray[np.bool_], times: Array | None) -> Best:
        """The best of the values ``inside``; a right row adds ``weights`` (5, N), every row counts ``times`` (N,)."""
        table = self._table(weights)
        values = {name: table[FIGURES.index(name)] for name in goal.usual}
        if goal.of_answers:
            if self._predicted is None:
                raise UsageError("this curve knows which rows are right, and not the answers to the others")
            each = [answer_figures(row, self.labels, self.num_classes, goal, times) for row in self._predicted]
            values |= {name: np.array([one[name] for one in each]) for name in goal.of_answers}
        floors = goal.floors(self.labels, self.groups, self.num_classes, times)
        score, missed = goal.ranked(values, inside, floors)
        index = int(np.argmax(score >= score.max() - SAME))
        value = float(self.values[index])
        figures = Figures(*map(float, table[:, index]))
        return Best(value, value, value, float(score[index]), figures, missed=missed)

    def grid(self) -> Array:
        """The values of the table."""
        return self.values

    def _index(self, value: float) -> int:
        index = int(np.argmin(np.abs(self.values - value)))
        if not np.isclose(self.values[index], value):
            raise UsageError(
                f"{self.parameter} {value:g} is not in the grid {', '.join(f'{v:g}' for v in self.values)}"
            )
        return index

    def _table(self, weights: Array) -> Array:
        """(5, K) figures at every value."""
        return np.asarray(weights @ self._correct.T.astype(np.float64))
