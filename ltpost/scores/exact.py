"""The exact curve: every figure as a step function of the parameter.

Every row is right on one interval of the parameter (``intervals``). Sorting the 2N ends gives the accuracy of every
class group as an exact step function: no grid, exactly the values that are near-best, and bootstrap resamples of the
whole curve at the cost of a cumulative sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from ltpost.data.priors import GROUPS, ShotGroups
from ltpost.errors import UsageError
from ltpost.heads import Array
from ltpost.scores.answers import Answers, AnswerSteps
from ltpost.scores.bootstrap import resamples
from ltpost.scores.confidence import units
from ltpost.scores.curve import Best, Curve
from ltpost.scores.goal import OF_ANSWERS, Goal
from ltpost.scores.metrics import FIGURES, Figures, row_weights
from ltpost.scores.steps import Ends, Range, figure_steps, middle, near_best

NEAR = 0.5  # standard errors by which near-best values may be below the best
#: the ends of a range to the answers of all rows in it
AnswersBetween = Callable[[float, float], Answers]


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
