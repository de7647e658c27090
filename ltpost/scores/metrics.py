"""The figures of the field, from hits per class: Many | Medium | Few | All | Top-1, and how sure one can be of them.

All numbers are fractions in 0..1. ``all`` is the mean of the per-class accuracies (balanced accuracy) over the
classes that the split has, ``many``, ``medium`` and ``few`` the same within a group, ``top1`` the share of correct
rows. An empty group is NaN.

NOTE[DIFF]: the reference code (classifier-balancing, ``shot_acc``) reports an empty group as 0.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from ltpost.data.priors import GROUPS, ShotGroups
from ltpost.errors import DataError
from ltpost.heads import Array

FIGURES = (*GROUPS, "all", "top1")
SELECT = (*FIGURES, "harmonic")


@dataclass(frozen=True)
class Figures:
    """One row of a results table; fractions, NaN for an empty group."""

    many: float
    medium: float
    few: float
    all: float
    top1: float

    def as_dict(self) -> dict[str, float | None]:
        """For JSON: NaN becomes None."""
        return {name: None if np.isnan(value) else float(value) for name, value in asdict(self).items()}


def row_weights(
    labels: NDArray[np.int64],
    groups: ShotGroups | None,
    num_classes: int,
    multiplicity: Array | None = None,
    only: str | None = None,
) -> Array:
    """What a correct row adds to each figure, (5, N) in the order of ``FIGURES``; NaN rows for empty groups.

    Args:
        labels: (N,).
        groups: None where the training counts are not known.
        num_classes: C.
        multiplicity: (N,), how often each row counts (bootstrap, folds); default once.
        only: a figure to select by; what it does not need is left NaN.
    """
    times = np.ones(len(labels)) if multiplicity is None else multiplicity
    totals = np.bincount(labels, weights=times, minlength=num_classes)
    present = totals > 0
    weights = np.full((len(FIGURES), len(labels)), np.nan)
    for index, name in enumerate(FIGURES):
        if only not in (None, name) and (only != "harmonic" or name not in GROUPS):
            continue
        members = present
        if name in GROUPS:
            members = np.zeros_like(present) if groups is None else present & getattr(groups, name)
        if members.any():
            share = np.divide(members, totals * members.sum(), out=np.zeros(num_classes), where=members)
            weights[index] = times / totals.sum() if name == "top1" else share[labels] * times
    return weights


def selection_score(values: Array, select: str) -> Array:
    """The figure that a choice maximises, from (5, …) figures; ``harmonic`` is the mean of the groups that there are.

    Raises:
        DataError: the figure is not defined here (no training counts, or an empty group).
    """
    if select == "harmonic":
        there = values[:3][~np.isnan(values[:3]).reshape(3, -1).any(axis=1)]
        with np.errstate(divide="ignore"):
            score: Array = (
                len(there) / (1 / np.abs(there)).sum(axis=0) if len(there) else np.full(values.shape[1:], np.nan)
            )
    else:
        score = values[FIGURES.index(select)]
    if np.isnan(score).any():
        raise DataError(
            f"select= {select} is not defined here: the split has no class of that group, or class_counts are missing"
        )
    return score


def figures(hits: Array, totals: Array, groups: ShotGroups | None) -> Figures:
    """Figures from correct rows and rows per class, both (C,)."""
    values = _figures(hits[None], totals, _group_of(totals, groups), np.ones(len(totals)))
    return Figures(*(float(value) for value in values[:, 0]))


def bootstrap_figures(
    hits: Array, totals: Array, groups: ShotGroups | None, *, num: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of every figure, from ``num`` resamples of the rows within each class.

    Drawing n_c rows of class c with replacement gives Binomial(n_c, h_c / n_c) hits, so only counts are drawn; for k
    classes of a group with the same n and h, their sum is Binomial(k n, h / n), so only once for all of them.
    """
    rng = np.random.default_rng(seed)
    kinds, classes = np.unique(np.stack([_group_of(totals, groups), totals, hits]), axis=1, return_counts=True)
    kinds, classes = kinds[:, kinds[1] > 0].astype(np.int64), classes[kinds[1] > 0]
    drawn = rng.binomial(classes * kinds[1], kinds[2] / kinds[1], size=(num, len(classes)))
    values = _figures(drawn, kinds[1], kinds[0], classes)
    tails = [(1 - level) / 2, (1 + level) / 2]
    bounds = [np.quantile(row, tails) if not np.isnan(row[0]) else (np.nan, np.nan) for row in values]
    return {name: (float(low), float(high)) for name, (low, high) in zip(FIGURES, bounds, strict=True)}


def _group_of(totals: Array, groups: ShotGroups | None) -> Array:
    """0, 1, 2 for many, medium, few; 3 where the training counts are not known; (C,)."""
    if groups is None:
        return np.full(len(totals), 3)
    return np.select([groups.many, groups.medium], [0, 1], 2)


def _figures(hits: Array, totals: Array, group: Array, classes: Array) -> Array:
    """(5, K) from hits (K, M), for M kinds of class: rows per class, its group, how many classes are of the kind."""
    accuracy = hits / np.maximum(totals, 1)  # the sum over the classes of the kind
    present = totals > 0
    values = np.full((len(FIGURES), len(hits)), np.nan)
    for index, members in enumerate([*(present & (group == g) for g in range(3)), present]):
        if members.any():
            values[index] = accuracy[:, members].sum(axis=1) / classes[members].sum()
    if present.any():
        values[4] = hits.sum(axis=1) / (totals * classes).sum()
    return values
