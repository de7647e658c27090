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


def answer_steps(
    answers: Answers,
    labels: NDArray[np.int64],
    num_classes: int,
    goal: Goal,
    before: NDArray[np.int64],
    item: NDArray[np.int64],
    sign: Array,
    times: Array | None = None,
) -> dict[str, Array]:
    """The figures of answers that a goal needs, before, between and after K ends of intervals, (K + 1,) each.

    Args:
        answers: P intervals.
        labels: (N,).
        num_classes: C.
        goal: what is needed.
        before: the intervals that hold before the first end.
        item: (K,), which interval begins or ends.
        sign: (K,), 1 where it begins, -1 where it ends.
        times: (N,), how often each row counts; default once.
    """
    weight = np.ones(len(labels)) if times is None else np.asarray(times, dtype=np.float64)
    own = labels[answers.row]
    values: dict[str, Array] = {}
    if "cost" in goal.of_answers:
        costs = weight[answers.row] * goal.cost_of(own, answers.answer) / weight.sum()
        values["cost"] = np.cumsum([costs[before].sum(), *(sign * costs[item])])
    names = [name for name in goal.of_answers if name != "cost"]
    if not names:
        return values
    totals = np.bincount(labels, weight, num_classes)
    share = goal.share(totals)
    counted = weight[answers.row]
    right = counted * (answers.answer == own)
    # the counts of a class change at the ends of its own intervals alone; all classes are taken side by side, in order
    place = np.flatnonzero(share[answers.answer[item]] > 0)
    place = place[np.argsort(answers.answer[item[place]], kind="stable")]
    of_class = answers.answer[item[place]]
    first = np.flatnonzero(np.diff(of_class, prepend=-1))
    counts = []
    for amount in (right, counted):
        start = np.bincount(answers.answer[before], amount[before], num_classes)
        change = np.cumsum(sign[place] * amount[item[place]])
        earlier = np.repeat(change[first] - (sign[place] * amount[item[place]])[first], np.diff([*first, len(place)]))
        counts.append((start, start[of_class] + change - earlier))
    for name in names:
        start = of_counts(name, counts[0][0], counts[1][0], totals)
        value = of_counts(name, counts[0][1], counts[1][1], totals[of_class])
        previous = np.concatenate([[0.0], value[:-1]])[: len(value)]
        previous[first] = start[of_class[first]]
        change = np.zeros(len(item) + 1)
        change[place + 1] = share[of_class] * (value - previous)
        change[0] = share @ start
        values[name] = np.round(np.cumsum(change), 12)
    return values
