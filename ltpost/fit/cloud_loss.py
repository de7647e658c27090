"""The loss of Gaussian clouded logits (Li et al., "… Gaussian Clouded Logit Adjustment", CVPR 2022).

    z_ic = s (cos_ic - k |ε_ic| g_c / max g - m [c = y])    g_c = log n_max - log n_c    ε ~ N(0, σ²), held to ±1
    L_i = (1 - p_iy)^γ CE(z_i, y_i)      p = softmax(z), held fixed in the factor

The noise is drawn anew for every batch, and the factor has no derivative, so that this is no function that a full-batch
solver could minimise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ltpost.data import distributed
from ltpost.errors import UsageError
from ltpost.fit.class_weights import positive
from ltpost.fit.loss import BoundLoss, cross_entropy_
from ltpost.heads import Array

if TYPE_CHECKING:
    import torch
    from torch import Tensor

DEVIATION = 1 / 3  # of the noise


@dataclass(frozen=True)
class CloudLoss:
    """Cross entropy of cosines under noise that is larger for rare classes.

    Args:
        class_counts: (C,), all positive. Where all are equal there is no noise.
        scale: s.
        noise: k.
        margin: m.
        gamma: γ.
        seed: of the noise.
    """

    class_counts: Array
    scale: float
    noise: float
    margin: float
    gamma: float
    seed: int = 0
    weight: Array | None = None

    def __post_init__(self) -> None:
        for name in ("scale", "noise", "margin", "gamma"):
            if not 0 <= getattr(self, name) < np.inf:
                raise UsageError(f"{name}= must not be negative, but is {getattr(self, name)}")
        positive(self.class_counts)

    @property
    def cloud(self) -> Array:
        """(C,) g_c / max g."""
        gap = np.log(positive(self.class_counts).max() / self.class_counts)
        share: Array = gap / max(gap.max(), np.finfo(float).tiny)
        return share

    def on(self, device: torch.device) -> BoundLoss:
        """See :class:`~ltpost.fit.loss.HeadLoss`."""
        import torch

        cloud = torch.as_tensor(self.cloud * self.noise, dtype=torch.float32, device=device)
        random = torch.Generator(device=device).manual_seed(self.seed + distributed.rank())
        return _BoundCloud(self, cloud, random)


@dataclass(frozen=True)
class _BoundCloud:
    loss: CloudLoss
    cloud: Tensor
    random: torch.Generator

    def __call__(self, scores: Tensor, labels: Tensor, weights: Tensor | float) -> Tensor:
        import torch

        noise = torch.empty_like(scores).normal_(0, DEVIATION, generator=self.random).clamp_(-1, 1).abs_()
        scores.addcmul_(noise, self.cloud, value=-1)
        scores.scatter_add_(1, labels[:, None], scores.new_full((len(scores), 1), -self.loss.margin))
        scores.mul_(self.loss.scale)
        right = scores.softmax(1).gather(1, labels[:, None])[:, 0]
        total = cross_entropy_(scores, labels, weights * (1 - right).pow(self.loss.gamma))
        scores.mul_(self.loss.scale)
        return total

    def curvature(self, scores: Tensor) -> Tensor:
        raise NotImplementedError("a loss with noise is for SGD")
