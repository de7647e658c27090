"""MAPLS: EM for label shift with a Dirichlet prior (Ye, Tsuchida, Petersson, Barnes, WACV 2024).

    q <- λ mean_i softmax(z_i - log π + log q) + (1 - λ) / C

λ is the paper's rule, from three distances (KL divergences): of π from uniform, of the maximum likelihood q from
uniform, and of it from π. See ``label_shift`` for EM alone (λ = 1).
"""

from __future__ import annotations

import numpy as np

from ltpost.data.priors import log_prior
from ltpost.data.unlabelled import UnlabelledRows
from ltpost.errors import UsageError
from ltpost.family import Family
from ltpost.heads import Array, Head
from ltpost.method import Method
from ltpost.methods.label_shift import one_row, shifted, stopped
from ltpost.scores.label_shift import maximum_likelihood


def label_shift_map(target: UnlabelledRows, joint: Head, class_counts: Array, *, trust: float | None = None) -> Family:
    """Finds the class prior of the rows to classify by EM, pulled towards the uniform one, and adjusts to it.

    Args:
        target: the rows to classify, without labels.
        joint: the joint classifier, or one that reads its logits.
        class_counts: (C,) training samples per class, all positive.
        trust: λ, how much the rows count against the uniform prior, above 0 to 1. Default by the rule of the paper.

    Returns:
        One head.

    Raises:
        DataError: a class without training samples, or no rows.
        UsageError: a trust that is not above 0 and at most 1.
    """
    log_pi = log_prior(class_counts)
    if trust is None:
        likeliest, _, _ = maximum_likelihood(target, joint, log_pi, uniform_share=one_row(target))
        trust = rule(log_pi, likeliest)
    if not 0 < trust <= 1:
        raise UsageError(f"trust= must be above 0 and at most 1, but is {trust:g}")
    log_q, passes, converged = maximum_likelihood(target, joint, log_pi, uniform_share=max(1 - trust, one_row(target)))
    notes = (f"trust {trust:.3f}", *stopped(passes, converged))
    return shifted(joint, log_q - log_pi, log_q, class_counts, *notes)


def rule(log_pi: Array, log_q: Array) -> float:
    """λ from the training prior and the maximum likelihood prior, both (C,) logarithms.

    g(k, v) = v k / (1 + v k)
    v_0 = (1 / (1 - 0.2) - 1) / 0.5,  S = 1 - g(KL(π ‖ u), v_0),  v_1 = (1 / (1 - S) - 1) / 0.5
    λ = 0.9 g(KL(q ‖ u), v_1) + 0.1 (1 - g(KL(q ‖ π), v_1))
    """
    uniform = np.full(len(log_pi), -np.log(len(log_pi)))

    def divergence(one: Array, other: Array) -> float:
        return max(0.0, float(np.exp(one) @ (one - other)))

    def grown(distance: float, speed: float) -> float:
        return 1 - 1 / (1 + speed * distance)

    start = (1 / (1 - 0.2) - 1) / 0.5
    shape = grown(divergence(log_pi, uniform), start)  # 1 - S
    speed = (1 / max(shape, 1e-12) - 1) / 0.5
    return 0.9 * grown(divergence(log_q, uniform), speed) + 0.1 * (1 - grown(divergence(log_q, log_pi), speed))


METHOD = Method(
    "map-em",
    label_shift_map,
    title="maximum a posteriori label shift",
    label="MAP-EM",
    equation="z_c - log π_c + log q_c",
    source="Ye et al., WACV 2024",
    how="EM twice",
    example="ltpost map-em --trust 0.9",
)
