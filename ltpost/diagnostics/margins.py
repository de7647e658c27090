"""Margins: the score of the true class less the greatest of the others, z_y - max_{c ≠ y} z_c, per group.

Above 0 where the row is right. Scores of different heads have different scales; compare signs and shapes, or one head
between groups. Costs one pass over the scores.
"""

from __future__ import annotations

import numpy as np

from ltpost.diagnostics import pictures
from ltpost.diagnostics.finding import Finding
from ltpost.diagnostics.subject import Subject, mean_of_known, per_row

_SHARES = (0.1, 0.5, 0.9)


def margins(subject: Subject) -> Finding:
    """Mean over the classes of a group, and quantiles over its rows."""
    margin = subject.answers.margin
    mean = per_row(np.bincount(subject.labels, margin, subject.num_classes), subject.totals)
    rows: list[list[str | float]] = []
    values: dict[str, dict[str, float]] = {}
    for name, classes in subject.members().items():
        inside = margin[classes[subject.labels]]
        with np.errstate(invalid="ignore"):  # one class has no other: its margins are infinite
            quantiles = np.quantile(inside, _SHARES).tolist()
        figures = [mean_of_known(mean[classes]), *quantiles, float((inside > 0).mean())]
        values[name] = dict(zip(("mean", "q10", "q50", "q90", "positive"), figures, strict=True))
        rows.append([name, *figures])
    shown = {"10 %": "q10", "median": "q50", "90 %": "q90"}
    return Finding(
        "margins",
        "margins z_y - max of the others: mean over classes, quantiles over rows, share above 0",
        ["group", "mean", "10 %", "median", "90 %", "above 0"],
        rows,
        values,
        lambda ax: pictures.by_group(
            {word: {group: of[key] for group, of in values.items()} for word, key in shown.items()}, "margin", ax=ax
        ),
        {"mean": mean},
    )
