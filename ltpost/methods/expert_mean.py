"""The plain mean of several experts' logits (RIDE, Wang et al., ICLR 2021, arXiv:2010.01809; SADE, BalPoE, SHIKE).

    argmax_c  1/E Σ_e z_ec

NCL (Li et al., CVPR 2022) takes the sum, E times the mean: its highest class is the same, so that one method serves
both. On a file of several experts it is the joint classifier too. What it does not do: weigh the experts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ltpost.family import Family
from ltpost.heads import AggregatedHead, ExpertHead
from ltpost.method import Method


def expert_mean(experts: Sequence[ExpertHead]) -> Family:
    """Averages the logits of several experts; their sum has the same highest class.

    Args:
        experts: E heads.

    Returns:
        One head, linear in the features of all experts side by side where every expert is linear.
    """
    return Family.single(AggregatedHead(experts, np.full(len(experts), 1 / len(experts))))


METHOD = Method(
    "mean",
    expert_mean,
    title="mean of the experts",
    label="expert mean",
    equation="Σ_e z_ec / E",
    source="Wang et al., ICLR 2021",
    how="closed form",
    example="ltpost mean --features resnet,vit",
)
