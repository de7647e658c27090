"""The class prior of unlabelled rows, from what a classifier says of them.

    likelihood    q maximises Σ_i log Σ_c q_c p_c(x_i) / π_c      by EM, on the rows themselves
    moments       K q = μ    K[i, j] = P(predicted i | class j) on labelled rows, μ the mean prediction on the rows

All sums are in float64, all priors are logarithms; the rows are read in blocks, once for each step of EM.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from ltpost.heads import Array, Head
from ltpost.heads.blocks import score_blocks
from ltpost.scores.posteriors import Passes, softmax

if TYPE_CHECKING:
    from ltpost.data.features import FeatureSet
    from ltpost.data.unlabelled import UnlabelledRows

Kind = Literal["hard", "soft"]
TOLERANCE = 1e-5
MOST_PASSES = 300


def maximum_likelihood(
    rows: UnlabelledRows,
    head: Head,
    log_source: Array,
    *,
    uniform_share: float = 0.0,
    tolerance: float = TOLERANCE,
    most: int = MOST_PASSES,
) -> tuple[NDArray[np.float64], int, bool]:
    """Log q by EM: q <- (1 - u) mean_i softmax(z_i - log π + log q) + u / C.

    Two steps of EM are followed by a longer one along them, which counts if the likelihood rises: squared iterative
    methods (Varadhan and Roland, Scand. J. Statist. 35, 2008), with the change of log q weighted by q.

    Args:
        rows: N unlabelled rows, N > 0.
        head: its logits are z, and softmax(z) a posterior under the prior π.
        log_source: (C,) log π.
        uniform_share: u < 1, 0 for maximum likelihood; more for the maximum a posteriori of a Dirichlet prior.
        tolerance: stop when a step changes q by at most this, in the L1 norm; as q sums to 1, this is relative.
        most: give up after so many passes.

    Returns:
        log q, (C,); the passes over the rows; whether the tolerance was reached.

    Source: Saerens, Latinne, Decaestecker, "Adjusting the outputs of a classifier to new a priori probabilities",
    Neural Computation 14 (2002), equation 2.9.
    """
    blocks, classes = Passes([(head, rows)]), head.num_classes
    pull = uniform_share / (1 - uniform_share) * len(rows)  # C (α - 1), of the Dirichlet prior
    passes = 0

    def step(log_prior: Array) -> tuple[Array, float]:
        """The next log q, and the log-likelihood of this one."""
        nonlocal passes
        passes += 1
        total, likelihood = np.zeros(classes), 0.0
        for _, _, scores in blocks:
            posterior, log_total = softmax(scores, log_prior - log_source)
            total += posterior.sum(axis=0)
            likelihood += float((log_total - _log_total(scores)).sum())
        mean = (1 - uniform_share) * total / total.sum() + uniform_share / classes
        with np.errstate(divide="ignore"):
            following: Array = np.log(mean)
        return np.maximum(following, -700.0), likelihood + pull * float(np.mean(log_prior))

    current, following = np.asarray(log_source), step(log_source)[0]
    while True:
        if np.abs(np.exp(following) - np.exp(current)).sum() <= tolerance:
            return following, passes, True
        if passes + 3 > most:
            return following, passes, False
        third, reached = step(following)
        first = following - current
        second = third - following - first
        weight = np.exp(following)
        bend = np.sqrt(weight @ np.square(second))
        length = max(1.0, float(np.sqrt(weight @ np.square(first)) / bend)) if bend > 0 else 1.0
        longer = current + 2 * length * first + length**2 * second
        longer = np.maximum(longer - _log_sum(longer), -700.0)
        after, value_there = step(longer)
        if length > 1 and value_there >= reached:
            current, following = longer, after
        else:
            current, following = third, step(third)[0]


def _log_total(scores: Array) -> Array:
    values = scores.astype(np.float64)
    highest = values.max(axis=1, keepdims=True)
    total: Array = highest[:, 0] + np.log(np.exp(values - highest).sum(axis=1))
    return total


def _log_sum(values: Array) -> float:
    highest = values.max()
    return float(highest + np.log(np.exp(values - highest).sum()))


def confusion(rows: FeatureSet, head: Head, kind: Kind) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """K, (C, C): column j is the mean prediction on rows of class j; and which classes have a row, (C,).

    A class without a row has a column of zeros. Memory: C x C float64, 530 MB at C = 8,142.
    """
    classes = head.num_classes
    sums = np.zeros((classes, classes))  # row j for class j
    for part, scores in score_blocks(head, rows):
        labels = rows.labels[part]
        if kind == "hard":
            np.add.at(sums, (labels, scores.argmax(axis=1)), 1.0)
        else:
            order = np.argsort(labels, kind="stable")
            present, first = np.unique(labels[order], return_index=True)
            sums[present] += np.add.reduceat(softmax(scores[order])[0], first, axis=0)
    counts = np.bincount(rows.labels, minlength=classes)
    return (sums / np.maximum(counts, 1)[:, None]).T, counts > 0


def mean_prediction(rows: UnlabelledRows, head: Head, kind: Kind) -> NDArray[np.float64]:
    """μ, (C,): the mean prediction on rows, as posteriors (soft) or as predicted classes (hard)."""
    total = np.zeros(head.num_classes)
    for _, scores in score_blocks(head, rows):
        if kind == "hard":
            total += np.bincount(scores.argmax(axis=1), minlength=head.num_classes)
        else:
            total += softmax(scores)[0].sum(axis=0)
    return total / max(1, len(rows))
