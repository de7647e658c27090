"""The convex problem of one factor and shift per class, for ``path.convex_path``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ltpost.data import distributed
from ltpost.data.tensors import FewRows, Matrix
from ltpost.fit.lbfgs import Nearby
from ltpost.fit.loss import BoundLoss
from ltpost.heads import Array, Head, RescaledHead

_SCALING_ELEMENTS = 2**18  # 1 MiB, which stays in the cache: rescaling has no matrix product


class Rescaling:
    """The loss over θ = f, (f, b) or b, of logits f_c z_c + b_c u_c, preconditioned by the diagonal of the Hessian.

    Args:
        logits: (N, C) of the base.
        labels: (N,) of them, int64.
        weights: (N,) what each row counts.
        base: the head that is rescaled.
        loss: of the new logits.
        shift_unit: (C,) u, or None for no shift.
        factors: whether f is free; else it stays 1.
    """

    def __init__(
        self,
        logits: Matrix,
        labels: Tensor,
        weights: Tensor,
        base: Head,
        loss: BoundLoss,
        shift_unit: Array | None,
        factors: bool = True,
    ):
        self.logits, self.labels, self.weights, self.base, self.loss = logits, labels, weights, base, loss
        self.num_classes = logits.shape[1]
        self.cost, self._free = 1.0, self.num_classes if factors else 0
        self.unit = None if shift_unit is None else torch.as_tensor(shift_unit, dtype=torch.float32).to(logits.device)
        self.strength = 0.0
        self._few = FewRows(logits, labels, weights, least=32)
        self._diagonal = torch.ones_like(self.start())

    near: Nearby | None = None

    # NOTE[DIFF]: the reference's weight decay pulls f to 0, which shrinks all logits; here it is pulled to 1, the base,
    # so that a strong penalty changes nothing.
    def start(self) -> Tensor:
        """The base: f = 1, b = 0."""
        theta = torch.ones(self._free + (0 if self.unit is None else self.num_classes), device=self.logits.device)
        theta[self._free :] = 0
        return theta

    def split(self, theta: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """F (C,) or None, and the shift b u (C,) or None."""
        factor = theta[: self._free] if self._free else None
        return factor, None if self.unit is None else theta[self._free :] * self.unit

    def _scores(self, z: Tensor, theta: Tensor) -> Tensor:
        factor, shift = self.split(theta)
        if factor is None:
            return z.clone() if shift is None else z + shift
        return z * factor if shift is None else torch.addcmul(shift, z, factor)

    def __call__(self, theta: Tensor) -> tuple[float, Tensor]:
        """Value and gradient of the loss: one pass over the logits."""
        free = self._free
        total = torch.zeros((), dtype=torch.float64, device=theta.device)
        gradient = torch.zeros_like(theta, dtype=torch.float64)
        for part, z in self.logits.blocks(self.num_classes, _SCALING_ELEMENTS):
            scores = self._scores(z, theta)
            total += self.loss(scores, self.labels[part], self.weights[part])
            if self.unit is not None:
                gradient[free:] += scores.sum(0) * self.unit
            if free:
                gradient[:free] += scores.mul_(z).sum(0)
        return float(distributed.sum_(total)), distributed.sum_(gradient).to(theta.dtype)

    def penalised(self, step: Tensor) -> Tensor:
        """All of it."""
        return step.clone()

    def refresh(self, theta: Tensor) -> float:
        """Measure the Hessian's diagonal at θ, Σ_i w_i h_ic (z_ic², u_c²), on a few rows of every class."""
        free = self._free
        self._diagonal = torch.zeros_like(theta)
        for z, weights in self._few.blocks(self.num_classes, _SCALING_ELEMENTS):
            curvature = self.loss.curvature(self._scores(z, theta))
            if self.unit is not None:
                self._diagonal[free:] += (weights @ curvature) * self.unit**2
            if free:
                self._diagonal[:free] += weights @ curvature.mul_(z).mul_(z)
        distributed.sum_(self._diagonal)
        return self._few.share

    def precondition(self, gradient: Tensor) -> Tensor:
        """Divide by the diagonal."""
        return gradient / (self._diagonal + self.strength).clamp(min=1e-12)

    def head(self, theta: Tensor, info: dict[str, Any]) -> RescaledHead:
        """The base, rescaled by θ."""
        factor, shift = (None if part is None else part.cpu().numpy() for part in self.split(theta))
        return RescaledHead(self.base, factor, shift, info=info)
