"""Accuracy against two or more parameters: one curve for each value of the outer one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ltpost.heads import Array
from ltpost.scores.curve import Best, Curve
from ltpost.scores.goal import SAME, Goal
from ltpost.scores.metrics import Figures


class CrossedCurve(Curve):
    """The best of several curves of one inner parameter; figures and resamples are those of the curves themselves.

    Args:
        outer: the name of the outer parameter.
        curves: value of the outer parameter to the curve of the inner one, on the same rows. The order is the order of
            preference where figures are equal. A curve may be crossed itself.
    """

    def __init__(self, outer: str, curves: Mapping[float, Curve]):
        first = next(iter(curves.values()))
        super().__init__(first.parameter, first.labels, first.groups, first.num_classes, first.sample)
        self.outer, self.curves = outer, dict(curves)
        self.is_tabulated = first.is_tabulated

    def best(
        self, select: str | Goal = "all", low: float = -np.inf, high: float = np.inf, multiplicity: Array | None = None
    ) -> Best:
        """See :meth:`Curve.best`; ``low`` and ``high`` bound the inner parameter."""
        return self._top([curve.best(select, low, high, multiplicity) for curve in self.curves.values()])

    def _best_of_resamples(self, select: str | Goal, low: float, high: float, num: int, seed: int) -> Iterator[Best]:
        curves = self.curves.values()  # all of them draw the same resamples from the seed
        each = (curve._best_of_resamples(select, low, high, num, seed) for curve in curves)
        return map(self._top, zip(*each, strict=True))

    def _top(self, bests: Sequence[Best]) -> Best:
        """The best of the best of each curve, with the value of the outer parameter."""
        least = min(best.missed for best in bests)
        eligible = [pair for pair in zip(self.curves, bests, strict=True) if pair[1].missed <= least + SAME]
        top = max(best.score for _, best in eligible)
        value, best = next(pair for pair in eligible if pair[1].score >= top - SAME)
        return replace(best, others={self.outer: value, **best.others})

    def along(self, best: Best) -> Curve:
        """The curve of the inner parameter on which ``best`` lies."""
        return self.curves[best.others[self.outer]].along(best)

    def at(self, values: Iterable[float]) -> list[Figures]:
        """The figures at values of the inner parameter, the outer one being where the mean over classes is best."""
        return self.along(self.best()).at(values)

    def correct(self, value: float) -> NDArray[np.bool_]:
        """(N,), which rows are right at a value of the inner parameter, the outer one as in :meth:`at`."""
        return self.along(self.best()).correct(value)

    def predicted(self, value: float) -> NDArray[np.int64] | None:
        """(N,), the answer to each row at a value of the inner parameter, the outer one as in :meth:`at`."""
        return self.along(self.best()).predicted(value)

    def grid(self) -> Array:
        """Values of the inner parameter."""
        return next(iter(self.curves.values())).grid()
