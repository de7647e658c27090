"""BBSE, black-box shift estimation (Lipton, Wang, Smola, ICML 2018, arXiv:1802.03916).

    K q = μ,    K[i, j] = P(predicted i | class j) on val,  μ = mean prediction on the rows to classify
    argmax_c  z_c - log π_c + log q_c

It looks at all rows that it classifies (transductive). Predictions are those of the classifier adjusted to a uniform
prior, which tell rare classes apart better than those of the joint one; any fixed classifier will do for K q = μ.
Cost: two passes and a C x C system. At the size of iNaturalist 2018 this takes 1.6 GB, and O(C³) steps: a minute with a
ridge, ten without, where the singular values are found too.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ltpost.data.features import FeatureSet
from ltpost.data.priors import log_prior
from ltpost.data.unlabelled import UnlabelledRows
from ltpost.errors import UsageError
from ltpost.family import Family
from ltpost.heads import Array, Head, RescaledHead
from ltpost.method import Method
from ltpost.methods.label_shift import not_empty, shifted
from ltpost.scores.label_shift import confusion, mean_prediction
from ltpost.scores.posteriors import safe_log

#: of K, beyond which noise in it is amplified so much that a note says so
CONDITION = 30.0


def black_box_shift(
    val: FeatureSet,
    target: UnlabelledRows,
    joint: Head,
    class_counts: Array,
    *,
    predictions: Literal["hard", "soft"] = "hard",
    ridge: float = 0.0,
) -> Family:
    """Finds the class prior of the rows to classify from how val rows are confused, and adjusts to it.

    Args:
        val: labelled rows, of any class prior.
        target: the rows to classify, without labels.
        joint: the joint classifier, or one that reads its logits.
        class_counts: (C,) training samples per class, all positive.
        predictions: hard: predicted classes; soft: posteriors.
        ridge: pull towards the uniform prior, as a share of the greatest eigenvalue of KᵀK; 0.01 helps where classes
            have few val rows.

    Returns:
        One head.

    Raises:
        DataError: a class without training samples, or no rows.
        UsageError: a negative ridge.

    NOTE[DIFF]: negative entries of the solution become 0, and all are floored at 1e-8. A class without a val row
    gets the share of the uniform prior.
    """
    if not ridge >= 0:
        raise UsageError(f"ridge= must be 0 or more, but is {ridge:g}")
    log_pi = log_prior(class_counts)
    box = RescaledHead(joint, offset=-log_pi)
    table, present = confusion(val, box, predictions)
    share, condition = solve_prior(table, mean_prediction(not_empty(target), box, predictions), present, ridge)
    log_q = safe_log(share)
    notes = (
        f"K is nearly singular (condition number {condition:.0f}), so that q is noise in part; give a ridge of 0.01",
    )
    return shifted(joint, log_q - log_pi, log_q, class_counts, *(notes if condition > CONDITION else ()))


def solve_prior(
    table: NDArray[np.float64], mean: NDArray[np.float64], present: NDArray[np.bool_], ridge: float
) -> tuple[NDArray[np.float64], float]:
    """The prior q ≥ 0 with K q = μ in least squares, pulled to uniform by ``ridge``, and the condition number of K.

    The condition number is known without a ridge only; with one it is given as 1.

    >>> solve_prior(np.array([[0.9, 0.2], [0.1, 0.8]]), np.array([0.55, 0.45]), np.array([True, True]), 0.0)[0]
    array([0.5, 0.5])
    """
    classes, condition = len(mean), 1.0
    prior = np.full(classes, 1 / classes)
    if present.any():
        part = table[:, present]
        rest = mean - table[:, ~present] @ prior[~present]
        if ridge:
            gram = part.T @ part
            pull = ridge * _greatest_eigenvalue(gram)
            right = part.T @ rest + pull * prior[present]
            gram[np.diag_indices_from(gram)] += pull
            solution = np.linalg.solve(gram, right)
        else:
            solution, _, _, singular = np.linalg.lstsq(part, rest, rcond=None)
            condition = float(singular[0] / singular[-1]) if singular[-1] > 0 else np.inf
        prior[present] = solution
    prior = np.maximum(prior, 0.0)
    total = prior.sum()
    return (prior / total if total > 0 else np.full(classes, 1 / classes)), condition


def _greatest_eigenvalue(gram: NDArray[np.float64], steps: int = 100) -> float:
    """Of a symmetric matrix without negative entries, by power iteration."""
    vector = np.ones(len(gram))
    for _ in range(steps):
        vector = gram @ vector
        vector /= np.linalg.norm(vector) or 1.0
    return float(vector @ gram @ vector)


METHOD = Method(
    "bbse",
    black_box_shift,
    title="black-box shift estimation",
    label="BBSE",
    equation="z_c - log π_c + log q_c, K q = μ",
    source="Lipton et al., ICML 2018",
    how="least squares, two passes",
    example="ltpost bbse --predictions soft --ridge 0.01",
)
