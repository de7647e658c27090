"""Learns prototypes and channel temperatures by SGD, in torch (``methods.prototype_classifier``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltpost.data import distributed
from ltpost.data.features import FeatureSet
from ltpost.data.tensors import find_device, training_features
from ltpost.fit.loss import Loss
from ltpost.fit.options import Recipe
from ltpost.fit.sgd import sgd
from ltpost.heads import PrototypeHead

_NEAR = 1e-5  # of the squared length of a row: below it, a squared distance is rounding


class Prototypes:
    """s_ic = -½ ‖(x_i - p_c) / T‖, with the gradients for p (C, D) and T (D,) written out.

    With r_ic = ‖(x_i - p_c) / T‖, h_ic = -½ ∂L/∂s_ic / r_ic and v = 1/T²,

        ∂L/∂p_c = v ∘ Σ_i h_ic (p_c - x_i)        ∂L/∂T = -1/T³ ∘ Σ_ic h_ic (x_i - p_c)²

    which takes two matrix products and no (n, C, D) numbers.

    Args:
        start: (C, D) prototypes to begin with; every temperature begins at 1.
        rate: learning rate of the temperatures, as a part of that of the prototypes.
        decay: weight decay of the temperatures.
        device: where to train.
    """

    def __init__(self, start: NDArray[Any], rate: float, decay: float, device: torch.device):
        self.prototypes = torch.tensor(start, dtype=torch.float32, device=device)
        self._unit, self._decay = rate**0.5, decay
        # T = a u with a² = rate: at the rate of the prototypes, a step of u moves T at its own
        self._scaled = torch.full((start.shape[1],), 1 / self._unit, device=device)
        self.parameters: Sequence[Tensor] = (self.prototypes, self._scaled)

    @property
    def temperature(self) -> Tensor:
        """T, (D,)."""
        temperature: Tensor = self._scaled * self._unit
        return temperature

    def scores(self, x: Tensor) -> Tensor:
        """(n, D) rows to (n, C) scores, which the caller may overwrite."""
        self._inverse = self.temperature.square().reciprocal()
        weighted = x * self._inverse
        lengths = (x * weighted).sum(1, keepdim=True)
        squares = lengths + (self.prototypes.square() @ self._inverse) - 2 * (weighted @ self.prototypes.T)
        near = squares <= _NEAR * lengths  # the row is the prototype: the distance has a kink there
        distance = squares.clamp(min=0).sqrt()
        self._distance = distance.masked_fill(near, torch.inf)
        return distance * -0.5

    def backward(self, x: Tensor, gradient: Tensor) -> None:
        """Write into ``grad`` of both parameters, from the gradient (n, C) with respect to the last scores."""
        h = gradient.mul_(-0.5).div_(self._distance)
        by_class, by_row = h.sum(0), h.sum(1)
        product = h.T @ x
        torch.mul(self.prototypes * by_class[:, None] - product, self._inverse, out=self.prototypes.grad)
        spread = by_row @ x.square() - 2 * (self.prototypes * product).sum(0) + by_class @ self.prototypes.square()
        of_temperature = -spread / self.temperature**3
        if distributed.rank() == 0:  # gradients are summed over processes, the decay counts once
            of_temperature += self._decay * self.temperature
        torch.mul(of_temperature, self._unit, out=self._scaled.grad)

    def head(self) -> PrototypeHead:
        """The head."""
        return PrototypeHead(self.prototypes.cpu().numpy(), self.temperature.cpu().numpy())


def learn_prototypes(
    train: FeatureSet,
    means: NDArray[np.float64],
    offset: NDArray[np.float64],
    recipe: Recipe,
    *,
    temperature_rate: float,
    temperature_decay: float,
    seed: int,
    device: str,
    progress: bool,
) -> PrototypeHead:
    """Prototypes that start at ``means``, and temperatures that start at 1.

    Args:
        train: training features (N, D) and labels.
        means: (C, D).
        offset: (C,), added to the scores in training.
        recipe: of the prototypes.
        temperature_rate: learning rate of the temperatures at the start.
        temperature_decay: weight decay of the temperatures.
        seed: of the batches.
        device: where to compute.
        progress: show a bar, on a terminal.
    """
    where = find_device(device)
    features = training_features(train, where)
    model = Prototypes(means, temperature_rate / recipe.learning_rate, temperature_decay, where)
    loss = Loss(offset=offset).on(where)

    def gradients(x: Tensor, labels: Tensor, row_weight: float) -> Tensor:
        scores = model.scores(x)
        value = loss(scores, labels, row_weight)  # replaces the scores by the gradient
        model.backward(x, scores)
        return value

    sgd(
        list(model.parameters),
        gradients,
        features,
        train.labels,
        recipe,
        sampler="class-balanced",
        seed=seed,
        progress=progress,
        description="prototypes",
    )
    return model.head()
