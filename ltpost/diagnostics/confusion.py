"""Which group rows are taken for: a 3 x 3 matrix of many, medium and few (``scores.confusion``).

Costs one pass over the scores.
"""

from __future__ import annotations

import numpy as np

from ltpost.data.priors import GROUPS
from ltpost.diagnostics import pictures
from ltpost.diagnostics.finding import Finding
from ltpost.diagnostics.subject import Subject
from ltpost.scores.confusion import taken_for


def confusion(subject: Subject) -> Finding:
    """Share of the rows of a group (mean over its classes) that are taken for many, medium and few, and are right."""
    shares = dict(zip(GROUPS, taken_for(subject.labels, subject.answers.predicted, subject.groups).T, strict=True))
    rows = subject.group_means(*shares.values(), subject.accuracy)
    names = [str(row[0]) for row in rows]
    matrix = np.array([row[1:4] for row in rows], dtype=np.float64)
    return Finding(
        "confusion",
        "which group the rows of a group are taken for (mean over its classes)",
        ["true group", *(f"as {name}" for name in GROUPS), "right"],
        rows,
        {name: dict(zip((*GROUPS, "right"), row[1:], strict=True)) for name, row in zip(names, rows, strict=True)},
        lambda ax: pictures.group_matrix(names, GROUPS, matrix, ("true group", "taken for"), ax),
        {f"as_{name}": share for name, share in shares.items()},
    )
