"""Losses that are no sum over rows: they look at all rows of a batch, or of the data, together.

    Geometric mean   L = -1/C Σ_c log (mean_{i: y_i = c} p_iy)                     p = softmax(z + t)
    LADE             L = mean_i CE(z_i + log π, y_i) - a Σ_c π_c (A_c - B_c - λ B_c²)
                     A_c = mean_{i: y_i = c} z_ic      B_c = log mean_i exp(z_ic - log π_c - log C)

Means over rows are weighted by what the rows count. A solver that sees a batch at a time minimises the mean over
batches of this, which is not the same as this of all rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ltpost.data import distributed
from ltpost.fit.loss import WholeLoss, cross_entropy_
from ltpost.heads import Array

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class GeometricMeanLoss:
    """Minus the mean over classes of the log of the mean probability of the right class.

    Args:
        offset: (C,) t, added to the logits.
    """

    offset: Array
    weight: Array | None = None

    def on(self, device: torch.device) -> WholeLoss:
        """See :class:`~ltpost.fit.loss.HeadLoss`."""
        import torch

        return _BoundGeometricMean(torch.as_tensor(self.offset, dtype=torch.float32, device=device))


class _BoundGeometricMean(WholeLoss):
    def __init__(self, offset: Tensor):
        self._offset = offset
        self._sums = offset.new_zeros(2, len(offset))  # of w_i p_iy and of w_i, over the rows of each class
        self._fresh = True

    def gather(self, scores: Tensor, labels: Tensor, weights: Tensor | float) -> None:
        if self._fresh:
            self._sums.zero_()
            self._fresh = False
        each = _of_each(weights, scores)
        right = (scores + self._offset).softmax(1).gather(1, labels[:, None])[:, 0]
        self._sums[0].index_add_(0, labels, right * each)
        self._sums[1].index_add_(0, labels, each)

    def settle(self) -> None:
        distributed.sum_(self._sums)
        self._fresh = True
        here = self._sums[1] > 0
        self._mass = self._sums[0].clamp(min=1e-30)
        self._share = here / here.sum()  # of the classes that there are
        self._log_mean = (self._mass / self._sums[1].clamp(min=1e-30)).log()

    def __call__(self, scores: Tensor, labels: Tensor, weights: Tensor | float) -> Tensor:
        each = _of_each(weights, scores)
        scores.add_(self._offset)
        right = scores.softmax(1).gather(1, labels[:, None])[:, 0]
        part = self._share[labels] * each / self._sums[1][labels].clamp(min=1e-30)  # of the value that is this row's
        cross_entropy_(scores, labels, self._share[labels] * right * each / self._mass[labels])
        return -(part * self._log_mean[labels]).double().sum()

    def curvature(self, scores: Tensor) -> Tensor:
        p = (scores + self._offset).softmax(1)
        return p.addcmul_(p, p, value=-1)


@dataclass(frozen=True)
class LadeLoss:
    """Balanced softmax, and a bound on how much each logit tells its class from the others (Hong et al., CVPR 2021).

    Args:
        log_prior: (C,) log π.
        strength: a.
        square: λ.
    """

    log_prior: Array
    strength: float = 0.1
    square: float = 0.1
    weight: Array | None = None

    def on(self, device: torch.device) -> WholeLoss:
        """See :class:`~ltpost.fit.loss.HeadLoss`."""
        import torch

        return _BoundLade(
            torch.as_tensor(self.log_prior, dtype=torch.float32, device=device), self.strength, self.square
        )


class _BoundLade(WholeLoss):
    def __init__(self, log_prior: Tensor, strength: float, square: float):
        self._log_prior, self._strength, self._square = log_prior, strength, square
        self._shift = log_prior + np.log(len(log_prior))
        self._sums = log_prior.new_zeros(3, len(log_prior)).double()  # Σ w z_iy and Σ w by class; Σ w exp(z - shift)
        self._fresh = True

    def gather(self, scores: Tensor, labels: Tensor, weights: Tensor | float) -> None:
        if self._fresh:
            self._sums.zero_()
            self._fresh = False
        each = _of_each(weights, scores).double()
        own = scores.gather(1, labels[:, None])[:, 0].double()
        self._sums[0].index_add_(0, labels, own * each)
        self._sums[1].index_add_(0, labels, each)
        self._sums[2] += each @ (scores.double() - self._shift).exp_()  # float64 holds exp(700)

    def settle(self) -> None:
        distributed.sum_(self._sums)
        self._fresh = True
        own, mass, everything = self._sums
        self._mass = mass.clamp(min=1e-30)
        mean_own = own / self._mass  # 0 where the class has no row
        self._everything = everything.clamp(min=1e-300)
        log_mean = (self._everything / mass.sum()).log()
        self._total_mass = mass.sum()
        pi = self._log_prior.double().exp()
        self._pull = -self._strength * pi / self._mass  # the gradient of a row's own logit, per w_i
        self._push = self._strength * pi * (1 + 2 * self._square * log_mean) / self._everything
        self._value = -self._strength * (pi * (mean_own - log_mean - self._square * log_mean**2)).sum()

    def __call__(self, scores: Tensor, labels: Tensor, weights: Tensor | float) -> Tensor:
        each = _of_each(weights, scores).double()
        push = (scores.double() - self._shift).exp_().mul_(self._push).mul_(each[:, None])
        scores.add_(self._log_prior)
        total = cross_entropy_(scores, labels, weights)
        scores.add_(push)
        scores.scatter_add_(1, labels[:, None], (self._pull[labels] * each).to(scores)[:, None])
        return total.add(self._value * each.sum() / self._total_mass)

    def curvature(self, scores: Tensor) -> Tensor:
        push = (scores.double() - self._shift).exp_().mul_(self._push.clamp(min=0)).to(scores)
        p = (scores + self._log_prior).softmax(1)
        result: Tensor = p.addcmul_(p, p, value=-1).add_(push)
        return result


def _of_each(weights: Tensor | float, scores: Tensor) -> Tensor:
    """The weights as a tensor (n,)."""
    return scores.new_full((len(scores),), weights) if isinstance(weights, (int, float)) else weights
