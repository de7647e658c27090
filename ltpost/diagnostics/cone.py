"""The cone effect: features of different classes point the same way (Hasegawa and Sato, ICLR 2024, Section 4).

cos(i, j) is the mean cosine between the features, not centred, of a row of class i and one of class j. With a_c the
mean of x / ‖x‖ over class c it is a_i · a_j, so sums over pairs of classes follow from sums of a_c: no C x C matrix.
Costs one pass over the features.

NOTE[DIFF]: pairs of a row with itself are left out of the mean within a class.
"""

from __future__ import annotations

import numpy as np

from ltpost.diagnostics import pictures
from ltpost.diagnostics.finding import Finding
from ltpost.diagnostics.subject import Subject, mean_of_known, per_row


def cone(subject: Subject) -> Finding:
    """Mean cosine between different classes, by group and group, and within classes."""
    sums, _ = subject.directions
    totals = subject.totals
    means = np.where(subject.present[:, None], per_row(sums, totals[:, None]), 0.0)
    own = (means**2).sum(axis=1)
    pairs = totals * (totals - 1.0)
    within = per_row((sums**2).sum(axis=1) - totals, pairs)
    members = subject.members()
    names = list(members)
    between = np.array([[_between(means, own, members[a], members[b]) for b in names] for a in names])
    rows = [[*row, *cosines] for row, cosines in zip(subject.group_means(within), between.tolist(), strict=True)]
    return Finding(
        "cone",
        "mean cosine of features: within a class, and between different classes of two groups",
        ["group", "within", *(f"to {name}" for name in names)],
        rows,
        {"between": float(between[-1, -1]), "within": mean_of_known(within), "groups": names, "matrix": between},
        lambda ax: pictures.group_matrix(names, names, between, ("classes of", "and other classes of"), ax),
        {"within": within},
    )


def _between(means: np.ndarray, own: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    """Mean of means_i · means_j over i in a, j in b, i not j."""
    both = a & b
    pairs = int(a.sum()) * int(b.sum()) - int(both.sum())
    total = means[a].sum(axis=0) @ means[b].sum(axis=0) - own[both].sum()
    return float(total / pairs) if pairs else np.nan
