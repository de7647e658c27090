"""Which group rows are taken for: a 3 x 3 matrix of many, medium and few.

The rows of each class are normalised, averaged over the true classes of a group and summed over the predicted classes
of a group (Hasegawa and Sato, ICLR 2024). No C x C matrix.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ltpost.data.priors import GROUPS, ShotGroups
from ltpost.heads import Array


def taken_for(labels: NDArray[np.int64], predicted: Array, groups: ShotGroups) -> Array:
    """Share of the rows of each class that are taken for many, medium and few, (C, 3); NaN for classes without rows.

    Args:
        labels: (N,).
        predicted: (N,).
        groups: of the C classes.
    """
    classes = len(groups.many)
    totals = np.bincount(labels, minlength=classes)
    shares = [np.bincount(labels, getattr(groups, name)[predicted], classes) for name in GROUPS]
    with np.errstate(invalid="ignore"):
        result: Array = np.stack(shares, axis=1) / totals[:, None]
    return result


def group_matrix(labels: NDArray[np.int64], predicted: Array, groups: ShotGroups) -> Array:
    """The mean of :func:`taken_for` over the classes of each true group that have rows, (3, 3); NaN without any.

    >>> from ltpost.data.priors import shot_groups
    >>> group_matrix(np.array([0, 0, 1, 2]), np.array([0, 2, 1, 0]), shot_groups(np.array([500, 50, 5])))
    array([[0.5, 0. , 0.5],
           [0. , 1. , 0. ],
           [1. , 0. , 0. ]])
    """
    shares = taken_for(labels, predicted, groups)
    present = ~np.isnan(shares).any(axis=1)
    matrix = np.full((len(GROUPS), len(GROUPS)), np.nan)
    for row, name in zip(matrix, GROUPS, strict=True):
        members = getattr(groups, name) & present
        if members.any():
            row[:] = shares[members].mean(axis=0)
    return matrix
