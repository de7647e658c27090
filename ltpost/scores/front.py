"""The Pareto front of a curve: the values of the parameter at which no other one is better in two figures at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ltpost.heads import Array
from ltpost.scores.crossed import CrossedCurve
from ltpost.scores.curve import Curve
from ltpost.scores.exact import ExactCurve
from ltpost.scores.metrics import FIGURES, Figures


@dataclass(frozen=True)
class Point:
    """What a classifier does at one value of its hyperparameter.

    Attributes:
        value: of the parameter; None where there is nothing to choose.
        figures: fractions.
        others: values of further parameters.
    """

    value: float | None
    figures: Figures
    others: Mapping[str, float] = field(default_factory=dict)


def front_of(curve: Curve, low: float, high: float, x: str = "many", y: str = "few") -> list[Point]:
    """The points of a curve that no other one of it beats, by falling ``x``.

    Exact: of an exact curve every plateau is looked at, and given by its middle.

    Args:
        curve: of one or several parameters.
        low: least value of the (inner) parameter.
        high: greatest value.
        x: a figure.
        y: the other figure.
    """
    if isinstance(curve, CrossedCurve):
        points = [
            Point(point.value, point.figures, {curve.outer: value, **point.others})
            for value, inner in curve.curves.items()
            for point in front_of(inner, low, high, x, y)
        ]
        return best_points(points, x, y)
    if isinstance(curve, ExactCurve):
        values, table = curve.plateaus(low, high)
    else:
        values = np.array([value for value in curve.grid() if low <= value <= high])
        table = np.array([[getattr(row, name) for name in FIGURES] for row in curve.at(values)]).T.reshape(5, -1)
    kept = not_beaten(table[FIGURES.index(x)], table[FIGURES.index(y)])
    return [Point(float(values[k]), Figures(*map(float, table[:, k]))) for k in kept]


def best_points(points: list[Point], x: str = "many", y: str = "few") -> list[Point]:
    """The points that no other one beats, by falling ``x``."""
    first, second = (np.array([getattr(point.figures, name) for point in points]) for name in (x, y))
    return [points[k] for k in not_beaten(first, second)]


def not_beaten(x: Array, y: Array) -> NDArray[np.int64]:
    """The points (x, y), (K,) each, of which no other has as much of both and more of one; by falling x.

    Of equal points the first is kept; points with NaN are left out.

    >>> not_beaten(np.array([1.0, 2.0, 2.0, 3.0, 0.0]), np.array([5.0, 4.0, 3.0, 1.0, 5.0]))
    array([3, 1, 0])
    """
    known = np.flatnonzero(~np.isnan(x) & ~np.isnan(y))
    order = known[np.lexsort((-y[known], -x[known]))]
    highest = np.maximum.accumulate(np.append(-np.inf, y[order]))[:-1]
    return order[y[order] > highest + 1e-12]
