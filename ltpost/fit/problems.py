"""The two convex problems of this toolkit: a whole linear head, and one factor and shift per class.

Both give a loss and its gradient for parameters θ, and a preconditioner, to ``path.convex_path``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ltpost.data import distributed
from ltpost.data.tensors import FewRows, Matrix
from ltpost.fit.loss import BoundLoss
from ltpost.heads import Array, Head, LinearHead, RescaledHead

_SCALING_ELEMENTS = 2**18  # 1 MiB, which stays in the cache: rescaling has no matrix product


class Regression:
    """The loss over θ = (W, b + W m) flattened, where m is about the weighted mean of the features.

    Centring the features leaves the minimum where it is and makes it far quicker to reach: post-ReLU features lie in
    one quadrant, where every weight is entangled with the bias.

    The preconditioner takes one class at a time. With q_i = w_i p_ic (1 - p_ic), the Hessian of (w_c, b_c) is the
    second moment of (x_i, 1) under q: its mass h_c = Σ q_i and its mean v_c are measured now and then, its covariance
    is taken to be that of all features, A, so that one eigendecomposition serves all classes and strengths. A few rows
    of every class are enough for all three; the minimum does not depend on them.
    (Böhning's bound H ≼ ½ (I - 11ᵀ/C) ⊗ Σ_i w_i x_i x_iᵀ is the same idea with nothing measured.)
    Source: Böhning, "Multinomial logistic regression algorithm", Ann. Inst. Statist. Math. 44 (1992).

    Args:
        features: (N, D).
        labels: (N,) of them, int64.
        weights: (N,) what each row counts.
        num_classes: C.
        loss: of the logits.
    """

    def __init__(self, features: Matrix, labels: Tensor, weights: Tensor, num_classes: int, loss: BoundLoss):
        self.features, self.labels, self.weights, self.loss = features, labels, weights, loss
        self.shape = (num_classes, features.shape[1])
        self.strength = 0.0
        self._few = FewRows(features, labels, weights, least=8)
        self.mean, covariance = self._moments()
        self._spectrum, self._basis = torch.linalg.eigh(covariance)
        self._spectrum.clamp_(min=0)
        self._mass = torch.ones(num_classes, 1, device=features.device)  # h
        self._centre = torch.zeros(self.shape, device=features.device)  # v - m

    def _moments(self) -> tuple[Tensor, Tensor]:
        """Weighted mean (D,) and covariance (D, D) of the few rows."""
        device, size = self.features.device, self.shape[1]
        mean, covariance = torch.zeros(size, device=device), torch.zeros(size, size, device=device)
        for x, weights in self._few.blocks(self.shape[0]):
            mean += weights @ x
        distributed.sum_(mean)
        for x, weights in self._few.blocks(self.shape[0]):
            centred = x - mean
            covariance.addmm_(centred.T, centred * weights[:, None])
        return mean, distributed.sum_(covariance)

    def split(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Views of W (C, D) and of the centred bias (C,)."""
        size = self.shape[0] * self.shape[1]
        return theta[:size].view(self.shape), theta[size:]

    def start(self) -> Tensor:
        """θ = 0."""
        return torch.zeros(self.shape[0] * (self.shape[1] + 1), device=self.features.device)

    def __call__(self, theta: Tensor) -> tuple[float, Tensor]:
        """Value and gradient of the loss: one pass over the features, two matrix products."""
        weight, bias = self.split(theta)
        gradient = torch.zeros_like(theta)
        weight_gradient, bias_gradient = self.split(gradient)
        raw_bias = bias - weight @ self.mean
        total = torch.zeros((), dtype=torch.float64, device=theta.device)
        for part, x in self.features.blocks(self.shape[0]):
            scores = torch.addmm(raw_bias, x, weight.T)
            total += self.loss(scores, self.labels[part], self.weights[part])
            weight_gradient.addmm_(scores.T, x)
            bias_gradient += scores.sum(0)
        distributed.sum_(gradient)
        weight_gradient.addr_(bias_gradient, self.mean, alpha=-1)
        return float(distributed.sum_(total)), gradient

    def penalised(self, step: Tensor) -> Tensor:
        """The weights' part of a step; the bias is not penalised."""
        result = step.clone()
        self.split(result)[1].zero_()
        return result

    def refresh(self, theta: Tensor) -> float:
        """Measure h_c and v_c at θ, on a few rows of every class; the cost is that of a pass over those rows."""
        weight, bias = self.split(theta)
        raw_bias = bias - weight @ self.mean
        self._mass.zero_()
        self._centre.zero_()
        for x, weights in self._few.blocks(self.shape[0]):
            q = self.loss.curvature(torch.addmm(raw_bias, x, weight.T)).mul_(weights[:, None])
            self._mass += q.sum(0)[:, None]
            self._centre.addmm_(q.T, x)
        distributed.sum_(self._mass).clamp_(min=1e-8)
        distributed.sum_(self._centre)
        self._centre.div_(self._mass).sub_(self.mean)
        return self._few.share

    def precondition(self, gradient: Tensor) -> Tensor:
        """Solve [h (A + v vᵀ) + strength I, h v; h vᵀ, h] (w, b) = gradient for every class; v includes the bias."""
        weight_gradient, bias_gradient = self.split(gradient)
        result = torch.empty_like(gradient)
        weight, bias = self.split(result)
        rotated = torch.addcmul(weight_gradient, bias_gradient[:, None], self._centre, value=-1) @ self._basis
        rotated.div_(self._mass * self._spectrum + self.strength)
        torch.mm(rotated, self._basis.T, out=weight)
        torch.sub(bias_gradient / self._mass[:, 0], (self._centre * weight).sum(1), out=bias)
        return result

    def head(self, theta: Tensor, info: dict[str, Any]) -> LinearHead:
        """The classifier with the parameters θ."""
        weight, bias = self.split(theta)
        return LinearHead(weight.cpu().numpy(), (bias - weight @ self.mean).cpu().numpy(), info=info)


class Rescaling:
    """The loss over θ = f, or (f, b), of logits f_c z_c + b_c u_c, with the diagonal of the Hessian as preconditioner.

    Args:
        logits: (N, C) of the base.
        labels: (N,) of them, int64.
        weights: (N,) what each row counts.
        base: the head that is rescaled.
        loss: of the new logits.
        shift_unit: (C,) u, or None for no shift.
    """

    def __init__(
        self, logits: Matrix, labels: Tensor, weights: Tensor, base: Head, loss: BoundLoss, shift_unit: Array | None
    ):
        self.logits, self.labels, self.weights, self.base, self.loss = logits, labels, weights, base, loss
        self.num_classes = logits.shape[1]
        self.unit = None if shift_unit is None else torch.as_tensor(shift_unit, dtype=torch.float32).to(logits.device)
        self.strength = 0.0
        self._few = FewRows(logits, labels, weights, least=32)
        self._diagonal = torch.ones_like(self.start())

    # NOTE[DIFF]: the reference's weight decay pulls f to 0, which shrinks all logits; here it is pulled to 1, the base,
    # so that a strong penalty changes nothing.
    def start(self) -> Tensor:
        """The base: f = 1, b = 0."""
        size = self.num_classes
        theta = torch.ones(size if self.unit is None else 2 * size, device=self.logits.device)
        theta[size:] = 0
        return theta

    def split(self, theta: Tensor) -> tuple[Tensor, Tensor | None]:
        """F (C,), and the shift b u (C,) or None."""
        if self.unit is None:
            return theta, None
        return theta[: self.num_classes], theta[self.num_classes :] * self.unit

    def _scores(self, z: Tensor, theta: Tensor) -> Tensor:
        factor, shift = self.split(theta)
        return z * factor if shift is None else torch.addcmul(shift, z, factor)

    def __call__(self, theta: Tensor) -> tuple[float, Tensor]:
        """Value and gradient of the loss: one pass over the logits."""
        size = self.num_classes
        total = torch.zeros((), dtype=torch.float64, device=theta.device)
        gradient = torch.zeros_like(theta, dtype=torch.float64)
        for part, z in self.logits.blocks(size, _SCALING_ELEMENTS):
            scores = self._scores(z, theta)
            total += self.loss(scores, self.labels[part], self.weights[part])
            if self.unit is not None:
                gradient[size:] += scores.sum(0) * self.unit
            gradient[:size] += scores.mul_(z).sum(0)
        return float(distributed.sum_(total)), distributed.sum_(gradient).to(theta.dtype)

    def penalised(self, step: Tensor) -> Tensor:
        """All of it."""
        return step.clone()

    def refresh(self, theta: Tensor) -> float:
        """Measure the Hessian's diagonal at θ, Σ_i w_i h_ic (z_ic², u_c²), on a few rows of every class."""
        size = self.num_classes
        self._diagonal = torch.zeros_like(theta)
        for z, weights in self._few.blocks(size, _SCALING_ELEMENTS):
            curvature = self.loss.curvature(self._scores(z, theta))
            if self.unit is not None:
                self._diagonal[size:] += (weights @ curvature) * self.unit**2
            self._diagonal[:size] += weights @ curvature.mul_(z).mul_(z)
        distributed.sum_(self._diagonal)
        return self._few.share

    def precondition(self, gradient: Tensor) -> Tensor:
        """Divide by the diagonal."""
        return gradient / (self._diagonal + self.strength).clamp(min=1e-12)

    def head(self, theta: Tensor, info: dict[str, Any]) -> RescaledHead:
        """The base, rescaled by θ."""
        factor, shift = self.split(theta)
        return RescaledHead(self.base, factor.cpu().numpy(), None if shift is None else shift.cpu().numpy(), info=info)
