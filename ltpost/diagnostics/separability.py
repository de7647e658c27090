"""Fisher's discriminant ratio: FDR = tr(S_W⁻¹ S_B).

S_W = Σ_i (x_i - m_y)(x_i - m_y)ᵀ, S_B = Σ_c n_c (m_c - m)(m_c - m)ᵀ around the mean m of all rows (Hasegawa and Sato,
ICLR 2024, Section 3; n_c counts the rows of this split). Costs two passes over the features, the second with N D²
products, and D² memory.

NOTE[DIFF]: their code drops features that are constant over all rows, by a rule that depends on the first row; here
features that do not vary within the classes are dropped, which leaves S_W as invertible.
"""

from __future__ import annotations

import numpy as np

from ltpost.diagnostics import pictures
from ltpost.diagnostics.finding import Finding
from ltpost.diagnostics.subject import Subject


def separability(subject: Subject) -> Finding:
    """The ratio, and what every class adds to it: n_c (m_c - m)ᵀ S_W⁻¹ (m_c - m). NaN where S_W is singular."""
    scatter = subject.within_scatter
    spread = np.diag(scatter)
    varies = spread > 1e-12 * spread.max(initial=0.0)
    weights = subject.totals / subject.totals.sum()
    means = np.where(subject.present[:, None], subject.means, 0.0)
    centred = (means - weights @ means)[:, varies]
    distance = np.full(subject.num_classes, np.nan)
    kept = scatter[np.ix_(varies, varies)]
    if varies.any() and np.linalg.matrix_rank(kept, hermitian=True) == len(kept):
        solved = np.linalg.solve(kept, centred.T).T
        distance[subject.present] = (centred * solved).sum(axis=1)[subject.present]
    added = subject.totals * distance
    total = float(np.sum(added[subject.present]))
    rows = subject.group_means(added, distance * len(subject.rows))
    rows.append(["FDR", total, np.nan])
    return Finding(
        "separability",
        "Fisher's discriminant ratio, tr(S_W⁻¹ S_B); means over the classes of a group",
        ["group", "added to FDR", "distance² from the mean"],
        rows,
        {"fdr": total, "features_left_out": int((~varies).sum())},
        lambda ax: pictures.against_counts(
            subject.counts, {"distance": distance * len(subject.rows)}, "squared Mahalanobis distance", ax=ax
        ),
        {"added": added, "distance": distance * len(subject.rows)},
    )
