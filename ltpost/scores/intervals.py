"""Where each row is right, for EVERY value of a parameter t: one interval per row, from one pass over its scores.

Where scores are affine in t,

    s_c(t) = a_c - t · b_c,

a row of class y is right on one interval of t. Let x_c = (a_c - a_y) / (b_c - b_y). A rival c with b_c > b_y loses from
t = x_c on, and a rival with b_c < b_y wins from there on; where b_c = b_y, the larger a wins for all t. So the interval
goes from the largest x_c of the first kind of rivals to the smallest x_c of the second kind.

Where scores are *scaled*, s_c(t) = z_c · exp(-t · b_c), the logarithms of positive scores are affine in t. A row whose
own score is not positive loses to any positive rival. Where no score of a row is positive, the signs flip.

The class with the lowest number wins a tie, as in ``argmax``. All ends are computed in float64. Which rival sets an end
is found in float32, with a bound on the rounding error (:func:`quick_interval`). Where two rivals are closer than the
bound, float64 decides (:func:`affine_interval`, :func:`scaled_interval`).

What this module does not do: read rows (``on_cpu``, ``on_device``), or count accuracies (``curve``).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ltpost.heads import Array

_LARGEST = np.finfo(np.float32).max
_BOUNDED = 1e37  # float32 holds this and its reciprocal with all digits
TINY = 1e-300  # log -690.8; those of positive float32 scores are -103.3 .. 88.8
_REACH = 587.0  # 690.8 - 103.3


class Slopes:
    """The slopes b, (C,) float64, and what follows from all pairs of them."""

    def __init__(self, values: Array):
        self.values = np.asarray(values, dtype=np.float64)
        self.order = np.argsort(self.values, kind="stable")
        ranked = self.values[self.order]
        self.lowest, self.highest = float(ranked[0]), float(ranked[-1])
        self._first = np.searchsorted(ranked, self.values, side="left")
        self._equal = np.searchsorted(ranked, self.values, side="right") - self._first
        gaps, spread = np.diff(ranked), self.highest - self.lowest
        #: whether float32 holds all gaps and their reciprocals with all digits
        self.bounded = bool(gaps[gaps > 0].min(initial=1.0) >= 1 / _BOUNDED and spread <= _BOUNDED)
        #: how far from 0 the ends of scaled scores are valid; farther out, the stand-in for 0 would win
        self.reach = _REACH / spread if spread > 0 else np.inf

    def equal(self, labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Indices (i, c) of all pairs where class c has the slope of class labels[i]; c = labels[i] is one of them.

        >>> Slopes(np.array([1.0, 2.0, 1.0])).equal(np.array([1, 2]))
        (array([0, 1, 1]), array([1, 0, 2]))
        """
        equal = self._equal[labels]
        which = np.repeat(np.arange(len(labels)), equal)
        place = np.arange(len(which)) + np.repeat(self._first[labels] - (np.cumsum(equal) - equal), equal)
        return which, self.order[place]


def quick_interval(
    scores: Array,
    labels: NDArray[np.int64],
    slopes: Slopes,
    *,
    scaled: bool,
    work: list[Array] | None = None,
) -> tuple[Array, Array]:
    """As :func:`affine_interval` or :func:`scaled_interval`, with the same numbers, in less than half the time.

    Each x_c gets a bound u_c in float32, which is certainly beyond x_c. The rival with the most extreme u is taken, and
    its x is computed in float64. If that is beyond the second most extreme u, it is the end; if not, float64 decides
    the row.

    The bound, with ε = 2⁻²⁰: the error of numpy's float32 logarithm is below ε (|log z| + 1) (its documentation says a
    quarter of that), and |log z_c| ≤ |log z_y| + |d_c| with d_c = log z_c - log z_y. So log z_y is lowered by
    2ε (|log z_y| + 1), and 4ε of u are added to u. Affine scores are float32 already, and need the second step only.
    Float64 also decides where float32 over- or underflows: gaps b_c - b_y or ends out of its range, or affine scores
    near its limits.

    Args:
        scores: a or z, (k, m, C) float32: m rows of each of k classes.
        labels: y, (k,): those classes.
        slopes: b.
        scaled: which of the two.
        work: two arrays like ``scores`` to compute in.

    Returns:
        The closed intervals [low, high], (k, m) each. Where scaled, ends beyond ± 587 / (max b - min b) are not valid.
    """
    plain = scaled_interval if scaled else affine_interval
    if not slopes.bounded:
        return plain(scores, labels, slopes.values)
    upper, masked = work if work is not None else np.empty((2, *scores.shape), np.float32)
    num_classes, y = scores.shape[2], labels[:, None]
    first_of_row = np.arange(0, scores.size, num_classes).reshape(scores.shape[:2])
    flat, flat_masked = scores.reshape(-1), masked.reshape(-1)
    raw_own = flat[first_of_row + y]
    own = _logarithm(raw_own) if scaled else raw_own.astype(np.float64)
    reach = slopes.reach if scaled else np.inf

    mine = slopes.values[y]
    gap = slopes.values - mine
    above, below = (np.where(rivals, np.float32(0), -_LARGEST) for rivals in (gap > 0, gap < 0))
    level = slopes.equal(labels)
    gap[level] = 1.0
    with np.errstate(all="ignore"):  # float64 decides what overflows
        if scaled:
            np.log(scores, out=upper)
            np.fmax(upper, np.full(num_classes, np.log(TINY), np.float32), out=upper)  # fmax(nan, x) is x
            lowered = own - 2.0**-19 * (np.abs(own) + 1)
            np.subtract(upper, lowered.astype(np.float32)[..., None], out=upper)
        else:
            np.subtract(scores, raw_own[..., None], out=upper)
        np.multiply(upper, (1 / np.abs(gap.astype(np.float32)))[:, None], out=upper)

        def last(others: Array, none: NDArray[np.bool_], sign: float) -> tuple[Array, NDArray[np.bool_]]:
            """The end that some rivals set, (k, m), and where it is certain; ``others`` is 0 for these rivals."""
            np.add(upper, others[:, None], out=masked)
            rival = masked.argmax(axis=2)
            at = first_of_row + rival
            a = _logarithm(flat[at]) if scaled else flat[at].astype(np.float64)
            row = np.arange(len(labels))[:, None]
            end = (a - own) / gap[row, rival]
            flat_masked[at] = -np.inf
            second = flat_masked[first_of_row + masked.argmax(axis=2)].astype(np.float64)
            second += 2.0**-18 * np.abs(second) + 1 / _BOUNDED
            np.maximum(second, -_BOUNDED, out=second)  # -inf may come from an overflow
            certain = (others[row, rival] == 0) & (sign * end > second)
            np.copyto(end, np.nextafter(end, sign * np.inf), where=rival < y)
            far = np.maximum(sign * end, second) < -reach
            np.copyto(end, -sign * np.inf, where=far | none)
            return end, certain | far | none

        low, sure_of_low = last(above, mine == slopes.highest, 1.0)
        high, sure_of_high = last(below, mine == slopes.lowest, -1.0)
    doubt = ~(sure_of_low & sure_of_high)
    if not scaled:
        doubt |= np.abs(raw_own) > 1e30  # below that, float32 can subtract even its largest number
    lost = _lost_for_good(scores, raw_own, labels, *level)
    low[lost], high[lost] = np.inf, -np.inf
    if scaled:
        odd = np.nonzero(raw_own <= 0)
        low[odd], high[odd] = _not_positive(scores[odd], labels[odd[0]], slopes.values)
        doubt[odd] = False
    left = np.nonzero(doubt)
    if len(left[0]):
        ends = plain(scores[left][:, None], labels[left[0]], slopes.values)
        low[left], high[left] = ends[0][:, 0], ends[1][:, 0]
    return low, high


def affine_interval(scores: Array, labels: NDArray[np.int64], slope: Array) -> tuple[Array, Array]:
    """Where each row is right under s_c(t) = a_c - t · b_c, all in float64.

    Args:
        scores: a, (k, m, C): m rows of each of k classes.
        labels: y, (k,): those classes.
        slope: b, (C,); or (k, 1, C) where it differs from row to row (then m = 1).

    Returns:
        The closed intervals [low, high], (k, m) each; low > high where a row is never right.
    """
    y = labels[:, None, None]
    own = np.take_along_axis(scores, np.broadcast_to(y, (*scores.shape[:2], 1)), axis=2)
    steeper = slope - np.take_along_axis(np.broadcast_to(slope, (len(labels), 1, scores.shape[2])), y, axis=2)
    above, below = steeper > 0, steeper < 0
    level = ~(above | below)
    with np.errstate(over="ignore"):
        crossing = (scores - own.astype(np.float64)) / np.where(level, 1.0, steeper)

    def last(rivals: NDArray[np.bool_], sign: float) -> Array:
        x = np.where(rivals, crossing, -sign * np.inf)
        rival = (sign * x).argmax(axis=2)
        end = np.take_along_axis(x, rival[..., None], axis=2)[..., 0]
        np.copyto(end, np.nextafter(end, sign * np.inf), where=(rival < labels[:, None]) & np.isfinite(end))
        return end

    low, high = last(above, 1.0), last(below, -1.0)
    lost = _lost_for_good(scores, own[..., 0], labels, *np.nonzero(level[:, 0]))
    low[lost], high[lost] = np.inf, -np.inf
    return low, high


def _lost_for_good(
    scores: Array, own: Array, labels: NDArray[np.int64], which: NDArray[np.int64], rival: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """(k, m), where a rival of the same slope wins: pairs (which, rival), by a larger a or a tie and a lower number."""
    lost = np.zeros(own.shape, dtype=bool)
    others = rival != labels[which]  # not the classes themselves
    which, rival = which[others], rival[others]
    if len(which):
        rows = np.arange(own.size).reshape(own.shape) * scores.shape[2]
        theirs, ours = scores.reshape(-1).take(rows[which] + rival[:, None]), own[which]
        wins = (theirs > ours) | ((theirs == ours) & (rival < labels[which])[:, None])
        first = np.flatnonzero(np.diff(which, prepend=-1))
        lost[which[first]] = np.logical_or.reduceat(wins, first, axis=0)
    return lost


def scaled_interval(scores: Array, labels: NDArray[np.int64], slope: Array) -> tuple[Array, Array]:
    """Where each row is right under s_c(t) = z_c · exp(-t · b_c), all in float64.

    A positive score competes with positive ones only. The others get a stand-in below the logarithm of any float32.

    Args:
        scores: z, (k, m, C), of float32 values.
        labels: as for :func:`affine_interval`.
        slope: b, (C,).

    Returns:
        As :func:`affine_interval`, as long as |t| < 587 / (max b - min b), see ``Slopes.reach``.
    """
    own = np.take_along_axis(scores, np.broadcast_to(labels[:, None, None], (*scores.shape[:2], 1)), axis=2)[..., 0]
    low, high = affine_interval(_logarithm(scores), labels, slope)
    odd = np.nonzero(own <= 0)
    low[odd], high[odd] = _not_positive(scores[odd], labels[odd[0]], slope)
    return low, high


def _logarithm(scores: Array) -> Array:
    """The logarithm of scores, float64; the stand-in where a score is not positive."""
    return np.asarray(np.log(np.maximum(scores.astype(np.float64), TINY)))


def _not_positive(scores: Array, labels: NDArray[np.int64], slope: Array) -> tuple[Array, Array]:
    """The intervals of rows (n, C) whose own score is not positive: they lose to any positive rival."""
    low, high = np.full(len(scores), np.inf), np.full(len(scores), -np.inf)
    best = scores.max(axis=1)
    zero = np.flatnonzero(best == 0)  # zeros tie at every t
    always = zero[scores[zero].argmax(axis=1) == labels[zero]]
    low[always], high[always] = -np.inf, np.inf
    negative = np.flatnonzero(best < 0)
    if len(negative):  # -exp(log|z| - t b): the smallest exponent wins
        exponents = -np.log(-scores[negative].astype(np.float64))[:, None]
        ends = affine_interval(exponents, labels[negative], -slope)
        low[negative], high[negative] = ends[0][:, 0], ends[1][:, 0]
    return low, high
