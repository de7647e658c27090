"""Losses that judge every class by itself, right or not: C binary cross entropies per row. Neither is convex.

    FocalLoss    L_i = Σ_j (1 - q_ij)^γ (-log q_ij)      q_ij = σ(± z_ij), + for the class of the row
    SoftmaxBCE   L_i = 1/C (-log p_iy - Σ_{j≠y} log(1 - p_ij))      p = softmax(z)

With γ = 0 the first is the sum of the usual sigmoid cross entropies, and convex.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltpost.errors import UsageError
from ltpost.fit.loss import BoundLoss
from ltpost.heads import Array

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class FocalLoss:
    """The focal loss of C sigmoids (Lin et al., ICCV 2017, equation 4, with the classes' weights outside).

    Args:
        weight: (C,) what a row of each class counts; it multiplies all C terms of the row.
        gamma: γ, how much less a class counts that is judged well already.
    """

    weight: Array | None
    gamma: float

    def __post_init__(self) -> None:
        if not self.gamma >= 0:
            raise UsageError(f"gamma= must not be negative, but is {self.gamma}")

    def on(self, device: torch.device) -> BoundLoss:
        """See :class:`~ltpost.fit.loss.HeadLoss`."""
        return _BoundFocal(self.gamma)


@dataclass(frozen=True)
class _BoundFocal:
    gamma: float

    # NOTE[DIFF]: the reference code writes the factor as exp(-γ y z - γ log1p(exp(-z))), which overflows for z < -88.
    # Here it is exp(-γ softplus(± z)).
    def __call__(self, scores: Tensor, labels: Tensor, weights: Tensor | float) -> Tensor:
        import torch
        from torch.nn.functional import softplus

        rows = torch.arange(len(scores), device=scores.device)
        scores.neg_()
        scores[rows, labels] *= -1  # u = ± z, so that q = σ(u)
        loss = softplus(-scores)  # -log q
        factor = softplus(scores).mul_(-self.gamma).exp_()  # (1 - q)^γ
        total = _weighted((factor * loss).sum(1, dtype=torch.float64), weights).sum()
        q = scores.sigmoid_()
        loss.mul_(q).mul_(self.gamma).add_(1 - q).mul_(factor)
        scores.copy_(_weighted(loss, weights))  # minus the derivative by u, which is that by z but for ±
        scores[rows, labels] *= -1
        return total

    def curvature(self, scores: Tensor) -> Tensor:
        """That of a class that is not the row's own and not judged well, as most are before the end."""
        p = scores.sigmoid()
        return p.mul(1 - p).mul_(p.pow_(self.gamma))


@dataclass(frozen=True)
class SoftmaxBCE:
    """The mean over all classes of the binary cross entropy of softmax probabilities.

    What the class-balanced "softmax" loss of a popular port computes, and the published weight-balancing code with it.

    Args:
        weight: (C,) what a row of each class counts.
    """

    weight: Array | None = None

    def on(self, device: torch.device) -> BoundLoss:
        """See :class:`~ltpost.fit.loss.HeadLoss`."""
        return _BoundSoftmaxBCE()


@dataclass(frozen=True)
class _BoundSoftmaxBCE:
    # ∂L/∂z_j = 1/C (p_j - [j = y] + [j ≠ y] p_j - p_j Σ_{k ≠ y, j} p_k / (1 - p_k)). Close to p_k = 1 the sum of the
    # others stands for 1 - p_k, and k = j is left out of the sum rather than subtracted from it.
    def __call__(self, scores: Tensor, labels: Tensor, weights: Tensor | float) -> Tensor:
        import torch

        rows = torch.arange(len(scores), device=scores.device)
        log_p_own = torch.log_softmax(scores, 1)[rows, labels].double()
        p = torch.softmax(scores, 1)
        top = p.argmax(1)
        others = p.clone()
        others[rows, top] = 0
        rest = 1 - p
        rest[rows, top] = others.sum(1)
        rest.clamp_(min=1e-30)
        odds = p / rest
        odds[rows, labels] = 0
        odds_of_top = odds[rows, top].clone()
        log_rest = rest.log()
        log_rest[rows, labels] = 0
        total = _weighted(-(log_p_own + log_rest.sum(1, dtype=torch.float64)) / scores.shape[1], weights).sum()
        odds[rows, top] = 0
        sum_without_top = odds.sum(1)
        without_own = (sum_without_top + odds_of_top)[:, None] - odds
        without_own[rows, top] = sum_without_top
        torch.sub(2.0, without_own, out=scores)
        scores[rows, labels] -= 1
        scores.mul_(p)
        scores[rows, labels] -= 1
        scores.div_(scores.shape[1])
        scores.copy_(_weighted(scores, weights))
        return total

    def curvature(self, scores: Tensor) -> Tensor:
        p = scores.softmax(1)
        return p.addcmul_(p, p, value=-1).mul_(2 / p.shape[1])


def _weighted(values: Tensor, weights: Tensor | float) -> Tensor:
    """Rows of ``values`` times the weights of the rows."""
    if isinstance(weights, (int, float)):
        return values * weights
    return values * weights.reshape(-1, *[1] * (values.dim() - 1))
