"""The figures of the field, from hits per class: Many | Medium | Few | All | Top-1.

All numbers are fractions in 0..1. ``all`` is the mean of the per-class accuracies (balanced accuracy) over the
classes that the split has, ``many``, ``medium`` and ``few`` the same within a group, ``top1`` the share of correct
rows. An empty group is NaN.

NOTE[DIFF]: the reference code (classifier-balancing, ``shot_acc``) reports an empty group as 0.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
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


def class_weights(totals: Array, groups: ShotGroups | None) -> Array:
    """What the accuracy of a class adds to each figure, (5, C) in the order of ``FIGURES``; NaN for empty groups.

    Args:
        totals: (C,), rows per class.
        groups: None where the training counts are not known.
    """
    present = totals > 0
    weights = np.full((len(FIGURES), len(totals)), np.nan)
    for row, name in zip(weights, FIGURES, strict=True):
        members = present
        if name in GROUPS:
            members = np.zeros_like(present) if groups is None else present & getattr(groups, name)
        if members.any():
            row[:] = totals / totals.sum() if name == "top1" else members / members.sum()
    return weights


def row_weights(
    labels: NDArray[np.int64],
    groups: ShotGroups | None,
    num_classes: int,
    multiplicity: Array | None = None,
    only: Collection[str] | None = None,
) -> Array:
    """What a correct row adds to each figure, (5, N) in the order of ``FIGURES``; NaN rows for empty groups.

    Args:
        labels: (N,).
        groups: None where the training counts are not known.
        num_classes: C.
        multiplicity: (N,), how often each row counts (folds); default once.
        only: names of figures; the others are left NaN.
    """
    times = np.ones(len(labels)) if multiplicity is None else multiplicity
    totals = np.bincount(labels, weights=times, minlength=num_classes)
    weights = np.full((len(FIGURES), len(labels)), np.nan)
    for row, name, share in zip(weights, FIGURES, class_weights(totals, groups), strict=True):
        if only is None or name in only:
            row[:] = (share / np.where(totals > 0, totals, 1.0))[labels] * times
    return weights


def selection_score(values: Mapping[str, Array], select: str) -> Array:
    """The figure that a choice maximises, from figures by name; ``harmonic`` is their harmonic mean over the groups.

    Raises:
        DataError: the figure is not defined here (no training counts, or an empty group).
    """
    if select == "harmonic":
        known = [values[name] for name in GROUPS if not np.isnan(values[name]).any()]
        with np.errstate(divide="ignore"):
            score = len(known) / np.sum([1 / np.abs(value) for value in known], axis=0) if known else values["many"]
    else:
        score = values[select]
    if np.isnan(score).any():
        raise DataError(
            f"select= {select} is not defined here: the split has no class of that group, or class_counts are missing"
        )
    return score


def figures(hits: Array, totals: Array, groups: ShotGroups | None) -> Figures:
    """Figures from correct rows and rows per class, both (C,)."""
    accuracy = hits / np.maximum(totals, 1)
    return Figures(*(float(weights @ accuracy) for weights in class_weights(totals, groups)))
