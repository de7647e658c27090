"""The convex problem of a whole linear head: loss, gradient and preconditioner, for ``path.convex_path``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ltpost.data import distributed
from ltpost.data.tensors import FewRows, Matrix, fits
from ltpost.fit.lbfgs import Nearby, Objective
from ltpost.fit.loss import BoundLoss, WholeLoss
from ltpost.fit.models import shorten_
from ltpost.heads import LinearHead


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
        start: the head that the penalty pulls W to; default 0.
        bias: whether there is one. Without, the features are not centred, and b stays 0.
        bfloat16: whether products in bfloat16 may lead to the minimum. Not for a loss that looks at all rows first.
    """

    def __init__(
        self,
        features: Matrix,
        labels: Tensor,
        weights: Tensor,
        num_classes: int,
        loss: BoundLoss,
        start: LinearHead | None = None,
        bias: bool = True,
        bfloat16: bool = False,
    ):
        whole = isinstance(loss, WholeLoss)
        self.near: Nearby | None = self._near if bfloat16 and not whole else None
        self.cost, self._has_bias, self._start = 1.5 if whole else 1.0, bias, start
        self.features, self.labels, self.weights, self.loss = features, labels, weights, loss
        self.shape = (num_classes, features.shape[1])
        self.strength = 0.0
        self._few = FewRows(features, labels, weights, least=8)
        self.total = float(distributed.sum_(weights.double().sum()))
        self.mean, covariance = self._moments()
        self._spectrum, self._basis = torch.linalg.eigh(covariance)
        self._spectrum.clamp_(min=0)
        self._mass = torch.ones(num_classes, 1, device=features.device)  # h
        self._centre = torch.zeros(self.shape, device=features.device)  # v - m
        self._measured: Tensor | None = None  # where h and v are of
        self._last: Tensor | None = None  # where the last exact pass was
        self._logits: Tensor | None = None  # (N, C) there
        if self.near is not None and fits(4 * len(features) * num_classes, features.device):
            self._logits = torch.empty(len(features), num_classes, device=features.device)

    def _moments(self) -> tuple[Tensor, Tensor]:
        """Weighted mean (D,) and covariance (D, D) of the few rows."""
        device, size = self.features.device, self.shape[1]
        mean, covariance = torch.zeros(size, device=device), torch.zeros(size, size, device=device)
        if self._has_bias:
            for x, weights in self._few.blocks(self.shape[0]):
                mean += weights @ x
            distributed.sum_(mean).div_(self.total)
        for x, weights in self._few.blocks(self.shape[0]):
            centred = x - mean
            covariance.addmm_(centred.T, centred * weights[:, None])
        return mean, distributed.sum_(covariance)

    def split(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Views of W (C, D) and of the centred bias (C,)."""
        size = self.shape[0] * self.shape[1]
        return theta[:size].view(self.shape), theta[size:]

    def start(self) -> Tensor:
        """The head to start from, or θ = 0."""
        theta = torch.zeros(self.shape[0] * (self.shape[1] + 1), device=self.features.device)
        if self._start is not None:
            weight, bias = self.split(theta)
            weight.copy_(torch.from_numpy(self._start.weight))
            if self._has_bias:
                bias.addmv_(weight, self.mean)
                if self._start.bias is not None:
                    bias += torch.from_numpy(self._start.bias).to(bias)
        return theta

    def random_start(self, seed: int) -> Tensor:
        """The start with a random step of W added, as long as the weights of a new linear layer."""
        theta, random = self.start(), torch.Generator().manual_seed(seed)
        weight, bias = self.split(theta)
        step = torch.empty(self.shape).uniform_(-1, 1, generator=random).to(theta) / self.shape[1] ** 0.5
        weight += step
        if self._has_bias:
            bias += step @ self.mean
        return theta

    def __call__(self, theta: Tensor) -> tuple[float, Tensor]:
        """Value and gradient of the loss: one pass over the features, two matrix products.

        A loss that looks at all rows first takes one product more.
        """
        weight, bias = self.split(theta)
        raw_bias = bias - weight @ self.mean
        gradient = torch.zeros_like(theta)
        weight_gradient, bias_gradient = self.split(gradient)
        if isinstance(self.loss, WholeLoss):
            for part, x in self.features.blocks(self.shape[0]):
                self.loss.gather(torch.addmm(raw_bias, x, weight.T), self.labels[part], self.weights[part])
            self.loss.settle()
        total = torch.zeros((), dtype=torch.float64, device=gradient.device)
        for part, x in self.features.blocks(self.shape[0]):
            scores = torch.addmm(raw_bias, x, weight.T)
            if self._logits is not None:
                self._logits[part] = scores
            total += self.loss(scores, self.labels[part], self.weights[part])
            weight_gradient.addmm_(scores.T, x)
            bias_gradient += scores.sum(0)
        self._last = theta
        distributed.sum_(gradient)
        weight_gradient.addr_(bias_gradient, self.mean, alpha=-1)
        if not self._has_bias:
            bias_gradient.zero_()
        return float(distributed.sum_(total)), gradient

    def _near(self, theta: Tensor, value: float, gradient: Tensor) -> Objective:
        """The same from products in bfloat16, with an error that grows with the distance from ``theta``.

        Only what changes is multiplied: the step gives the change of the logits, and the change of ∂L/∂z gives the
        change of the gradient, each with an error of some thousandths of it. The logits at ``theta`` are those of the
        last exact pass where (N, C) fits into memory; else they are multiplied in bfloat16 anew every time.
        """
        weight, bias = self.split(theta)
        short = weight.bfloat16().T
        logits = self._logits if self._last is theta else None

        def objective(x: Tensor) -> tuple[float, Tensor]:
            step = x - theta
            weight_step, bias_step = self.split(step)
            short_step = weight_step.bfloat16().T
            change = torch.zeros_like(gradient)
            weight_change, bias_change = self.split(change)
            total = torch.zeros((), dtype=torch.float64, device=change.device)
            for part, rows in self.features.blocks(self.shape[0]):
                labels, weights = self.labels[part], self.weights[part]
                centred = (rows - self.mean).bfloat16()
                before = (centred @ short).float().add_(bias) if logits is None else logits[part].clone()
                after = (centred @ short_step).float().add_(bias_step).add_(before)
                total += self.loss(after, labels, weights) - self.loss(before, labels, weights)
                after.sub_(before)
                weight_change += after.bfloat16().T @ centred
                bias_change += after.sum(0)
            distributed.sum_(change)
            if not self._has_bias:
                bias_change.zero_()
            return value + float(distributed.sum_(total)), change.add_(gradient)

        return objective

    def penalised(self, step: Tensor) -> Tensor:
        """The weights' part of a step; the bias is not penalised."""
        result = step.clone()
        self.split(result)[1].zero_()
        return result

    def refresh(self, theta: Tensor) -> float:
        """Measure h_c and v_c at θ, on a few rows of every class; the cost is that of a pass over those rows."""
        if theta is self._measured:
            return 0.0
        self._measured = theta
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
        if not self._has_bias:  # the second moment takes the place of the covariance
            self._centre.zero_()
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
        bias = bias - weight @ self.mean
        return LinearHead(weight.cpu().numpy(), bias.cpu().numpy() if self._has_bias else None, info=info)

    def project_(self, theta: Tensor, radius: float) -> Tensor:
        """Rows of W that are longer than the radius, shortened to it in place."""
        shorten_(self.split(theta)[0], radius)
        return theta

    def steepness(self) -> Tensor:
        """About the largest curvature of the loss along each weight and bias of a class, like θ, after ``refresh``."""
        weights = self._mass * (self._spectrum[-1] + 2 * self._centre.square().sum(1, keepdim=True))
        return torch.cat([weights.expand(self.shape).flatten(), 2 * self._mass[:, 0]])
