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
    """s_ic = -½ ‖(x_i - p_c) / T‖ with prototypes p (C, D) and temperatures T (D,).

    With r_ic = ‖(x_i - p_c) / T‖, h_ic = -½ ∂L/∂s_ic / r_ic and v = 1/T²,

        ∂L/∂p_c = v ∘ Σ_i h_ic (p_c - x_i)        ∂L/∂T = -1/T³ ∘ Σ_ic h_ic (x_i - p_c)²

    which takes two matrix products and no (n, C, D) numbers.

    Args:
        means: (C, D) prototypes to start from; temperatures start at 1.
        device: where to train.
        temperature_rate: learning rate of the temperatures, as a multiple of that of the prototypes.
        temperature_decay: weight decay of the temperatures; prototypes have none.
    """

    def __init__(
        self, means: NDArray[np.float64], device: torch.device, *, temperature_rate: float, temperature_decay: float
    ):
        self.prototypes = torch.from_numpy(means.astype(np.float32)).to(device)
        self.temperature = torch.ones(means.shape[1], device=device)
        self.parameters: Sequence[Tensor] = (self.prototypes, self.temperature)
        self.rates: Sequence[float] = (1.0, temperature_rate)
        self._decay = temperature_decay if distributed.rank() == 0 else 0.0  # gradients are summed over processes
        self._distance = torch.empty(0, device=device)

    def scores(self, x: Tensor) -> Tensor:
        """See :class:`~ltpost.fit.models.Model`."""
        inverse = self.temperature.square().reciprocal()
        weighted = x * inverse
        lengths = (x * weighted).sum(1, keepdim=True)
        squares = lengths + (self.prototypes.square() @ inverse) - 2 * (weighted @ self.prototypes.T)
        near = squares <= _NEAR * lengths  # the row is the prototype: the distance has a kink there
        distance = squares.clamp(min=0).sqrt()
        self._distance = distance.masked_fill(near, torch.inf)
        return distance * -0.5

    def backward(self, x: Tensor, gradient: Tensor) -> None:
        """See :class:`~ltpost.fit.models.Model`."""
        h = gradient.mul_(-0.5).div_(self._distance)
        by_class, by_row, product = h.sum(0), h.sum(1), h.T @ x
        inverse = self.temperature.square().reciprocal()
        spread = by_row @ x.square() - 2 * (self.prototypes * product).sum(0) + by_class @ self.prototypes.square()
        of_temperature = self._decay * self.temperature - spread / self.temperature**3
        self.prototypes.grad.copy_(inverse * (self.prototypes * by_class[:, None] - product))  # type: ignore[union-attr]
        self.temperature.grad.copy_(of_temperature)  # type: ignore[union-attr]

    def project_(self) -> None:
        """Nothing is forbidden."""

    def head(self, info: dict[str, Any]) -> PrototypeHead:
        """See :class:`~ltpost.fit.models.Model`."""
        head = PrototypeHead(self.prototypes.cpu().numpy(), self.temperature.cpu().numpy())
        head.info.update(info)
        return head


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
    """Prototypes that start at ``means`` (C, D), and temperatures that start at 1.

    Args:
        train: training features (N, D) and labels.
        means: (C, D).
        offset: (C,) what is added to the scores in training.
        recipe: of the prototypes.
        temperature_rate: learning rate of the temperatures at the start.
        temperature_decay: weight decay of the temperatures.
        seed: of the batches.
        device: where to compute.
        progress: show a bar, on a terminal.
    """
    where = find_device(device)
    model = Prototypes(
        means,
        where,
        temperature_rate=temperature_rate / recipe.learning_rate,
        temperature_decay=temperature_decay,
    )
    loss = sgd(
        model,
        Loss(offset=offset),
        training_features(train, where),
        train.labels,
        recipe,
        sampler="class-balanced",
        seed=seed,
        progress=progress,
        description="prototypes",
    )
    return model.head({"loss": loss})
