"""How sure one can be of figures: 95 % intervals for accuracies, from counts per class.

A figure is Σ_c w_c p̂_c, with an accuracy p̂_c over the k_c rows of each class. Within a class of two rows or more,
p̂_c (1 - p̂_c) / (k_c - 1) estimates the variance of p̂_c without bias (Cochran, Sampling Techniques, 1977, eq. 5.15);
classes of one row say nothing of themselves, so they are taken together as one stratum (collapsed strata, ibid. 5A.12),
which is too wide where their accuracies differ. The variance V = Σ_c w_c² V_c gives the number of independent rows
that would be as sure, n = p̂ (1 - p̂) / V, and Wilson's score interval (JASA 1927) with that n is the interval (Korn and
Graubard, Survey Methodology 1998; Dean and Pagano, Survey Methodology 2015, compare the choices). It has a width at 0
and 100 % and stays within them.

NOTE[DIFF]: V is shrunk towards the variance of a sample without classes, with the weight of two rows
(``PRIOR_ROWS``): V from a few rows is itself uncertain, and can be 0 where no class has both right and wrong rows.

``python -m benchmarks.coverage`` simulates how often the intervals hold; ``docs/coverage.md`` has the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from ltpost.data.priors import ShotGroups
from ltpost.heads import Array
from ltpost.scores.metrics import FIGURES, class_weights

PRIOR_ROWS = 2.0
_NO_VARIANCE = 1e-11  # this is rounding; one wrong row of a million has a larger variance
Interval = tuple[float, float]


@dataclass(frozen=True)
class ClassMoments:
    """Mean of a value over the rows of every class, and how it scatters between independent units.

    Attributes:
        mean: (C,), 0 for classes without rows.
        scatter: (C,), Σ_s (r_s - mean · t_s)² / T² over the units s of a class, with t_s of its T rows and sum r_s.
        units: (C,), independent units: rows, or samples where several rows are views of one.
        totals: (C,), rows.
    """

    mean: Array
    scatter: Array
    units: NDArray[np.int64]
    totals: NDArray[np.int64]

    @classmethod
    def of_hits(cls, hits: Array, totals: NDArray[np.int64]) -> ClassMoments:
        """Of accuracies: ``hits`` of ``totals`` independent rows are right, (C,) each."""
        rows = np.maximum(totals, 1)
        mean = hits / rows
        return cls(mean, mean * (1 - mean) / rows, totals, totals)

    @classmethod
    def of_rows(
        cls, values: Array, labels: NDArray[np.int64], num_classes: int, sample: NDArray[np.int64] | None = None
    ) -> ClassMoments:
        """Of any value per row, (N,); rows with the same number in ``sample`` (N,) show the same thing."""
        unit, of_class = units(labels, sample)
        rows, sums = np.bincount(unit), np.bincount(unit, values)
        totals = np.bincount(labels, minlength=num_classes)
        size = np.maximum(totals, 1)
        mean = np.bincount(labels, values, num_classes) / size
        squares = (sums - mean[of_class] * rows) ** 2
        scatter = np.bincount(of_class, squares, num_classes) / size.astype(float) ** 2
        return cls(mean, scatter, np.bincount(of_class, minlength=num_classes), totals)


def units(labels: NDArray[np.int64], sample: NDArray[np.int64] | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which independent unit each row belongs to, (N,), and the class of each unit, (U,).

    >>> units(np.array([3, 5, 3]), np.array([70, 80, 70]))
    (array([0, 1, 0]), array([3, 5]))
    """
    if sample is None:
        return np.arange(len(labels)), labels
    _, first, unit = np.unique(sample, return_index=True, return_inverse=True)
    return unit, labels[first]


def figure_intervals(moments: ClassMoments, groups: ShotGroups | None, level: float = 0.95) -> dict[str, Interval]:
    """The interval of every figure, in the order of ``FIGURES``; NaN for empty groups. Costs O(C).

    Args:
        moments: of the accuracy.
        groups: many/medium/few-shot classes, or None.
        level: of confidence.
    """
    intervals = {}
    for name, weights in zip(FIGURES, class_weights(moments.totals, groups), strict=True):
        intervals[name] = (np.nan, np.nan)
        if not np.isnan(weights).any():
            accuracy = round(float(weights @ moments.mean), 12)  # weights add up to 1 but for rounding
            size = effective_size(moments, weights, accuracy * (1 - accuracy))
            intervals[name] = wilson(accuracy, size, level)
    return intervals


def wilson(accuracy: float, size: float, level: float = 0.95) -> Interval:
    """Wilson's score interval for a proportion of ``size`` rows, which need not be whole.

    >>> [round(end, 3) for end in wilson(1.0, 10)]
    [0.722, 1.0]
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    shift = z * z / size
    middle = (accuracy + shift / 2) / (1 + shift)
    reach = z / (1 + shift) * np.sqrt(accuracy * (1 - accuracy) / size + shift / (4 * size))
    return float(max(0.0, min(accuracy, middle - reach))), float(min(1.0, max(accuracy, middle + reach)))


def effective_size(moments: ClassMoments, weights: Array, pooled: float) -> float:
    """How many independent rows without classes would be as sure of the weighted mean.

    Args:
        moments: of the value.
        weights: (C,), what the mean of each class counts.
        pooled: the variance of the value over rows of all classes.
    """
    counted = weights > 0
    weights, mean = weights[counted], moments.mean[counted]
    scatter, count = moments.scatter[counted], moments.units[counted].astype(np.float64)
    share = weights**2 / count
    nominal = 1 / share.sum()  # Kish's size
    if pooled < _NO_VARIANCE:
        return float(nominal)
    rows, alone, several = count.sum(), count == 1, count > 1
    unstratified = pooled / nominal * rows / max(rows - 1, 1)
    variance = scatter * count / np.maximum(count - 1, 1)
    variance[alone] = mean[alone].var(ddof=1) if alone.sum() > 1 else pooled
    stratified = (weights**2 * variance).sum()
    doubt = (share[several] ** 2 / (count[several] - 1)).sum() + share[alone].sum() ** 2 / max(alone.sum() - 1, 0.5)
    freedom = share.sum() ** 2 / doubt  # Satterthwaite's, for variances that are all alike
    variance_of_mean = (freedom * stratified + PRIOR_ROWS * unstratified) / (freedom + PRIOR_ROWS)
    return float(nominal * unstratified / variance_of_mean)
