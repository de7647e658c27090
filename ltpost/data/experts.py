"""Several experts (RIDE, SADE, BalPoE, …) side by side in one feature file.

    z = 1/E Σ_e W_e x_e + b_e = [W_0 … W_{E-1}]/E · [x_0; …; x_{E-1}] + mean b_e

The mean of the experts' logits is linear in their features side by side, so that the file is an ordinary one: every
method runs on the mean, and on one expert through :meth:`ltpost.FeatureSet.expert`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ltpost.heads import Array


def joined_weight(weights: Sequence[Array]) -> Array:
    """[W_0 … W_{E-1}]/E, (C, E · D), from E weights (C, D).

    >>> joined_weight([np.array([[2.0]]), np.array([[4.0]])])
    array([[1., 2.]])
    """
    return np.concatenate(weights, axis=1) / len(weights)


def expert_columns(num_columns: int, num_experts: int, number: int) -> slice:
    """The columns of the features that belong to one of E experts."""
    width = num_columns // num_experts
    return slice(number * width, (number + 1) * width)


def weight_of_expert(weight: Array, num_experts: int, number: int) -> Array:
    """W_e, (C, D), from [W_0 … W_{E-1}]/E; the inverse of :func:`joined_weight`.

    >>> weight_of_expert(np.array([[1.0, 2.0]]), 2, 1)
    array([[4.]])
    """
    own: Array = weight[:, expert_columns(weight.shape[1], num_experts, number)] * num_experts
    return own
