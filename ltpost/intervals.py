"""Where each row is right, for EVERY value of a parameter t: one interval per row, from one pass over its scores.

Where scores are affine in t,

    s_c(t) = a_c - t · b_c,

a row of class y is right on one interval of t. A rival c with b_c > b_y loses once t ≥ x_c = (a_c - a_y) / (b_c - b_y);
one with b_c < b_y wins beyond that value; with b_c = b_y the larger a decides for all t. The largest x_c of the first
and the smallest of the second bound the interval.

Where scores are *scaled*, s_c(t) = z_c · exp(-t · b_c), positive scores are affine in their logarithms. A row whose own
score is not positive loses to any positive rival; where no score of a row is positive, the signs flip.

A tie is won by the class with the lowest number, as by ``argmax``. All ends are computed in float64: which rival an end
belongs to is found in float32, with a bound on what that may have got wrong (:func:`quick_interval`); where two rivals
are closer than that, float64 decides that as well (:func:`affine_interval`, :func:`scaled_interval`).

What this module does not do: know classes of rows or accuracies (``sweep``).
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby, pairwise

import numpy as np
from numpy.typing import NDArray

from ltpost.features import FeatureSet
from ltpost.head import Array, Head

_BLOCK_ELEMENTS = 2**19  # of scores swept at a time: two buffers of 2 MiB as float32
_THREADED = 2**22  # scores below which threads cost more than they bring
_LARGE_PRODUCT = 512  # rows with which a product is at full speed; with more, the scores are far from the core
_MULTIPLYING = 8  # threads at most that hold blocks of features and of products, 32 MiB or less each
_LARGEST = np.finfo(np.float32).max
_BOUNDED = 1e37  # float32 holds this and its reciprocal with all digits
TINY = 1e-300  # log -690.8; those of positive float32 scores are -103.3 .. 88.8
_REACH = 587.0  # 690.8 - 103.3


def intervals(
    feature_set: FeatureSet, slope: Array, head: Head | None = None, *, scaled: bool, device: str = "cpu"
) -> tuple[Array, Array]:
    """The interval [low, high] of every row, (N,) each; low > high where a row is never right.

    Args:
        feature_set: N rows.
        slope: b, (C,) float64.
        head: whose logits are a, or z; default the joint classifier's.
        scaled: s_c(t) = z_c · exp(-t · b_c), not a_c - t · b_c.
        device: where to compute; anything but "cpu" imports torch.
    """
    slopes = Slopes(slope)
    if device == "cpu":
        low, high = _intervals_here(feature_set, slopes, head, scaled)
    else:
        from ltpost.on_device import intervals as intervals_there

        low, high = intervals_there(feature_set, slope, head, device, scaled=scaled)
    if scaled:  # beyond this, ends may be those of the stand-in for a score that is not positive
        low[low < -slopes.reach], high[high > slopes.reach] = -np.inf, np.inf
    return low, high


def _intervals_here(feature_set: FeatureSet, slopes: Slopes, head: Head | None, scaled: bool) -> tuple[Array, Array]:
    """By blocks of classes with equally many rows, (k, m, C), small enough to stay near a core."""
    labels, classes = feature_set.labels, feature_set.num_classes
    order = np.argsort(labels, kind="stable")
    rows_of = slice if np.all(labels[1:] >= labels[:-1]) else lambda start, stop: order[start:stop]
    low, high = np.empty(len(labels)), np.empty(len(labels))
    head = feature_set.joint if head is None else head
    read, stored = feature_set.score_reader(head), feature_set.answers_for(head)

    def sweep(batch: list[tuple[int, int, int]]) -> None:
        begin, end = batch[0][0], batch[-1][1]
        product = None if stored else read(rows_of(begin, end))  # one large one for many blocks
        for start, stop, k in batch:
            rows, shape = rows_of(start, stop), (k, (stop - start) // k, classes)
            raw, *work = _buffers(3, shape)
            own = slice(start - begin, stop - begin)
            scores = read(rows, raw.reshape(-1, classes)) if product is None else product[own]
            some = labels[order[start : stop : shape[1]]]
            ends = quick_interval(scores.reshape(shape), some, slopes, scaled=scaled, work=work)
            low[rows], high[rows] = ends[0].ravel(), ends[1].ravel()

    blocks = list(_even_blocks(np.bincount(labels, minlength=classes), max(1, _BLOCK_ELEMENTS // classes)))
    cores = (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()) or 1
    if stored and len(labels) * classes < _THREADED:
        for block in blocks:
            sweep([block])
    elif stored:
        with ThreadPoolExecutor(cores) as pool:
            list(pool.map(sweep, _in_batches(blocks, len(labels) // (4 * cores), cores)))
    else:
        from threadpoolctl import threadpool_limits

        # a thread gathers, multiplies and sweeps by itself; products that share all cores would wait for each other
        workers, most = min(cores, _MULTIPLYING), feature_set.block_rows()
        batches = _in_batches(blocks, min(most, max(most // 2, _LARGE_PRODUCT)), workers)
        with threadpool_limits(cores // workers, "blas"), ThreadPoolExecutor(workers) as pool:
            list(pool.map(sweep, batches))
    feature_set.logits_are_finite |= stored
    return low, high


_kept = threading.local()


def _buffers(number: int, shape: tuple[int, ...]) -> Array:
    """Memory of this thread to compute in; asked for anew each time, it would cost more than what is computed."""
    size = math.prod(shape)
    if getattr(_kept, "size", 0) < size:
        _kept.size, _kept.memory = size, np.empty((number, size), np.float32)
    return np.asarray(_kept.memory[:, :size]).reshape(number, *shape)


def _even_blocks(counts: NDArray[np.int64], most: int) -> Iterator[tuple[int, int, int]]:
    """Blocks ``(start, stop, classes)`` of about ``most`` rows sorted by class, equally many of each class.

    >>> list(_even_blocks(np.array([2, 2, 2, 0, 9]), most=4))
    [(0, 4, 2), (4, 6, 1), (6, 10, 1), (10, 14, 1), (14, 15, 1)]
    """
    start, present = 0, counts[counts > 0]
    for _, run in groupby(present):
        same = list(run)
        rows = int(same[0])
        if rows >= most:
            for _ in same:
                cuts = [*range(start, start + rows, most), start + rows]
                yield from ((one, other, 1) for one, other in pairwise(cuts))
                start += rows
        else:
            for first in range(0, len(same), most // rows):
                k = min(most // rows, len(same) - first)
                yield start, start + k * rows, k
                start += k * rows


def _in_batches(blocks: list[tuple[int, int, int]], most: int, workers: int) -> Iterator[list[tuple[int, int, int]]]:
    """Consecutive blocks, ``most`` rows or a little more together; fewer to the end, where workers would wait.

    >>> blocks = [(start, start + 1, 1) for start in range(26)]
    >>> [len(batch) for batch in _in_batches(blocks, most=8, workers=2)]
    [6, 5, 3, 3, 2, 2, 2, 2, 1]
    """
    batch: list[tuple[int, int, int]] = []
    for block in blocks:
        batch.append(block)
        begin, end = batch[0][0], block[1]
        share = (blocks[-1][1] - begin) // (2 * workers)
        if end - begin >= min(most, max(most // 4, share)):
            yield batch
            batch = []
    if batch:
        yield batch


class Slopes:
    """b, (C,) float64, and what of it concerns all pairs of classes."""

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
        #: how far from 0 the ends of scaled scores mean anything: where 0 still beats no positive score
        self.reach = _REACH / spread if spread > 0 else np.inf

    def equal(self, labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Indices (i, c) of all pairs where class c has the slope of class labels[i], which it is itself at times.

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
    """As :func:`affine_interval` or :func:`scaled_interval`, number by number, at less than half the price.

    In float32, every x_c gets a bound u_c that is certainly beyond it, and the rival with the extreme u is taken. Its
    x in float64 is the end, if it is beyond the second most extreme u; else the row is left to float64.

    The bound, with ε = 2⁻²⁰: numpy's float32 logarithm is wrong by less than ε (|log z| + 1), a quarter of that by its
    documentation, and |log z_c| ≤ |log z_y| + |d_c| with d_c = log z_c - log z_y. So log z_y is lowered by
    2ε (|log z_y| + 1), and 4ε of u itself are added. Affine scores are float32 already, and need the second only.
    Nothing is bounded where float32 over- or underflows: with gaps b_c - b_y or ends out of its range, or affine scores
    near its limits.

    Args:
        scores: a or z, (k, m, C) float32: m rows of each of k classes.
        labels: y, (k,): those classes.
        slopes: b.
        scaled: which of the two.
        work: two arrays like ``scores`` to compute in.

    Returns:
        The closed intervals [low, high], (k, m) each. Where scaled, ends beyond ± 587 / (max b - min b) mean nothing.
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
    with np.errstate(all="ignore"):  # what overflows is not certain, and so left to float64
        if scaled:
            np.log(scores, out=upper)
            np.fmax(upper, np.full(num_classes, np.log(TINY), np.float32), out=upper)  # fmax(nan, x) is x
            lowered = own - 2.0**-19 * (np.abs(own) + 1)
            np.subtract(upper, lowered.astype(np.float32)[..., None], out=upper)
        else:
            np.subtract(scores, raw_own[..., None], out=upper)
        np.multiply(upper, (1 / np.abs(gap.astype(np.float32)))[:, None], out=upper)

        def last(others: Array, none: NDArray[np.bool_], sign: float) -> tuple[Array, NDArray[np.bool_]]:
            """The end that some rivals set, (k, m), and where it is certain; ``others`` is 0 for them, else lowest."""
            np.add(upper, others[:, None], out=masked)
            rival = masked.argmax(axis=2)
            at = first_of_row + rival
            a = _logarithm(flat[at]) if scaled else flat[at].astype(np.float64)
            row = np.arange(len(labels))[:, None]
            end = (a - own) / gap[row, rival]
            flat_masked[at] = -np.inf
            second = flat_masked[first_of_row + masked.argmax(axis=2)].astype(np.float64)
            second += 2.0**-18 * np.abs(second) + 1 / _BOUNDED
            np.maximum(second, -_BOUNDED, out=second)  # -inf may be what has overflowed
            certain = (others[row, rival] == 0) & (sign * end > second)
            np.copyto(end, np.nextafter(end, sign * np.inf), where=rival < y)
            far = np.maximum(sign * end, second) < -reach
            np.copyto(end, -sign * np.inf, where=far | none)
            return end, certain | far | none

        low, sure_of_low = last(above, mine == slopes.highest, 1.0)
        high, sure_of_high = last(below, mine == slopes.lowest, -1.0)
    doubt = ~(sure_of_low & sure_of_high)
    if not scaled:
        doubt |= np.abs(raw_own) > 1e30  # from less, float32 subtracts even its largest number
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
    """(k, m), where one of the rivals of the same slope, (which, rival), has the larger a, or ties and comes first."""
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

    A positive score competes with positive ones only; the others get a logarithm that is less than any float32 has.

    Args:
        scores: z, (k, m, C), of float32 values.
        labels: as for :func:`affine_interval`.
        slope: b, (C,).

    Returns:
        As :func:`affine_interval`, as long as |t| < 587 / (max b - min b), where 0 still beats no positive score.
    """
    own = np.take_along_axis(scores, np.broadcast_to(labels[:, None, None], (*scores.shape[:2], 1)), axis=2)[..., 0]
    low, high = affine_interval(_logarithm(scores), labels, slope)
    odd = np.nonzero(own <= 0)
    low[odd], high[odd] = _not_positive(scores[odd], labels[odd[0]], slope)
    return low, high


def _logarithm(scores: Array) -> Array:
    """Of scores, float64; of those that are not positive, the stand-in."""
    return np.asarray(np.log(np.maximum(scores.astype(np.float64), TINY)))


def _not_positive(scores: Array, labels: NDArray[np.int64], slope: Array) -> tuple[Array, Array]:
    """The same for rows whose own score is not positive, (n, C): they lose to any positive rival."""
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
