"""BalPoE, balanced product of experts (Aimar et al., CVPR 2023, arXiv:2206.05260): bias-corrected, then averaged.

    argmax_c  1/E Σ_e (z_ec - (1 - τ_e) log π_c) + log π'_c

Expert e was trained with CE(z_e + τ_e log π, y), so that z_e + τ_e log π are logits under the training prior π, and
z_e - (1 - τ_e) log π those under a uniform one. Their mean is the product of the experts; π' is the prior to predict
under. With the paper's τ = (0, 1, 2), whose mean is 1, all corrections cancel: the balanced prediction is the plain
mean. Plain networks (τ_e = 0) get logit adjustment with τ = 1. What it does not do: train the experts, or know how
they were trained unless told.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from ltpost.data.priors import log_prior
from ltpost.errors import UsageError
from ltpost.family import Family
from ltpost.heads import AggregatedHead, Array, ExpertHead
from ltpost.method import Method


def balpoe(
    experts: Sequence[ExpertHead],
    class_counts: Array,
    *,
    taus: tuple[float, ...] | None = None,
    target_prior: Literal["uniform", "train"] = "uniform",
) -> Family:
    """Corrects every expert for the prior that it was trained with, and averages them.

    Args:
        experts: E heads.
        class_counts: (C,) training samples per class, all positive.
        taus: with which each expert was trained, 0 for plain cross entropy; E numbers, such as 0,1,2.
            Default as in the paper, evenly from 0 to 2.
        target_prior: the prior to predict under.

    Returns:
        One head, linear like the experts.

    Raises:
        UsageError: not one τ per expert.
        DataError: a class without training samples.

    NOTE[DIFF]: the reference code adds log(π' + 1e-9), which lets a class without samples pass.
    """
    count = len(experts)
    given = np.linspace(0, 2, count) if count > 1 else np.ones(1)
    if taus is not None:
        if len(taus) != count:
            raise UsageError(f"taus= must be one number for each of {count} experts, but is {len(taus)} numbers")
        given = np.asarray(taus, dtype=np.float64)
    left = 1.0 - float(given.mean())  # of the prior in the mean
    if target_prior == "train":
        left -= 1.0
    log_pi = log_prior(class_counts)
    head = AggregatedHead(experts, np.full(count, 1 / count), None if abs(left) < 1e-12 else -left * log_pi)
    notes: tuple[str, ...] = ()
    if head.offset is None:
        notes = (f"the corrections of the experts cancel, as the mean of taus is {given.mean():g}: this is their mean",)
    return Family.single(head, params={"taus": given.tolist()}, notes=notes)


METHOD = Method(
    "balpoe",
    balpoe,
    title="balanced product of experts",
    label="BalPoE",
    equation="Σ_e (z_ec - (1-τ_e) log π_c) / E",
    source="Aimar et al., CVPR 2023",
    how="closed form",
    example="ltpost balpoe --taus 0,0,0",
)
