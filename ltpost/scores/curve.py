"""Accuracy against one parameter: exact, as a step function, or at some values only.

Every row is right on one interval of the parameter (``intervals``). Sorting the 2N ends gives the accuracy of every
class group as an exact step function: no grid, exactly the values that are near-best, and bootstrap resamples of the
whole curve at the cost of a cumulative sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltpost import plots
from ltpost.data.priors import GROUPS, ShotGroups
from ltpost.errors import UsageError
from ltpost.heads import Array
from ltpost.scores.answers import Answers, AnswerSteps
from ltpost.scores.bootstrap import resamples
from ltpost.scores.confidence import units
from ltpost.scores.goal import OF_ANSWERS, Goal
from ltpost.scores.metrics import FIGURES, Figures, row_weights
from ltpost.scores.steps import Ends, Range, figure_steps, middle, near_best
from ltpost.tables import HEADINGS

NEAR = 0.5  # standard errors by which near-best values may be below the best
#: the ends of a range to the answers of all rows in it
AnswersBetween = Callable[[float, float], Answers]


@dataclass(frozen=True)
class Best:
    """The best value of a parameter, in the middle of the near-best ones, ``low`` ≤ t ≤ ``high``.

    ``figures`` are those of the curve there, ``score`` is the selected one of them (less than 0 for a cost).
    ``interval`` is the 95 % bootstrap interval of the value, where one was asked for. ``others`` are the values of the
    other parameters, where several were chosen together. ``missed`` is by how much limits are missed, summed.
    """

    value: float
    low: float
    high: float
    score: float
    figures: Figures
    interval: tuple[float, float] | None = None
    others: Mapping[str, float] = field(default_factory=dict)
    missed: float = 0.0

    def __repr__(self) -> str:
        return f"Best({self.value:.6g}, near-best from {self.low:.4g} to {self.high:.4g}: {self.score:.4f})"

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
        self, select: str | Goal = "all", low: float = -np.inf, high: float = np.inf, multiplicity: Array | None = None
    ) -> Best:
        """The middle of all near-best values within ``low`` ≤ t ≤ ``high``.

        Near-best are values whose figure is below the highest one by at most half a standard error of it: the rows
        cannot tell them apart, and the highest of them is mostly where noise is highest. Measured on CIFAR-100-LT over
        random splits with 5, 20 and 60 val rows per class, the middle gains .0 to .2 points of test accuracy over the
        middle of the highest plateau, for ``tnorm``, ``la``, ``mla``, ``mix`` and ``layers`` alike, and loses none. A
        whole standard error loses where a curve falls faster on one side (``mix``). Tabulated curves have few values,
        figures of answers no such error, and limits are kept exactly: there the best plateau is taken.

        Args:
            select: the figure to maximise, one of ``goal.GOALS``, or a goal.
            low: lower end of the range.
            high: upper end of the range.
            multiplicity: (N,), how often each row counts; default once. Other figures than the one selected by are
                then NaN.
        """
        raise NotImplementedError

    def predicted(self, value: float) -> NDArray[np.int64] | None:
        """(N,), the answer to each row at ``value``; None where it is not known."""
        return None

    def predicted_at(self, best: Best) -> NDArray[np.int64] | None:
        """(N,), the answer to each row at a value that :meth:`best` found; None where it is not known."""
        return self.along(best).predicted(best.value)

    def along(self, best: Best) -> Curve:
        """The curve of one parameter that ``best`` lies on: this one, unless several were chosen together."""
        return self

    def correct_at(self, best: Best) -> NDArray[np.bool_]:
        """(N,), which rows are right at a value that :meth:`best` found."""
        return self.along(best).correct(best.value)

    def bootstrap_best(
        self, select: str | Goal = "all", low: float = -np.inf, high: float = np.inf, *, num: int = 200, seed: int = 0
    ) -> tuple[float, float]:
        """95 % percentile interval of the best value, samples resampled within each class (``scores.bootstrap``).

        Resamples choose from a range that is wider by half on both sides, and the interval is then cut to the range:
        where the best value lies at an end of the range or beyond, the interval reaches that end. It always holds the
        value that is best without resampling.
        """
        margin = (high - low) / 2 if np.isfinite(low) and np.isfinite(high) else 0.0
        values = [best.value for best in self._best_of_resamples(select, low - margin, high + margin, num, seed)]
        least, greatest = np.quantile(values, 0.025, method="lower"), np.quantile(values, 0.975, method="higher")
        chosen = self.best(select, low, high).value
        return float(min(np.clip(least, low, high), chosen)), float(max(np.clip(greatest, low, high), chosen))

    def _best_of_resamples(self, select: str | Goal, low: float, high: float, num: int, seed: int) -> Iterator[Best]:
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

    def plot(
        self,
        ax: Any = None,
        *,
        method: str = "",
        split: str = "",
        select: str = "all",
        best: Best | None = None,
        grid: Iterable[float] | None = None,
        width: float | None = None,
    ) -> Any:
        """Draw the curve of every figure; returns the matplotlib axes.

        Args:
            ax: matplotlib axes; default a new figure.
            method: whose curve it is, for the axis.
            split: where it was measured, for the axis.
            select: the figure whose best value is marked.
            best: that value, where it is known already.
            grid: values from the least to the greatest of which it is drawn; default :meth:`grid`.
            width: of a new figure in inches, to be saved.
        """
        marked = np.sort(self.grid() if grid is None else np.asarray(list(grid), dtype=np.float64))
        if self.is_tabulated:
            marked = np.sort([value for value in self.grid() if marked[0] <= value <= marked[-1]])
        values = marked if self.is_tabulated else np.linspace(marked[0], marked[-1], 801)
        rows = self.at(values)
        best = best or self.best(select, float(marked[0]), float(marked[-1]))
        headings = HEADINGS if self.groups is None else {**self.groups.headings, "all": HEADINGS["all"]}
        chosen = headings.get(select, HEADINGS.get(select, select))
        return plots.plot_curve(
            self.parameter,
            values,
            {name: np.array([getattr(row, name) for row in rows]) for name in FIGURES},
            best=best.value,
            plateau=(best.low, best.high),
            reached=f"cost {-best.score:.3g}" if select == "cost" else f"{chosen} {100 * best.score:.1f} %",
            marked=self.is_tabulated,
            headings=headings,
            method=method,
            split=split,
            ax=ax,
            width=width,
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.parameter}: {len(self.labels):,} rows of {self.num_classes:,} classes)"

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
        answers: gives the answers of all rows between two values; needed for goals of answers with C > 2 alone.
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
        answers: AnswersBetween | None = None,
    ):
        super().__init__(parameter, labels, groups, num_classes, sample)
        self.low, self.high = low, high
        self._of_right = Ends(low, high)
        self._weights = row_weights(labels, groups, num_classes)
        self._answers_between = answers
        self._last_answers: tuple[tuple[float, float], tuple[Answers, Range, AnswerSteps]] | None = None

    @property
    def ends(self) -> Array:
        """The values at which a row becomes right or stops being right, ascending."""
        return self._of_right.values

    def __getstate__(self) -> dict[str, object]:
        """What is pickled: which rows are right, and not the rows, which the answers to the others would need."""
        return {**self.__dict__, "_answers_between": None, "_last_answers": None}

    def answers(self, low: float, high: float) -> Answers:
        """The answers of all rows for low ≤ t ≤ high; kept for the next call.

        Raises:
            UsageError: they are not known.
        """
        return self._answered(low, high)[0]

    def _answered(self, low: float, high: float) -> tuple[Answers, Range, AnswerSteps]:
        """The answers in a range, its steps, and what figures of answers come from."""
        if self._last_answers is None or self._last_answers[0] != (low, high):
            if self.num_classes == 2:
                answers = Answers.of_two_classes(self.low, self.high, self.labels)
            elif self._answers_between is not None:
                answers = self._answers_between(low, high)
            else:
                raise UsageError("this curve knows which rows are right, and not the answers to the others")
            within = Ends(answers.low, answers.high).within(low, high)
            steps = AnswerSteps(answers, self.labels, self.num_classes, within)
            self._last_answers = (low, high), (answers, within, steps)
        return self._last_answers[1]

    def correct(self, value: float) -> NDArray[np.bool_]:
        """(N,), which rows are right at ``value``."""
        return (self.low <= value) & (value <= self.high)

    def predicted(self, value: float) -> NDArray[np.int64] | None:
        """(N,), the answer to each row at ``value``."""
        if self.num_classes == 2:
            return np.where(self.correct(value), self.labels, 1 - self.labels)
        if self._answers_between is None:
            return None
        low, high = (np.nan, np.nan) if self._last_answers is None else self._last_answers[0]
        found = self.answers(low, high) if low <= value <= high else self._answers_between(value, value)
        here = found.only((found.low <= value) & (value <= found.high))
        predicted = np.zeros(len(self.labels), dtype=np.int64)
        predicted[here.row] = here.answer
        return predicted

    def at(self, values: Iterable[float]) -> list[Figures]:
        """The figures at each of ``values``."""
        whole = self._of_right.within(-np.inf, np.inf)
        steps = figure_steps(whole, self._weights)
        where = np.searchsorted(whole.starts[1:], np.asarray(list(values), dtype=np.float64), side="right")
        return [Figures(*(float(value) for value in steps[:, k])) for k in where]

    def best(
        self, select: str | Goal = "all", low: float = -np.inf, high: float = np.inf, multiplicity: Array | None = None
    ) -> Best:
        """See :meth:`Curve.best`."""
        goal = Goal.of(select)
        weights = self._weights
        if multiplicity is not None:
            weights = row_weights(self.labels, self.groups, self.num_classes, multiplicity, goal.usual)
        return self._best(goal, low, high, weights, counted=multiplicity)

    def _best_of_resamples(self, select: str | Goal, low: float, high: float, num: int, seed: int) -> Iterator[Best]:
        goal = Goal.of(select)
        weights = row_weights(self.labels, self.groups, self.num_classes, only=goal.usual)
        for times in resamples(self.labels, self.num_classes, self.sample, num=num, seed=seed):
            yield self._best(goal, low, high, weights, times, times)

    def _best(
        self,
        goal: Goal,
        low: float,
        high: float,
        weights: Array,
        times: Array | None = None,
        counted: Array | None = None,
    ) -> Best:
        """The middle of the near-best values of a range.

        Args:
            goal: what to maximise and to keep.
            low: lower end.
            high: upper end.
            weights: (5, N), what a right row adds to the figures.
            times: (N,), how often the weights count; default once.
            counted: (N,), how often each row counts, which weights or times say already; default once.
        """
        if goal.of_answers:
            answers, within, of_answers = self._answered(low, high)
            known = [row if np.isnan(row[:1]).any() else row[answers.row] * of_answers.right for row in weights]
            steps = figure_steps(within, known, None if times is None else times[answers.row])
            more = of_answers.values(goal, counted)
        else:
            within, more = self._of_right.within(low, high), {}
            steps = figure_steps(within, weights, times)
        values = {**{name: steps[FIGURES.index(name)] for name in goal.usual}, **more}
        floors = goal.floors(self.labels, self.groups, self.num_classes, counted)
        score, missed = goal.ranked(values, within.allowed, floors)
        margin = NEAR * self._standard_error(goal, float(score.max()), weights, times, counted)
        value, begin, end, step = near_best(within, score, margin)
        figures = Figures(*map(float, steps[:, step]))
        return Best(value, begin, end, float(score[step]), figures, missed=missed)

    def _standard_error(
        self, goal: Goal, score: float, weights: Array, times: Array | None, counted: Array | None
    ) -> float:
        """About that of the figure at its best, over independent samples; 0 for figures of answers, and with limits."""
        if goal.select in OF_ANSWERS or goal.keep:
            return 0.0
        names = GROUPS if goal.select == "harmonic" else (goal.select,)
        known = [row for name in names if not np.isnan((row := weights[FIGURES.index(name)])[:1]).any()]
        weight = known[0] if len(known) == 1 else np.mean(known, axis=0)
        if self.sample is None and times is not None and times is counted:
            # (w t)² / t = w² t; einsum, as BLAS would start a second thread 200 times, and wait for it
            return float(np.sqrt(max(0.0, score * (1 - score)) * np.einsum("i,i,i->", weight, weight, times)))
        shares = weight * (1.0 if times is None else times)
        often = np.ones(len(self.labels)) if counted is None else np.asarray(counted, dtype=np.float64)
        if self.sample is not None:
            unit = units(self.labels, self.sample)[0]
            shares, often = np.bincount(unit, shares), np.bincount(unit, often) / np.bincount(unit)
        variance = np.divide(np.square(shares), often, out=np.zeros_like(often), where=often > 0).sum()
        return float(np.sqrt(max(0.0, score * (1 - score)) * variance))

    def plateaus(self, low: float, high: float) -> tuple[Array, Array]:
        """The middle of every plateau of a range, (K,) ascending, and the figures there, (5, K)."""
        within = self._of_right.within(low, high)
        kept = np.flatnonzero(within.allowed)
        ends = zip(within.starts[kept], within.stops[kept], strict=True)
        values = np.array([middle(float(start), float(stop)) for start, stop in ends])
        return values, figure_steps(within, self._weights)[:, kept]

    def grid(self) -> Array:
        """0, 0.1, …, 2, where the field looks; the curve itself goes on."""
        return np.linspace(0.0, 2.0, 21).round(10)
