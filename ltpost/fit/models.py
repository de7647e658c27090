"""What SGD trains: heads with their gradient written out.

Linear    W x + b, its rows inside a ball where one is given
Cosine    cos(x, w_c)
Scaled    f_c (w_c x + b_c)
Factors   f_c z_c + b_c u_c of the logits z of another head
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ltpost.heads import Array, GatedHead, Head, LinearHead, RescaledHead


class Model(Protocol):
    """A head that is trained. ``scores`` and ``backward`` are called in turns."""

    #: what is trained, on one device, float32
    parameters: Sequence[Tensor]
    #: the part of the learning rate at which each of them is trained
    rates: Sequence[float]

    def scores(self, x: Tensor) -> Tensor:
        """(n, K) rows to (n, C) float32 logits, which the caller may overwrite."""

    def backward(self, x: Tensor, gradient: Tensor) -> None:
        """Write into ``grad`` of every parameter, from the gradient (n, C) with respect to the scores."""

    def project_(self) -> None:
        """After a step: back into what is allowed."""

    def head(self, info: dict[str, Any]) -> Head:
        """The head."""


class Linear:
    """W x + b.

    Args:
        start: the head to begin with.
        device: where to train.
        radius: greatest ‖w_c‖, or None for any.
    """

    def __init__(self, start: LinearHead, device: torch.device, radius: float | None = None):
        self.weight = torch.tensor(start.weight, device=device)
        bias = np.zeros(start.num_classes) if start.bias is None else start.bias
        self.bias = torch.tensor(bias, dtype=torch.float32, device=device)
        self.parameters: Sequence[Tensor] = (self.weight, self.bias)
        self.rates: Sequence[float] = (1.0, 1.0)
        self.radius = radius

    def scores(self, x: Tensor) -> Tensor:
        """See :class:`Model`."""
        return (x @ self.weight.to(x.dtype).T).float().add_(self.bias)

    def backward(self, x: Tensor, gradient: Tensor) -> None:
        """See :class:`Model`."""
        _product(gradient, x, self.weight.grad)
        torch.sum(gradient, 0, out=self.bias.grad)

    def project_(self) -> None:
        """Rows that are longer than the radius are shortened to it."""
        if self.radius is not None:
            shorten_(self.weight, self.radius)

    def head(self, info: dict[str, Any]) -> LinearHead:
        """See :class:`Model`."""
        return LinearHead(self.weight.cpu().numpy(), self.bias.cpu().numpy(), info=info)


class Cosine:
    """The cosine between x, which is given at unit length, and w_c.

    Its head is the linear layer of unit rows: ‖x‖ is the same for all classes, so both decide alike. Their
    probabilities differ.
    """

    def __init__(self, start: LinearHead, device: torch.device):
        self.weight = torch.tensor(start.weight, device=device)
        self.parameters: Sequence[Tensor] = (self.weight,)
        self.rates: Sequence[float] = (1.0,)

    def _unit_rows(self) -> tuple[Tensor, Tensor]:
        norms = self.weight.norm(dim=1, keepdim=True).clamp_(min=1e-12)
        return self.weight / norms, norms

    def scores(self, x: Tensor) -> Tensor:
        """See :class:`Model`."""
        return (x @ self._unit_rows()[0].to(x.dtype).T).float()

    def backward(self, x: Tensor, gradient: Tensor) -> None:
        """The part of the gradient that is orthogonal to w_c, divided by ‖w_c‖."""
        unit, norms = self._unit_rows()
        slot = self.weight.grad
        assert slot is not None
        _product(gradient, x, slot)
        slot.sub_(unit * (slot * unit).sum(1, keepdim=True)).div_(norms)

    def project_(self) -> None:
        """Nothing is forbidden."""

    def head(self, info: dict[str, Any]) -> LinearHead:
        """See :class:`Model`."""
        return LinearHead(self._unit_rows()[0].cpu().numpy(), info=info)


class Scaled:
    """f_c (w_c x + b_c), with W and b trained at ``layer_rate`` times the learning rate, and f at all of it."""

    def __init__(self, start: LinearHead, device: torch.device, layer_rate: float):
        self._layer = Linear(start, device)
        self.factor = torch.ones(start.num_classes, device=device)
        self.parameters: Sequence[Tensor] = (*self._layer.parameters, self.factor)
        self.rates: Sequence[float] = (layer_rate, layer_rate, 1.0)

    def scores(self, x: Tensor) -> Tensor:
        """See :class:`Model`."""
        self._inner = self._layer.scores(x)
        return self._inner * self.factor

    def backward(self, x: Tensor, gradient: Tensor) -> None:
        """See :class:`Model`."""
        torch.sum(self._inner.mul_(gradient), 0, out=self.factor.grad)
        self._layer.backward(x, gradient.mul_(self.factor))

    def project_(self) -> None:
        """Nothing is forbidden."""

    def head(self, info: dict[str, Any]) -> LinearHead:
        """One linear layer."""
        weight, bias = self._layer.weight * self.factor[:, None], self._layer.bias * self.factor
        return LinearHead(weight.cpu().numpy(), bias.cpu().numpy(), info=info)


class Factors:
    """f_c z_c + b_c u_c; f starts at 1, b at 0, so that weight decay pulls both to 0.

    Args:
        base: the head whose logits are z.
        device: where to train.
        shift_unit: (C,) u, or None for no shift.
        factors: whether f is trained; else it stays 1.
    """

    def __init__(self, base: Head, device: torch.device, shift_unit: Array | None, factors: bool = True):
        self.base = base
        self.factor = torch.ones(base.num_classes, device=device) if factors else None
        self.shift, self.unit = None, None
        if shift_unit is not None:
            self.shift = torch.zeros(base.num_classes, device=device)
            self.unit = torch.as_tensor(shift_unit, dtype=torch.float32).to(device)
        self.parameters: Sequence[Tensor] = [part for part in (self.factor, self.shift) if part is not None]
        self.rates: Sequence[float] = [1.0] * len(self.parameters)

    def scores(self, x: Tensor) -> Tensor:
        """See :class:`Model`."""
        scores = x.clone() if self.factor is None else x * self.factor
        if self.shift is not None and self.unit is not None:
            scores.addcmul_(self.shift, self.unit)
        return scores

    def backward(self, x: Tensor, gradient: Tensor) -> None:
        """See :class:`Model`."""
        if self.shift is not None and self.unit is not None:
            torch.mul(gradient.sum(0), self.unit, out=self.shift.grad)
        if self.factor is not None:
            torch.sum(gradient.mul_(x), 0, out=self.factor.grad)

    def project_(self) -> None:
        """Nothing is forbidden."""

    def head(self, info: dict[str, Any]) -> RescaledHead:
        """See :class:`Model`."""
        scale = None if self.factor is None else self.factor.cpu().numpy()
        offset = None if self.shift is None or self.unit is None else (self.shift * self.unit).cpu().numpy()
        return RescaledHead(self.base, scale, offset, info=info)


class Gated:
    """(1 + g α_c) z_c + g β_c,  g = σ(v · x + v₀),  z = W x + b with W and b fixed.

    Args:
        base: the linear head.
        device: where to train.
        unit: whether x is given at unit length; then z = s cos(x, w_c) without bias, and s is trained too.
        scale: s at the start.
    """

    def __init__(self, base: LinearHead, device: torch.device, unit: bool, scale: float):
        self._base, self._unit = base, unit
        bias = np.zeros(base.num_classes) if base.bias is None or unit else base.bias
        self._weight = torch.tensor(base.weight, device=device)
        if unit:
            self._weight /= self._weight.norm(dim=1, keepdim=True).clamp_(min=1e-12)
        self._bias = torch.tensor(bias, dtype=torch.float32, device=device)
        self.alpha = torch.ones(base.num_classes, device=device)
        self.beta = torch.zeros(base.num_classes, device=device)
        self.gate = torch.full((base.num_features,), 0.1, device=device)
        self.gate_bias = torch.zeros(1, device=device)
        self.scale = torch.tensor([scale if unit else 1.0], device=device)
        own = (self.alpha, self.beta, self.gate, self.gate_bias)
        self.parameters: Sequence[Tensor] = (*own, self.scale) if unit else own
        self.rates: Sequence[float] = [1.0] * len(self.parameters)

    def scores(self, x: Tensor) -> Tensor:
        """See :class:`Model`."""
        self._plain = torch.addmm(self._bias, x, self._weight.T)
        self._opening = (x @ self.gate + self.gate_bias).sigmoid_()[:, None]
        return (1 + self._opening * self.alpha).mul_(self._plain * self.scale).add_(self._opening * self.beta)

    def backward(self, x: Tensor, gradient: Tensor) -> None:
        """See :class:`Model`."""
        opening, z = self._opening, self._plain * self.scale
        opened = opening * gradient
        torch.sum(opened, 0, out=self.beta.grad)
        torch.sum(opened * z, 0, out=self.alpha.grad)
        of_gate = (gradient * (self.alpha * z + self.beta)).sum(1) * (opening * (1 - opening))[:, 0]
        torch.mv(x.T, of_gate, out=self.gate.grad)
        torch.sum(of_gate, 0, keepdim=True, out=self.gate_bias.grad)
        if self._unit:
            of_scale = gradient.mul_(1 + opening * self.alpha).mul_(self._plain).sum().reshape(1)
            assert self.scale.grad is not None
            self.scale.grad.copy_(of_scale)

    def project_(self) -> None:
        """Nothing is forbidden."""

    def head(self, info: dict[str, Any]) -> GatedHead:
        """See :class:`Model`."""
        base = LinearHead((self._weight * self.scale).cpu().numpy()) if self._unit else self._base
        alpha, beta, gate = (part.cpu().numpy().copy() for part in (self.alpha, self.beta, self.gate))
        return GatedHead(base, alpha, beta, gate, float(self.gate_bias), self._unit, info=info)


def shorten_(rows: Tensor, radius: float) -> Tensor:
    """Rows that are longer than the radius, shortened to it in place."""
    norms = rows.norm(dim=1, keepdim=True)
    return rows.mul_((radius / norms.clamp(min=1e-12)).clamp_(max=1.0))


def _product(gradient: Tensor, x: Tensor, out: Tensor | None) -> None:
    """Into ``out``: gradientᵀ x, multiplied in the type of x."""
    assert out is not None
    if x.dtype == torch.float32:
        torch.mm(gradient.T, x, out=out)
    else:
        out.copy_(gradient.to(x.dtype).T @ x)
