"""Whether one classifier is better than another on the same rows: paired differences, their intervals, and tests.

The interval is that of Agresti and Min (Statistics in Medicine 2005), stratified by class (``scores.confidence``). The
test is McNemar's, exact: where the classifiers disagree, either is as likely to be right. Rows of a figure that weigh
unlike (the mean over classes of a test set that is not balanced) keep their weights in it: each disagreement gets a
random sign (Fisher's test for pairs), and McNemar's is the case of equal weights. Several comparisons of one table are
corrected as Holm does (Scandinavian Journal of Statistics 1979).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from ltpost.data.priors import ShotGroups
from ltpost.heads import Array
from ltpost.scores.confidence import ClassMoments, Interval, effective_size, units
from ltpost.scores.metrics import FIGURES, class_weights

_DRAWS = 2 * 10**7  # of binomial numbers for one test
_LEAST, _MOST = 1999, 99_999  # random sign patterns


@dataclass(frozen=True)
class Difference:
    """How much better one classifier is than another on the same rows.

    Attributes:
        value: the difference of the figures, -1 to 1.
        interval: its 95 % interval.
        p: two-sided, that either is as likely to be right where they disagree; see the module.
    """

    value: float
    interval: Interval
    p: float


def paired_difference(
    correct_a: NDArray[np.bool_],
    correct_b: NDArray[np.bool_],
    labels: NDArray[np.int64],
    groups: ShotGroups | None = None,
    *,
    num_classes: int | None = None,
    sample: NDArray[np.int64] | None = None,
    level: float = 0.95,
    only: str | None = None,
    test: bool = True,
) -> dict[str, Difference]:
    """Every figure of b minus that of a, on the same rows; figures of empty groups are left out.

    For the interval, half a row is added to each cell of the table (a right, b right), here of the effective number of
    rows.

    Args:
        correct_a: (N,), which rows the first classifier has right.
        correct_b: (N,), the same of the second.
        labels: (N,).
        groups: many/medium/few-shot classes, or None.
        num_classes: C; default from ``groups`` or the labels.
        sample: (N,), which sample a row shows, where several rows show one.
        level: of confidence.
        only: the one figure that is wanted; default all.
        test: whether to give p, which may take longer than all else; without, it is NaN.
    """
    if num_classes is None:
        num_classes = len(groups.many) if groups is not None else int(labels.max(initial=-1)) + 1
    gain = np.asarray(correct_b, dtype=np.float64) - np.asarray(correct_a, dtype=np.float64)
    moments = ClassMoments.of_rows(gain, labels, num_classes, sample)
    unit, of_class = units(labels, sample)
    rows_of_unit = np.bincount(unit)
    gain_of_unit = np.bincount(unit, gain) / rows_of_unit
    square = np.bincount(of_class, gain_of_unit**2, num_classes) / np.maximum(moments.units, 1)
    z = NormalDist().inv_cdf((1 + level) / 2)
    differences = {}
    for name, weights in zip(FIGURES, class_weights(moments.totals, groups), strict=True):
        if np.isnan(weights).any() or only not in (None, name):
            continue
        value, disagree = float(weights @ moments.mean), float(weights @ square)
        size = effective_size(moments, weights, disagree - value**2)
        middle = value * size / (size + 2)
        reach = z * np.sqrt((disagree * size + 1) - (value * size) ** 2 / (size + 2)) / (size + 2)
        weight = (weights / np.maximum(moments.totals, 1))[of_class] * rows_of_unit
        interval = (float(max(-1.0, middle - reach)), float(min(1.0, middle + reach)))
        p = sign_test(gain_of_unit * weight) if test else float("nan")
        differences[name] = Difference(value, interval, p)
    return differences


def sign_test(gains: Array, seed: int = 0) -> float:
    """Two-sided p of gains, (U,), whose sum would be 0 on average if each sign were as likely as the other.

    Exact where all gains that are not 0 have one size (McNemar's test); else by up to 99,999 random patterns of signs.

    >>> round(sign_test(np.array([1.0] * 6 + [-1.0] * 2 + [0.0] * 12)), 4)
    0.2891
    """
    sizes = np.abs(gains)
    counted = sizes > 1e-12 * sizes.max(initial=0.0)
    if not counted.any():
        return 1.0
    values, which = np.unique(np.round(sizes[counted] / sizes.max(), 9), return_inverse=True)
    if len(values) == 1:
        from scipy.stats import binom  # takes longer to import than most commands run

        better, disagree = int((gains > 0).sum()), int(counted.sum())
        return float(min(1.0, 2 * binom.cdf(min(better, disagree - better), disagree, 0.5)))
    number = np.bincount(which)
    patterns = int(np.clip(_DRAWS // len(values), _LEAST, _MOST))
    rng, seen, as_far = np.random.default_rng(seed), abs(float(gains.sum() / sizes.max())), 0
    for start in range(0, patterns, 1000):
        many = min(1000, patterns - start)
        sums = (2 * rng.binomial(number, 0.5, (many, len(number))) - number) @ values
        as_far += int((np.abs(sums) >= seen - 1e-9).sum())
    return (1 + as_far) / (1 + patterns)


def holm(p: Sequence[float]) -> list[float]:
    """The p values of several tests, corrected so that a wrong one among them is as rare as in one test.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p, kind="stable")
    corrected = np.maximum.accumulate([(len(p) - rank) * p[k] for rank, k in enumerate(order)])
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1.0, corrected)
    return [float(value) for value in adjusted]
