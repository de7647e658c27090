"""Prior2Posterior with the mean prediction on val rows: see ``prior_to_posterior``.

On rows the network was not trained on its mean prediction is not that of the training set. Where val is balanced, p is
how often each class is predicted although all are equally frequent.
"""

from __future__ import annotations

from ltpost.data.features import FeatureSet
from ltpost.family import Family
from ltpost.heads import Array, Head
from ltpost.method import Method
from ltpost.methods.prior_to_posterior import prior_to_posterior
from ltpost.methods.tau_norm import GRID


def prior_to_posterior_val(
    val: FeatureSet, joint: Head, class_counts: Array, *, temperature: float = 1.0, target_prior: str = "uniform"
) -> Family:
    """Subtracts the log of the model's own mean prediction on val rows.

    Args:
        val: rows to average over; labels are not used.
        joint: the joint classifier, or one that reads its logits.
        class_counts: (C,) training samples per class; for target priors only.
        temperature: T, divides the logits before the softmax.
        target_prior: class prior of the rows to classify: uniform, train, forward-50 or backward-50 (long-tailed, with
            any factor), numbers such as 0.9,0.1, or a file of C numbers.

    Returns, raises:
        As :func:`~ltpost.methods.prior_to_posterior.prior_to_posterior`.
    """
    return prior_to_posterior(val, joint, class_counts, temperature=temperature, target_prior=target_prior)


METHOD = Method(
    "p2p-val",
    prior_to_posterior_val,
    title="effective prior of val",
    label="P2P (val)",
    equation="z_c - τ log p_c",
    source="Bhat et al., WACV 2025",
    chosen="τ",
    grid=GRID,
    how="one pass, exact sweep",
    example="ltpost p2p-val --temperature 1.5",
)
