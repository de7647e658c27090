"""Prior rebalancing, also called IC (Tian et al., NeurIPS 2020, arXiv:2010.11820, Section 3.2).

Paper: "Posterior Re-calibration for Imbalanced Datasets"; code GT-RIPL/UNO-IC.

    p_c^(1-β) p_rc^β,   p_rc ∝ p_c π'_c / π_c            or   argmax_c  z_c - β (log π_c - log π'_c)

π is the class prior of the training set, π' that of the rows to classify. For a uniform π' this is logit adjustment
with τ = β. What it does not do: combine several networks (their UNO).
"""

from __future__ import annotations

from ltpost.data.priors import log_prior, log_target_prior
from ltpost.family import Family
from ltpost.heads import Array, Head
from ltpost.method import Method

GRID = tuple(round(0.05 * k, 10) for k in range(21))


def prior_rebalancing(joint: Head, class_counts: Array, *, target_prior: str = "uniform") -> Family:
    """Mixes the posterior with the one under another class prior, geometrically.

    Args:
        joint: the joint classifier, or one that reads its logits.
        class_counts: (C,) training samples per class, all positive.
        target_prior: class prior of the rows to classify: uniform, forward-50 or backward-50 (long-tailed, with any
            factor), numbers such as 0.9,0.1, or a file of C numbers.

    Returns:
        Heads along β, 0..1.

    Raises:
        DataError: a class without training samples, or a file that does not hold C positive numbers.
        UsageError: a target prior that is none of these.
    """
    slope = log_prior(class_counts) - log_target_prior(target_prior, class_counts)
    return Family.affine(joint, slope, parameter="beta")


METHOD = Method(
    "ic",
    prior_rebalancing,
    title="prior rebalancing",
    label="IC",
    equation="z_c - β (log π_c - log π'_c)",
    source="Tian et al., NeurIPS 2020",
    chosen="β",
    grid=GRID,
    how="exact sweep",
    example="ltpost ic --target-prior uniform",
)
