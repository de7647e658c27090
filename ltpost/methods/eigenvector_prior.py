"""Eigenvector prior (Zhu et al., "Generalized Logit Adjustment", NeurIPS 2023, arXiv:2310.08106, version 3).

The prior that a model must have learned, from its mean prediction on each class (code in Frolic, NeurIPS 2024):

    P[j, k] = mean of softmax(z)_j over rows labelled k,   q = P q,   Σ q = 1,   argmax_c  z_c - τ log q_c

What it does not do: need training counts, which nobody has for a foundation model. Memory: one C x C matrix in float32,
265 MB at the size of iNaturalist 2018.
"""

from __future__ import annotations

from ltpost.data.features import FeatureSet
from ltpost.family import Family
from ltpost.heads import Head
from ltpost.method import Method
from ltpost.methods.tau_norm import GRID
from ltpost.scores.posteriors import class_posteriors, safe_log, stationary


def eigenvector_prior(val: FeatureSet, joint: Head) -> Family:
    """Subtracts the log of the prior that reproduces itself through the model's mean predictions.

    Args:
        val: labelled rows to average over.
        joint: the joint classifier, or one that reads its logits.

    Returns:
        Heads along τ, usually 0..2.

    NOTE[DIFF]: the paper has τ = 1 (``--tau-grid 1``). A class without a row gets the mean of all rows as its column.
    The reference stops at a change of 1e-3 or after 100 steps; here at 1e-7, or after 10,000.
    """
    return Family.affine(joint, safe_log(stationary(*class_posteriors(val, joint, val.labels))))


METHOD = Method(
    "eigenprior",
    eigenvector_prior,
    title="eigenvector prior",
    label="eigen-prior",
    equation="z_c - τ log q_c, q = P q",
    source="Zhu et al., NeurIPS 2023",
    chosen="τ",
    grid=GRID,
    how="one pass, exact sweep",
    example="ltpost eigenprior",
)
