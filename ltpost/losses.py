"""The class-balanced cross entropy that every fitted head minimises, with its gradient written out.

    L = Σ_i w_i (log Σ_k exp z_ik - z_{i,y_i}),     w_i = 1 / (C n_{y_i})

so that L is the mean over classes of the mean loss of a class (what drawing rows with a class-balanced sampler gives
in expectation). ∂L/∂z_ik = w_i (p_ik - [k = y_i]).

What this module does not do: regularise, or walk downhill (``optim``).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def balanced_row_weights(labels: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """w_i = 1 / (C n_{y_i}), (N,), sums to 1. ``counts`` (C,) are the rows per class.

    >>> balanced_row_weights(np.array([0, 0, 1]), np.array([2, 1]))
    array([0.25, 0.25, 0.5 ])
    """
    return (1.0 / (len(counts) * counts))[labels]


def cross_entropy_(logits: Tensor, labels: Tensor, weights: Tensor | float) -> Tensor:
    """Weighted cross entropy of a block; **the logits are replaced by the gradient** with respect to them.

    Args:
        logits: (n, C), overwritten.
        labels: (n,) int64.
        weights: (n,), or one number for all rows.

    Returns:
        Σ_i w_i loss_i as a 0-d float64 tensor (nothing waits for the device).
    """
    torch.log_softmax(logits, dim=1, out=logits)
    column = labels[:, None]
    losses = logits.gather(1, column)[:, 0].double()
    logits.exp_()
    logits.scatter_add_(1, column, logits.new_full(column.shape, -1.0))
    if isinstance(weights, Tensor):
        logits.mul_(weights[:, None])
    else:
        logits.mul_(weights)
    return -(losses * weights).sum()
