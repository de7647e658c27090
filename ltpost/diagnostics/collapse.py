"""Neural collapse, NC1 to NC4, as Papyan, Han and Donoho (PNAS 2020) and their code measure it.

μ is the mean of the class means, not of the rows; m_c are the class means of this split; C counts its classes.

    NC1  tr(S_W S_B⁺) / C    S_W = Σ_i (x_i - m_y)(·)ᵀ / N,  S_B = Σ_c (m_c - μ)(·)ᵀ / C
    NC2  std / mean of ‖m_c - μ‖ and of ‖w_c‖ (equal norms); mean over pairs of |cos + 1 / (C - 1)| (equal angles)
    NC3  ‖W / ‖W‖ - M / ‖M‖‖²  with M the matrix of m_c - μ
    NC4  share of rows that the head and the nearest class mean classify differently

All are 0 in full collapse. Variants with the mean of the rows for μ give other values on long-tailed rows. Costs two
passes over the features with N D² products, two over scores, C² D products for the angles; D² memory.

NOTE[DIFF]: NC1 is divided by C as in the paper (Figure 6); the repository neuralcollapse/neuralcollapse does not.
"""

from __future__ import annotations

import numpy as np

from ltpost.diagnostics import pictures
from ltpost.diagnostics.finding import Finding
from ltpost.diagnostics.subject import Subject, per_row, unit_rows
from ltpost.heads import Array, LinearHead
from ltpost.scores.predict import predict

_ROWS = 1024  # of the matrix of cosines at a time


def collapse(subject: Subject) -> Finding:
    """NC1 to NC4, and per class the share of rows on which the nearest mean disagrees."""
    present = np.flatnonzero(subject.present)
    weight = subject.linear.weight[present].astype(np.float64)
    means = subject.means[present]
    centred = means - means.mean(axis=0)
    scatter = subject.within_scatter / len(subject.rows)
    nearest = LinearHead(centred, -0.5 * (centred * (means + means.mean(axis=0))).sum(axis=1))
    differs = present[predict_among(nearest, subject)] != subject.answers.predicted
    per_class = per_row(np.bincount(subject.labels, differs, subject.num_classes), subject.totals)
    values = {
        "nc1": _nc1(scatter, centred),
        "nc2_norms_of_means": _variation(np.linalg.norm(centred, axis=1)),
        "nc2_norms_of_weights": _variation(np.linalg.norm(weight, axis=1)),
        "nc2_angles_of_means": equal_angles(centred),
        "nc2_angles_of_weights": equal_angles(weight),
        "nc3": _distance(weight, centred),
        "nc4": float(differs.mean()),
    }
    words = {
        "nc1": "NC1, scatter within / between",
        "nc2_norms_of_means": "NC2, norms of means",
        "nc2_norms_of_weights": "NC2, norms of weights",
        "nc2_angles_of_means": "NC2, angles of means",
        "nc2_angles_of_weights": "NC2, angles of weights",
        "nc3": "NC3, weights against means",
        "nc4": "NC4, rows unlike the nearest mean",
    }
    return Finding(
        "collapse",
        "neural collapse (Papyan et al. 2020; around the mean of the class means; 0 is full collapse)",
        ["", "value"],
        [[words[name], value] for name, value in values.items()],
        values,
        lambda ax: pictures.against_counts(subject.counts, {"NC4": per_class}, "rows unlike the nearest mean", ax=ax),
        {"nc4": per_class},
    )


def predict_among(head: LinearHead, subject: Subject) -> Array:
    """The greatest score of a head that may have fewer classes than the rows."""
    if head.num_classes == subject.num_classes:
        return predict(head, subject.rows)
    best = np.empty(len(subject.rows), np.int64)
    for part, block in subject.rows.feature_blocks():
        best[part] = head.logits(block).argmax(axis=1)
    return best


def _nc1(scatter: Array, centred: Array) -> float:
    """tr(S_W S_B⁺) / C from the singular vectors of M: S_B = Mᵀ M / C."""
    classes = len(centred)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    kept = singular > singular.max(initial=0.0) * 1e-10
    kept[classes - 1 :] = False  # centred means span C - 1 dimensions
    along = np.einsum("kd,de,ke->k", directions[kept], scatter, directions[kept], optimize=True)
    return float((along * classes / singular[kept] ** 2).sum() / classes)


def _variation(norms: Array) -> float:
    """Standard deviation over mean."""
    return float(norms.std(ddof=1) / norms.mean()) if len(norms) > 1 and norms.mean() > 0 else float("nan")


def equal_angles(matrix: Array) -> float:
    """Mean over pairs of rows of |cos + 1 / (C - 1)|, a block of rows at a time."""
    classes = len(matrix)
    if classes < 2:
        return float("nan")
    directions, ideal, total = unit_rows(matrix), 1 / (classes - 1), 0.0
    for start in range(0, classes, _ROWS):
        cosines = directions[start : start + _ROWS] @ directions.T
        away = np.abs(cosines + ideal)
        away[np.arange(len(away)), np.arange(start, start + len(away))] = 0.0
        total += float(away.sum())
    return total / (classes * (classes - 1))


def _distance(weight: Array, centred: Array) -> float:
    """Squared distance of two matrices of norm 1; not defined where one of them is 0, as with one class."""
    norms = np.linalg.norm(weight), np.linalg.norm(centred)
    if not all(norms):
        return float("nan")
    return float(((weight / norms[0] - centred / norms[1]) ** 2).sum())
