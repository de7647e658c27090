"""Tau-normalization (Kang et al., "Decoupling Representation and Classifier …", ICLR 2020, arXiv:1910.09217, 4.2).

    w̃_c = w_c / ‖w_c‖^τ                                                                      (Equation 5)

τ = 0 keeps the weights, τ = 1 gives them unit norm. The weights of frequent classes are the longer ones, so τ > 0
gives rare classes a wider cone. What it does not do: learn anything, or need class counts.

Of several experts each is normalized by its own norms, and their logits averaged, as RIDE's script does it:
1/E Σ_e w_ec · x_e / ‖w_ec‖^τ.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from ltpost.data.priors import class_list
from ltpost.errors import DataError
from ltpost.family import Family
from ltpost.heads import AggregatedHead, Array, JoinedHead, LinearHead, RescaledHead
from ltpost.heads.protocol import Layer
from ltpost.method import Method

GRID = tuple(round(0.1 * k, 10) for k in range(21))


def tau_norm(
    head: LinearHead,
    *,
    bias: Literal["drop", "scale", "keep"] = "drop",
    norms: Literal["expert", "joined"] = "expert",
) -> Family:
    """Evens out the lengths of the classifier's weights.

    Args:
        head: the joint classifier, (C, D).
        bias: drop: none, as in the paper; scale: b_c / ‖w_c‖^τ, like the weights; keep: unchanged, and τ is chosen
            from the grid only.
        norms: of several experts, expert: each is normalized by its own norms, and τ is chosen from the grid; joined:
            their features side by side count as one layer. Without experts there is no difference.

    Returns:
        Heads along τ, usually 0..2.

    Raises:
        DataError: a row of the weight is zero.

    NOTE[DIFF]: the reference code (classifier-balancing, ``tau_norm.py``) always drops the bias, without saying so;
    τ = 0 is then not the joint classifier.

    >>> tau_norm(LinearHead(np.array([[3.0, 4.0], [0.0, 2.0]]))).head(1.0).weight
    array([[0.6, 0.8],
           [0. , 1. ]], dtype=float32)
    """
    if norms == "expert" and isinstance(head, JoinedHead):
        return _per_expert(head, bias)
    return along_weights(head, log_norms_of(head), bias)


def log_norms_of(head: Layer) -> Array:
    """Log ‖w_c‖, (C,).

    Raises:
        DataError: a row of the weight is zero.
    """
    norms = head.norms()
    zero = np.flatnonzero(norms == 0)
    if len(zero):
        raise DataError(
            f"no row of 'head/weight' may be zero for tau-normalization, but that of {class_list(zero)} is; "
            "remove the class, or use logit adjustment"
        )
    logs: Array = np.log(norms)
    return logs


def along_weights(head: LinearHead, slope: Array, bias: str, *, parameter: str = "tau") -> Family:
    """Heads with weights w_c · exp(-t · slope_c), slope (C,); for ``bias`` see :func:`tau_norm`."""
    if head.bias is None or bias == "scale":
        return Family.scaled(head, slope, parameter=parameter)
    without_bias = RescaledHead(head, offset=-head.bias)
    if bias == "drop":
        return Family.scaled(without_bias, slope, parameter=parameter)
    return Family.tabulated(
        lambda t: RescaledHead(without_bias, np.exp(-t * slope), head.bias),
        parameter=parameter,
        notes=(f"with a kept bias the curve is not exact: {parameter} is one of the values of the grid",),
    )


def _per_expert(head: JoinedHead, bias: str) -> Family:
    """Each expert by its own norms; the sum has another scale for every expert, so that its curve is not exact."""
    count, experts = len(head.experts), head.experts
    layers = [layer for expert in experts if (layer := expert.head.linear()) is not None]
    log_norms = np.stack([log_norms_of(layer) for layer in layers])
    biases = np.stack([np.zeros(head.num_classes) if layer.bias is None else layer.bias for layer in layers])

    def head_at(tau: float) -> AggregatedHead:
        scale = np.exp(-tau * log_norms) / count
        kept = {"drop": np.zeros_like(biases), "scale": scale * biases, "keep": biases / count}[bias]
        return AggregatedHead(experts, scale, (kept - scale * biases).sum(axis=0))

    note = (
        f"each of {count} experts is normalized by its own norms, as in RIDE's script, and tau is one of the values of "
        "the grid; norms='joined' takes the norms of all side by side, with an exact curve"
    )
    return Family.tabulated(head_at, notes=(note,))


METHOD = Method(
    "tnorm",
    tau_norm,
    title="tau-normalization",
    label="τ-norm",
    equation="w_c / ‖w_c‖^τ",
    source="Kang et al., ICLR 2020",
    chosen="τ",
    grid=GRID,
    how="exact sweep",
    example="ltpost tnorm --tau-grid 0:2:0.1",
)
