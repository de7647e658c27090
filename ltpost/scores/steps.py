"""The exact step functions behind a curve: sorted ends of intervals, and the figures between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ltpost.heads import Array
from ltpost.scores.goal import SAME

NARROW = 1e-6  # a plateau this narrow is an artefact of float32 scores, whose rounding moves its ends as far


class Ends:
    """The sorted ends of closed intervals [low, high]; none of those with low > high."""

    def __init__(self, low: Array, high: Array):
        ever = np.flatnonzero(low <= high)
        # a row enters at its low end and leaves just after its high end
        ends = np.concatenate([low[ever], np.nextafter(high[ever], np.inf)])
        order = np.argsort(ends)  # between equal ends lies no width, so their order makes no difference
        self.values, self._total = ends[order], len(low)
        self._row = np.concatenate([ever, ever])[order]
        self._sign = np.where(order < len(ever), 1.0, -1.0)
        self._last: tuple[tuple[float, float], Range] | None = None

    def within(self, low: float, high: float) -> Range:
        """The steps within a range; the last range is kept."""
        if self._last is None or self._last[0] != (low, high):
            first, last = np.searchsorted(self.values, [low, min(high, np.finfo(float).max)], side="right")
            starts = np.concatenate([[low], self.values[first:last]])
            stops = np.concatenate([self.values[first:last], [high]])
            wide = stops - starts > NARROW * np.maximum(1.0, np.abs(np.where(np.isfinite(starts), starts, 0.0)))
            before = np.flatnonzero(np.bincount(self._row[:first], self._sign[:first], minlength=self._total))
            parts = (before, self._row[first:last], self._sign[first:last], starts, stops, wide)
            self._last = (low, high), Range(*parts)
        return self._last[1]


@dataclass(frozen=True)
class Range:
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

    @cached_property
    def allowed(self) -> NDArray[np.bool_]:
        """(K + 1,), which steps may be chosen: those with a width, or all where none has."""
        return self.wide if self.wide.any() else np.ones_like(self.wide)


def figure_steps(within: Range, weights: Array | Sequence[Array], times: Array | None = None) -> Array:
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


def middle(low: float, high: float) -> float:
    """The middle of a plateau; a little inside of one without an end."""
    if np.isfinite(low) and np.isfinite(high):
        return (low + high) / 2
    if np.isfinite(low):
        return low + abs(low) * 0.01 + 0.01  # a plateau without an upper end: a little inside it
    return high - abs(high) * 0.01 - 0.01 if np.isfinite(high) else 0.0


def near_best(within: Range, score: Array, margin: float) -> tuple[float, float, float, int]:
    """The middle of all values whose ``score`` (K + 1,) is at most ``margin`` below the greatest.

    Where the middle itself is worse, the near-best value next to it is taken. Without a margin, it is the middle of the
    widest of the best plateaus.

    Returns:
        The value; the first and the last near-best value; the step of the value.
    """
    near = np.flatnonzero(score >= score.max() - margin - SAME)
    begin, end = float(within.starts[near[0]]), float(within.stops[near[-1]])
    endless = not np.isfinite([begin, end]).all()  # a curve that stays near its best for ever
    if margin <= 0 or endless:
        begin, end, step = best_plateau(within, score)
        return middle(begin, end), begin, end, step
    centre = middle(begin, end)
    nearest = np.clip(centre, within.starts[near], within.stops[near])
    step = int(near[np.argmin(np.abs(nearest - centre))])
    start, stop = float(within.starts[step]), float(within.stops[step])
    return centre if start <= centre <= stop else middle(start, stop), begin, end, step


def best_plateau(within: Range, score: Array) -> tuple[float, float, int]:
    """The widest plateau of the greatest ``score`` (K + 1,): its ends, and one of its steps."""
    # neighbouring steps of equal height are one plateau; steps of no width between them do not part it
    good = np.flatnonzero(score >= score.max() - SAME)
    starts, stops = within.starts[good], within.stops[good]
    parted = np.flatnonzero((starts[1:] - stops[:-1]) > NARROW) + 1
    firsts, lasts = np.append(0, parted), np.append(parted, len(good)) - 1
    widest = int(np.argmax(stops[lasts] - starts[firsts]))
    return float(starts[firsts[widest]]), float(stops[lasts[widest]]), int(good[firsts[widest]])
