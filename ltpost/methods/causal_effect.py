"""Total direct effect (Tang, Huang, Zhang, "Long-Tailed Classification …", NeurIPS 2020, arXiv:2009.12991, Eq. 10).

    z_c = τ/K Σ_k (x̂_k - α cos(x_k, e_k) ê_k) · w_ck / (‖w_ck‖ + γ)

The direction e in which the features drifted during training favours frequent classes; α takes it away. Only α is
post-hoc: the classifier must have been trained as CausalNorm, with e kept. What it does not do: train one.
"""

from __future__ import annotations

from ltpost.family import Family
from ltpost.heads import CausalNormHead
from ltpost.method import Method

GRID = tuple(round(0.25 * k, 10) for k in range(21))


def causal_effect(causal_head: CausalNormHead) -> Family:
    """Takes away the direction in which the features drifted during training.

    Args:
        causal_head: the classifier, from the file causal_norm.safetensors beside the feature files.

    Returns:
        Heads along α, usually 0..5; the paper has 3 for ImageNet-LT and 1.5 for CIFAR-100-LT.
    """
    # z is affine in α, so it is the mixture of the heads at 0 and at 1
    mixed = Family.mixed(causal_head.at(0.0), causal_head.at(1.0))
    return Family(causal_head.at, mixed.curve_on, "alpha")


METHOD = Method(
    "tde",
    causal_effect,
    title="total direct effect",
    label="TDE",
    equation="τ/K Σ_k (x̂_k - α cos(x_k, e_k) ê_k) ŵ_ck",
    source="Tang et al., NeurIPS 2020",
    chosen="α",
    grid=GRID,
    how="exact sweep",
    example="ltpost tde --alpha-grid 0:5:0.25",
)
