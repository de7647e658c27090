"""How well the weights point to the features of their class.

Two cosines per class: of w_c with the mean m_c - μ (self-duality, as NC3 but per class; μ is the mean of the class
means), and the mean over the rows of class c of cos(x, w_c), features not centred (Hasegawa and Sato, ICLR 2024).
Costs two passes over the features.
"""

from __future__ import annotations

import numpy as np

from ltpost.diagnostics import pictures
from ltpost.diagnostics.finding import Finding, correlation
from ltpost.diagnostics.subject import Subject, per_row, unit_rows


def alignment(subject: Subject) -> Finding:
    """Both cosines per class and group, and the slope of each against log n_c."""
    weight = unit_rows(subject.linear.weight.astype(np.float64))
    centred = subject.means - np.nanmean(subject.means, axis=0)
    to_mean = (weight * unit_rows(centred)).sum(axis=1)
    to_rows = (weight * per_row(subject.directions[0], subject.totals[:, None])).sum(axis=1)
    lines = {name: correlation(subject.log_counts, v) for name, v in (("to_mean", to_mean), ("to_rows", to_rows))}
    rows = subject.group_means(to_mean, to_rows)
    rows.append(["slope on log n", *(slope for slope, _ in lines.values())])
    rows.append(["R²", *(fit for _, fit in lines.values())])
    return Finding(
        "alignment",
        "cosine of weights with the centred mean of their class, and with its rows",
        ["group", "to the mean", "to the rows"],
        rows,
        {name: {"slope": slope, "r2": fit} for name, (slope, fit) in lines.items()},
        lambda ax: pictures.against_counts(
            subject.counts, {"to the mean": to_mean, "to the rows": to_rows}, "cosine", ax=ax
        ),
        {"to_mean": to_mean, "to_rows": to_rows},
    )
