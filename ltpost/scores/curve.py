"""Accuracy against one parameter: exact, as a step function, or at some values only.

Every row is right on one interval of the parameter (``intervals``). Sorting the 2N ends gives the accuracy of every
class group as an exact step function: no grid, the exact best plateau, and bootstrap resamples of the whole curve at
the cost of a cumulative sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltpost import plots
from ltpost.data.features import FeatureSet
from ltpost.data.priors import ShotGroups
from ltpost.errors import UsageError
from ltpost.heads import Array, Head
from ltpost.scores.bootstrap import resamples
from ltpost.scores.metrics import FIGURES, Figures, row_weights, selection_score
from ltpost.scores.predict import predict

_NARROW = 1e-6  # a plateau this narrow is an artefact of float32 scores, whose rounding moves its ends as far
_SAME = 1e-9  # accuracies that differ by less are the same number of rows


@dataclass(frozen=True)
class Best:
    """The best value of a parameter: the middle of the best plateau ``low`` ≤ t ≤ ``high``.

    ``figures`` are those of the curve there, ``score`` is the selected one of them. ``interval`` is the 95 % bootstrap
    interval of the value, where one was asked for. ``others`` are the values of the other parameters, where several
    were chosen together.
    """

    value: float
    low: float
    high: float
    score: float
    figures: Figures
    interval: tuple[float, float] | None = None
    others: Mapping[str, float] = field(default_factory=dict)

    @property
    def tau(self) -> float:
        """The value, by the name that it usually has."""
        return self.value


class Curve:
    """Accuracy against one parameter, for all rows of a split; the base of the exact and of the tabulated curve.

    Args:
        parameter: its name ("tau", "strength").
        labels: (N,).
        groups: many/medium/few-shot classes, or None.
        num_classes: C.
        sample: (N,), which sample a row shows where several rows are views of one; they are resampled together.
    """

    def __init__(
        self,
        parameter: str,
        labels: NDArray[np.int64],
        groups: ShotGroups | None,
        num_classes: int,
        sample: NDArray[np.int64] | None = None,
    ):
        self.parameter, self.labels, self.groups, self.num_classes = parameter, labels, groups, num_classes
        self.sample = sample

    #: whether figures are known at some values only
    is_tabulated = False

    def at(self, values: Iterable[float]) -> list[Figures]:
        """The figures at each of ``values``."""
        raise NotImplementedError

    def correct(self, value: float) -> NDArray[np.bool_]:
        """(N,), which rows are right at ``value``."""
        raise NotImplementedError

    def best(
        self, select: str = "all", low: float = -np.inf, high: float = np.inf, multiplicity: Array | None = None
    ) -> Best:
        """The best plateau within ``low`` ≤ t ≤ ``high`` (the widest, where several are equally good).

        Args:
            select: the figure to maximise, one of ``metrics.SELECT``.
            low: lower end of the range.
            high: upper end of the range.
            multiplicity: (N,), how often each row counts; default once. Other figures than the one selected by are
                then NaN.
        """
        raise NotImplementedError

    def along(self, best: Best) -> Curve:
        """The curve of one parameter that ``best`` lies on: this one, unless several were chosen together."""
        return self

    def correct_at(self, best: Best) -> NDArray[np.bool_]:
        """(N,), which rows are right at a value that :meth:`best` found."""
        return self.along(best).correct(best.value)

    def bootstrap_best(
        self, select: str = "all", low: float = -np.inf, high: float = np.inf, *, num: int = 200, seed: int = 0
    ) -> tuple[float, float]:
        """95 % percentile interval of the best value, samples resampled within each class (``scores.bootstrap``).

        Resamples choose from a range that is wider by half on both sides, and the interval is then cut to the range:
        where the best value lies at an end of the range or beyond, the interval reaches that end. It always holds the
        value that is best without resampling.
        """
        margin = (high - low) / 2
        values = [best.value for best in self._best_of_resamples(select, low - margin, high + margin, num, seed)]
        least, greatest = np.quantile(values, 0.025, method="lower"), np.quantile(values, 0.975, method="higher")
        chosen = self.best(select, low, high).value
        return float(min(np.clip(least, low, high), chosen)), float(max(np.clip(greatest, low, high), chosen))

    def _best_of_resamples(self, select: str, low: float, high: float, num: int, seed: int) -> Iterator[Best]:
        """The best value of each resample."""
        raise NotImplementedError

    def grid(self) -> Array:
        """Values at which a table or a plot of the curve makes sense."""
        raise NotImplementedError

    def to_frame(self, values: Iterable[float] | None = None) -> Any:
        """A pandas DataFrame of the figures, one row per value (default: :meth:`grid`)."""
        import pandas as pd

        points = np.asarray(self.grid() if values is None else list(values), dtype=np.float64)
        rows = [vars(row) for row in self.at(points)]
        return pd.DataFrame(rows, columns=list(FIGURES), index=pd.Index(points, name=self.parameter))

    def plot(self, ax: Any = None) -> Any:
        """Draw the curve of every figure; returns the matplotlib axes."""
        marked = np.sort(self.grid())
        values = marked if self.is_tabulated else np.linspace(marked[0], marked[-1], 801)
        rows = self.at(values)
        best = self.best("all", float(marked[0]), float(marked[-1]))
        return plots.plot_curve(
            self.parameter,
            values,
            {name: np.array([getattr(row, name) for row in rows]) for name in FIGURES},
            best=best.value,
            plateau=(best.low, best.high),
            score=best.score,
            marked=self.is_tabulated,
            ax=ax,
        )

    def _repr_html_(self) -> str:
        return str(self.to_frame().to_html(float_format=lambda value: f"{100 * value:.2f}", na_rep="–"))


class ExactCurve(Curve):
    """The step function of every figure, from the interval on which each row is right (empty where low > high).

    Args:
        parameter: its name.
        low: (N,), the first value at which a row is right.
        high: (N,), the last value at which it is right.
        labels: (N,).
        groups: see :class:`Curve`.
        num_classes: C.
        sample: see :class:`Curve`.
    """

    def __init__(
        self,
        parameter: str,
        low: Array,
        high: Array,
        labels: NDArray[np.int64],
        groups: ShotGroups | None,
        num_classes: int,
        sample: NDArray[np.int64] | None = None,
    ):
        super().__init__(parameter, labels, groups, num_classes, sample)
        self.low, self.high = low, high
        ever = np.flatnonzero(low <= high)
        # a row enters at its low end and leaves just after its high end
        ends = np.concatenate([low[ever], np.nextafter(high[ever], np.inf)])
        order = np.argsort(ends)  # between equal ends lies no width, so their order makes no difference
        self.ends = ends[order]
        self._row = np.concatenate([ever, ever])[order]
        self._sign = np.where(order < len(ever), 1.0, -1.0)
        self._weights = row_weights(labels, groups, num_classes)
        self._last_range: tuple[tuple[float, float], _Range] | None = None

    def correct(self, value: float) -> NDArray[np.bool_]:
        """(N,), which rows are right at ``value``."""
        return (self.low <= value) & (value <= self.high)

    def at(self, values: Iterable[float]) -> list[Figures]:
        """The figures at each of ``values``."""
        whole = self._range(-np.inf, np.inf)
        steps = _steps(whole, self._weights)
        where = np.searchsorted(whole.starts[1:], np.asarray(list(values), dtype=np.float64), side="right")
        return [Figures(*(float(value) for value in steps[:, k])) for k in where]

    def best(
        self, select: str = "all", low: float = -np.inf, high: float = np.inf, multiplicity: Array | None = None
    ) -> Best:
        """See :meth:`Curve.best`."""
        weights = self._weights
        if multiplicity is not None:
            weights = row_weights(self.labels, self.groups, self.num_classes, multiplicity, only=select)
        return self._best(self._range(low, high), weights, select)

    def _best_of_resamples(self, select: str, low: float, high: float, num: int, seed: int) -> Iterator[Best]:
        within = self._range(low, high)
        weights = row_weights(self.labels, self.groups, self.num_classes, only=select)
        for times in resamples(self.labels, self.num_classes, self.sample, num=num, seed=seed):
            yield self._best(within, weights, select, times)

    @staticmethod
    def _best(within: _Range, weights: Array, select: str, times: Array | None = None) -> Best:
        """The best plateau of a range; for ``weights`` and ``times`` see :func:`_steps`."""
        steps = _steps(within, weights, times)
        score = selection_score(steps, select)
        eligible = np.where(within.wide | ~within.wide.any(), score, -np.inf)
        top = eligible.max()
        # neighbouring steps of equal height are one plateau; steps of no width between them do not part it
        good = np.flatnonzero(eligible >= top - _SAME)
        starts, stops = within.starts[good], within.stops[good]
        parted = np.flatnonzero((starts[1:] - stops[:-1]) > _NARROW) + 1
        firsts, lasts = np.append(0, parted), np.append(parted, len(good)) - 1
        widest = int(np.argmax(stops[lasts] - starts[firsts]))
        begin, end = float(starts[firsts[widest]]), float(stops[lasts[widest]])
        return Best(_middle(begin, end), begin, end, float(top), Figures(*map(float, steps[:, good[0]])))

    def grid(self) -> Array:
        """0, 0.1, …, 2, where the field looks; the curve itself goes on."""
        return np.linspace(0.0, 2.0, 21).round(10)

    def _range(self, low: float, high: float) -> _Range:
        """The steps within a range; the last range is kept."""
        if self._last_range is None or self._last_range[0] != (low, high):
            first, last = np.searchsorted(self.ends, [low, min(high, np.finfo(float).max)], side="right")
            starts = np.concatenate([[low], self.ends[first:last]])
            stops = np.concatenate([self.ends[first:last], [high]])
            wide = stops - starts > _NARROW * np.maximum(1.0, np.abs(np.where(np.isfinite(starts), starts, 0.0)))
            before = np.flatnonzero(np.bincount(self._row[:first], self._sign[:first], minlength=len(self.labels)))
            self._last_range = (
                (low, high),
                _Range(before, self._row[first:last], self._sign[first:last], starts, stops, wide),
            )
        return self._last_range[1]


@dataclass(frozen=True)
class _Range:
    """The K ends of a curve within a range, and the K + 1 steps between them.

    ``before`` are the rows that are right before the first end. At an end, row ``row`` becomes right (``sign`` 1) or
    stops being right (``sign`` -1). Steps go from ``starts`` to ``stops``; some have no width.
    """

    before: NDArray[np.int64]
    row: NDArray[np.int64]
    sign: Array
    starts: Array
    stops: Array
    wide: NDArray[np.bool_]


def _steps(within: _Range, weights: Array, times: Array | None = None) -> Array:
    """Figures before, between and after the ends of a range, (5, K + 1).

    A right row adds ``weights`` (5, N) to them, as often as ``times`` (N,) says, default once.
    """
    steps = np.full((len(weights), len(within.row) + 1), np.nan)
    for step, weight in zip(steps, weights, strict=True):
        if not (len(weight) and np.isnan(weight[0])):
            counted = weight if times is None else weight * times
            step[0] = counted[within.before].sum()
            np.multiply(counted[within.row], within.sign, out=step[1:])
            np.cumsum(step, out=step)
            np.round(step, 12, out=step)  # a sum of 2N terms has no more correct digits
    return steps


def _middle(low: float, high: float) -> float:
    if np.isfinite(low) and np.isfinite(high):
        return (low + high) / 2
    if np.isfinite(low):
        return low + abs(low) * 0.01 + 0.01  # a plateau without an upper end: a little inside it
    return high - abs(high) * 0.01 - 0.01 if np.isfinite(high) else 0.0


class GridCurve(Curve):
    """Figures at some values only, from which rows are right at each of them.

    Args:
        parameter: its name.
        values: (K,); the order is the order of preference where figures are equal.
        correct: (K, N) bool.
        labels: (N,).
        groups: see :class:`Curve`.
        num_classes: C.
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
    ):
        super().__init__(parameter, labels, groups, num_classes, sample)
        self.values, self._correct = np.asarray(list(values), dtype=np.float64), correct

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
        correct = np.stack([predict(head, feature_set, device) == labels for head in heads])
        return cls(parameter, values, correct, labels, groups, feature_set.num_classes, feature_set.sample)

    def correct(self, value: float) -> NDArray[np.bool_]:
        """(N,), which rows are right at ``value``."""
        return np.asarray(self._correct[self._index(value)])

    def at(self, values: Iterable[float]) -> list[Figures]:
        """The figures at each of ``values``, which must be in the grid."""
        table = self._table(row_weights(self.labels, self.groups, self.num_classes))
        return [Figures(*map(float, table[:, self._index(value)])) for value in values]

    def best(
        self, select: str = "all", low: float = -np.inf, high: float = np.inf, multiplicity: Array | None = None
    ) -> Best:
        """See :meth:`Curve.best`; here ``low`` = ``high`` = the value, the first of equals in the grid's order."""
        inside = (low <= self.values) & (self.values <= high)
        if not inside.any():
            raise UsageError(f"no value of {self.parameter} lies from {low:g} to {high:g}")
        only = None if multiplicity is None else select
        weights = row_weights(self.labels, self.groups, self.num_classes, multiplicity, only)
        return self._best(weights, select, inside)

    def _best_of_resamples(self, select: str, low: float, high: float, num: int, seed: int) -> Iterator[Best]:
        inside = (low <= self.values) & (self.values <= high)
        weights = row_weights(self.labels, self.groups, self.num_classes, only=select)
        for times in resamples(self.labels, self.num_classes, self.sample, num=num, seed=seed):
            yield self._best(weights * times, select, inside)

    def _best(self, weights: Array, select: str, inside: NDArray[np.bool_]) -> Best:
        """The best of the values ``inside``, where a right row adds ``weights`` (5, N) to the figures."""
        table = self._table(weights)
        score = np.where(inside, selection_score(table, select), -np.inf)
        index = int(np.argmax(score >= score.max() - _SAME))
        value = float(self.values[index])
        return Best(value, value, value, float(score[index]), Figures(*map(float, table[:, index])))

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
