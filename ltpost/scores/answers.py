"""The answers of rows against a parameter: on which interval of it a row is taken for which class.

Of two classes they follow from the intervals on which rows are right. Of more, a walk finds them: from the class that
has the highest score at the lower end, the exact end of its interval (``intervals``), the class there, and so on. That
takes as many steps as a row has answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ltpost.heads import Array, Head
from ltpost.heads.blocks import score_blocks
from ltpost.scores.goal import Goal, of_counts
from ltpost.scores.intervals import affine_interval, scaled_interval
from ltpost.scores.steps import Range

if TYPE_CHECKING:
    from ltpost.data.features import FeatureSet

_FAR = 1e3  # stands for infinity where there is no end of the range
_STEP = 1e-9  # rounding may end an interval where it begins; narrower plateaus than this are none

#: numbers of rows of a block, and a value for each, to their answers; and rows and answers to the ends of the intervals
AnswerAt = Callable[[NDArray[np.int64], Array], NDArray[np.int64]]
IntervalOf = Callable[[NDArray[np.int64], NDArray[np.int64]], tuple[Array, Array]]


@dataclass(frozen=True)
class Answers:
    """P intervals, closed: row ``row`` is taken for class ``answer`` from ``low`` to ``high``; (P,) each."""

    row: NDArray[np.int64]
    answer: NDArray[np.int64]
    low: Array
    high: Array

    @classmethod
    def of_two_classes(cls, low: Array, high: Array, labels: NDArray[np.int64]) -> Answers:
        """From the intervals on which rows are right, (N,) each; never where low > high."""
        rows, ever = np.arange(len(labels)), low <= high
        before = np.where(ever, np.nextafter(low, -np.inf), np.inf)
        after = np.where(ever, np.nextafter(high, np.inf), np.inf)
        start, end = np.full(len(labels), -np.inf), np.full(len(labels), np.inf)
        parts = [
            cls(rows, labels, low, high),
            cls(rows, 1 - labels, start, before),
            cls(rows, 1 - labels, after, end),
        ]
        kept = [ever, ~ever | np.isfinite(low), ever & np.isfinite(high)]
        return cls.joined(part.only(keep) for part, keep in zip(parts, kept, strict=True))

    def only(self, kept: NDArray[np.bool_]) -> Answers:
        """Some of the intervals."""
        return Answers(self.row[kept], self.answer[kept], self.low[kept], self.high[kept])

    def of_rows(self, rows: NDArray[np.int64]) -> Answers:
        """The same intervals, where row k is called ``rows[k]``."""
        return Answers(rows[self.row], self.answer, self.low, self.high)

    @classmethod
    def joined(cls, parts: Iterable[Answers]) -> Answers:
        """The intervals of several."""
        several = list(parts)
        return cls(*(np.concatenate([getattr(one, name) for one in several]) for name in cls.__dataclass_fields__))


def answers_between(
    feature_set: FeatureSet, head: Head, slope: Array, low: float, high: float, *, scaled: bool
) -> Answers:
    """Answers of s_c(t) = z_c - t · slope_c, or z_c · exp(-t · slope_c), for low ≤ t ≤ high.

    Args:
        feature_set: N rows.
        head: its logits are z.
        slope: (C,).
        low: least t; -1000 stands for less.
        high: greatest t; 1000 stands for more.
        scaled: which of the two.
    """
    parts, slope = [], np.asarray(slope, dtype=np.float64)
    for part, block in score_blocks(head, feature_set):
        z = block.astype(np.float64)

        def answer_at(rows: NDArray[np.int64], t: Array, z: Array = z) -> NDArray[np.int64]:
            shift = t[:, None] * slope
            scores = z[rows] * np.exp(-shift) if scaled else z[rows] - shift
            return np.asarray(scores.argmax(axis=1))

        def interval_of(rows: NDArray[np.int64], answers: NDArray[np.int64], z: Array = z) -> tuple[Array, Array]:
            ends = (scaled_interval if scaled else affine_interval)(z[rows][:, None], answers, slope)
            return ends[0][:, 0], ends[1][:, 0]

        parts.append(walk(len(z), answer_at, interval_of, low, high).of_rows(np.arange(part.start, part.stop)))
    return Answers.joined(parts)


def mixed_answers(one: FeatureSet, head: Head, other: FeatureSet, other_head: Head, low: float, high: float) -> Answers:
    """Answers of s(t) = (1 - t) z + t z'; arguments as of ``sweep.mixing_curve`` and :func:`answers_between`."""
    size, parts = min(one.block_rows(), other.block_rows()), []
    pairs = zip(score_blocks(head, one, size), score_blocks(other_head, other, size), strict=True)
    for (part, first), (_, second) in pairs:
        z, slope = first.astype(np.float64), first.astype(np.float64) - second

        def answer_at(rows: NDArray[np.int64], t: Array, z: Array = z, slope: Array = slope) -> NDArray[np.int64]:
            return np.asarray((z[rows] - t[:, None] * slope[rows]).argmax(axis=1))

        def interval_of(
            rows: NDArray[np.int64], answers: NDArray[np.int64], z: Array = z, slope: Array = slope
        ) -> tuple[Array, Array]:
            ends = affine_interval(z[rows][:, None], answers, slope[rows][:, None])
            return ends[0][:, 0], ends[1][:, 0]

        parts.append(walk(len(z), answer_at, interval_of, low, high).of_rows(np.arange(part.start, part.stop)))
    return Answers.joined(parts)


def walk(total: int, answer_at: AnswerAt, interval_of: IntervalOf, low: float, high: float) -> Answers:
    """The answers of ``total`` rows from ``low`` to ``high``; the intervals of a row leave no gap."""
    low, high = max(low, -_FAR), min(high, _FAR)
    rows, t, parts = np.arange(total), np.full(total, low), []
    while len(rows):
        answers = answer_at(rows, t)
        end = np.maximum(interval_of(rows, answers)[1], t + _STEP * np.maximum(1.0, np.abs(t)))
        parts.append(Answers(rows, answers, t, end))
        goes_on = end < high
        rows, t = rows[goes_on], np.nextafter(end[goes_on], np.inf)
    empty = np.empty(0, np.int64)
    return Answers.joined([Answers(empty, empty, np.empty(0), np.empty(0)), *parts])


class AnswerSteps:
    """The figures of answers before, between and after K ends of intervals, (K + 1,).

    Args:
        answers: P intervals.
        labels: (N,).
        num_classes: C.
        within: the ends, and the steps between them.
    """

    def __init__(self, answers: Answers, labels: NDArray[np.int64], num_classes: int, within: Range):
        self._labels, self._num_classes, self._within = labels, num_classes, within
        self._row, self._answer, own = answers.row, answers.answer, labels[answers.row]
        #: (P,), whether the answer is right
        self.right = answers.answer == own
        self._own = own
        # the counts of a class change at the ends of its own intervals alone; all classes stand side by side, in order
        of_end = answers.answer[within.row]
        self._place = np.argsort(of_end, kind="stable")
        self._of_class = of_end[self._place]
        self._item, self._sign = within.row[self._place], within.sign[self._place]
        self._first = np.flatnonzero(np.diff(self._of_class, prepend=-1))
        self._length = np.diff([*self._first, len(self._place)])

    def values(self, goal: Goal, times: Array | None = None) -> dict[str, Array]:
        """The figures that a goal needs, where each row counts ``times`` (N,), default once."""
        weight = np.ones(len(self._labels)) if times is None else np.asarray(times, dtype=np.float64)
        counted, within = weight[self._row], self._within
        values: dict[str, Array] = {}
        if "cost" in goal.of_answers:
            costs = counted * goal.cost_of(self._own, self._answer) / weight.sum()
            values["cost"] = np.cumsum([costs[within.before].sum(), *(within.sign * costs[within.row])])
        names = [name for name in goal.of_answers if name != "cost"]
        if not names:
            return values
        totals = np.bincount(self._labels, weight, self._num_classes)
        share = goal.share(totals)
        (first_hits, hits), (first_answers, answers) = map(self._counts, (counted * self.right, counted))
        for name in names:
            start = of_counts(name, first_hits, first_answers, totals)
            value = of_counts(name, hits, answers, totals[self._of_class])
            previous = np.concatenate([[0.0], value])[: len(value)]
            previous[self._first] = start[self._of_class[self._first]]
            change = np.empty(len(within.row) + 1)
            change[0] = share @ start
            change[self._place + 1] = share[self._of_class] * (value - previous)
            values[name] = np.round(np.cumsum(change), 12)
        return values

    def _counts(self, amount: Array) -> tuple[Array, Array]:
        """Sums of amounts (P,) by answer: before the first end, (C,); and just after each end, for its class."""
        before = self._within.before
        start = np.bincount(self._answer[before], amount[before], self._num_classes)
        change = self._sign * amount[self._item]
        running = np.cumsum(change)
        earlier = np.repeat(running[self._first] - change[self._first], self._length)
        return start, start[self._of_class] + running - earlier
