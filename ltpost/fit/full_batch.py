"""Any model that SGD trains, for the full-batch solver: all rows at once, and a penalty that pulls to the start."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ltpost.data import distributed
from ltpost.data.tensors import Matrix
from ltpost.fit.lbfgs import Nearby
from ltpost.fit.loss import BoundLoss
from ltpost.fit.models import Model
from ltpost.heads import Head


class FullBatch:
    """The loss over θ, what is added to the parameters of a model; a :class:`~ltpost.fit.path.Problem`.

    Args:
        model: its parameters as they are now are the start.
        rows: (N, K).
        labels: (N,) of them, int64.
        weights: (N,) what each row counts.
        num_classes: C.
        loss: of the scores; one that is a sum over rows.
    """

    cost = 1.0
    near: Nearby | None = None

    def __init__(self, model: Model, rows: Matrix, labels: Tensor, weights: Tensor, num_classes: int, loss: BoundLoss):
        self.model, self.rows, self.labels, self.weights, self.loss = model, rows, labels, weights, loss
        self.num_classes, self.strength = num_classes, 0.0
        self._start = torch.cat([parameter.flatten() for parameter in model.parameters])
        for parameter in model.parameters:
            parameter.grad = torch.zeros_like(parameter)

    def start(self) -> Tensor:
        """0: the parameters as they were. A small step from there is not rounded, as a sum with them would be."""
        return torch.zeros_like(self._start)

    def _set(self, theta: Tensor) -> None:
        sizes = [parameter.numel() for parameter in self.model.parameters]
        for parameter, part in zip(self.model.parameters, torch.split(self._start + theta, sizes), strict=True):
            parameter.copy_(part.view_as(parameter))

    def __call__(self, theta: Tensor) -> tuple[float, Tensor]:
        """Value and gradient: one pass over the rows."""
        self._set(theta)
        total = torch.zeros((), dtype=torch.float64, device=theta.device)
        gradient = torch.zeros_like(theta)
        for part, x in self.rows.blocks(self.num_classes):
            scores = self.model.scores(x)
            total += self.loss(scores, self.labels[part], self.weights[part])
            self.model.backward(x, scores)
            slots = (parameter.grad for parameter in self.model.parameters)
            gradient += torch.cat([slot.flatten() for slot in slots if slot is not None])
        return float(distributed.sum_(total)), distributed.sum_(gradient)

    def penalised(self, step: Tensor) -> Tensor:
        """All of it."""
        return step.clone()

    def refresh(self, theta: Tensor) -> float:
        """Nothing to adapt."""
        return 0.0

    def precondition(self, gradient: Tensor) -> Tensor:
        """The gradient itself; the pairs of L-BFGS scale it."""
        return gradient.clone()

    def head(self, theta: Tensor, info: dict[str, Any]) -> Head:
        """The head of the model with θ added."""
        self._set(theta)
        return self.model.head(info)
