"""Prior2Posterior (Bhat et al., "Prior2Posterior: Model Prior Correction …", WACV 2025, arXiv:2412.16540).

Logit adjustment by the prior that the model has, not the one that its data had:

    argmax_c  z_c - τ (log p_c - log π'_c),   p = mean of softmax(z / T) over training rows

At the optimum of plain cross entropy with a bias, p is the class prior of the training set; after weight decay, mixup
or a margin loss it is another one. What it does not do: say which rows to average over, as the paper's own are not
known to us. ``p2p`` takes the training rows, ``p2p-val`` the val rows, without their labels.
"""

from __future__ import annotations

from ltpost.data.features import FeatureSet
from ltpost.data.priors import log_target_prior
from ltpost.errors import UsageError
from ltpost.family import Family
from ltpost.heads import Array, Head
from ltpost.method import Method
from ltpost.methods.tau_norm import GRID
from ltpost.scores.posteriors import mean_posterior, safe_log


def prior_to_posterior(
    train: FeatureSet, joint: Head, class_counts: Array, *, temperature: float = 1.0, target_prior: str = "uniform"
) -> Family:
    """Subtracts the log of the model's own mean prediction on training rows.

    Args:
        train: training logits (N, C), or features and the joint classifier; labels are not used.
        joint: the joint classifier, or one that reads its logits.
        class_counts: (C,) training samples per class; for target priors only.
        temperature: T, divides the logits before the softmax.
        target_prior: class prior of the rows to classify: uniform, train, forward-50 or backward-50 (long-tailed, with
            any factor), numbers such as 0.9,0.1, or a file of C numbers.

    Returns:
        Heads along τ, usually 0..2.

    Raises:
        UsageError: a temperature that is not positive, or a target prior that is none of these.

    NOTE[DIFF]: the paper has τ = 1 (``--tau-grid 1``).
    """
    if not temperature > 0:
        raise UsageError(f"temperature= must be positive, but is {temperature:g}")
    effective = safe_log(mean_posterior(train, joint, 1 / temperature))
    return Family.affine(joint, effective - log_target_prior(target_prior, class_counts))


METHOD = Method(
    "p2p",
    prior_to_posterior,
    title="effective prior of train",
    label="P2P",
    equation="z_c - τ log p_c",
    source="Bhat et al., WACV 2025",
    chosen="τ",
    grid=GRID,
    how="one pass, exact sweep",
    example="ltpost p2p --temperature 1.5",
)
