"""Learns prototypes and channel temperatures by SGD, in torch (``methods.prototype_classifier``)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltpost.data import distributed
from ltpost.data.features import FeatureSet
from ltpost.data.tensors import find_device, training_features
from ltpost.fit.loss import BoundLoss, Loss
from ltpost.fit.options import Recipe
from ltpost.fit.sgd import sgd
from ltpost.heads import PrototypeHead

_NEAR = 1e-5  # of the squared length of a row: below it, a squared distance is rounding


def score_gradients(
    x: Tensor, prototypes: Tensor, temperature: Tensor, scores_to_gradient: BoundLoss, labels: Tensor, row_weight: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Value of a loss of s_ic = -½ ‖(x_i - p_c) / T‖, and its gradients with respect to p (C, D) and T (D,).

    With r_ic = ‖(x_i - p_c) / T‖, h_ic = -½ ∂L/∂s_ic / r_ic and v = 1/T²,

        ∂L/∂p_c = v ∘ Σ_i h_ic (p_c - x_i)        ∂L/∂T = -1/T³ ∘ Σ_ic h_ic (x_i - p_c)²

    which takes two matrix products and no (n, C, D) numbers.
    """
    inverse = temperature.square().reciprocal()
    weighted = x * inverse
    lengths = (x * weighted).sum(1, keepdim=True)
    squares = lengths + (prototypes.square() @ inverse) - 2 * (weighted @ prototypes.T)
    near = squares <= _NEAR * lengths  # the row is the prototype: the distance has a kink there
    distance = squares.clamp(min=0).sqrt()
    scores = distance * -0.5
    value = scores_to_gradient(scores, labels, row_weight)  # replaces the scores by the gradient
    h = scores.mul_(-0.5).div_(distance.masked_fill(near, torch.inf))
    by_class, by_row = h.sum(0), h.sum(1)
    product = h.T @ x
    prototype_gradient = inverse * (prototypes * by_class[:, None] - product)
    spread = by_row @ x.square() - 2 * (prototypes * product).sum(0) + by_class @ prototypes.square()
    return value, prototype_gradient, -spread / temperature**3


def learn_prototypes(
    train: FeatureSet,
    means: NDArray[np.float64],
    log_counts: NDArray[np.float64],
    recipe: Recipe,
    *,
    temperature_rate: float,
    temperature_decay: float,
    logit_scale: float,
    seed: int,
    device: str,
    progress: bool,
    name: str,
) -> PrototypeHead:
    """Prototypes that start at ``means`` (C, D), and temperatures that start at 1.

    Args:
        train: training features (N, D) and labels.
        means: (C, D).
        log_counts: (C,) log n_c; a part 1/``logit_scale`` of them is added to the scores in training.
        recipe: of the prototypes.
        temperature_rate: learning rate of the temperatures at the start.
        temperature_decay: weight decay of the temperatures.
        logit_scale: see ``log_counts``.
        seed: of the batches.
        device: where to compute.
        progress: show a bar, on a terminal.
        name: of the bar.
    """
    where = find_device(device)
    features = training_features(train, where)
    prototypes = torch.from_numpy(means.astype(np.float32)).to(where)
    # SGD has one rate. With T = a u and a² = rate of T / rate of the prototypes, it moves T at its own rate.
    unit = (temperature_rate / recipe.learning_rate) ** 0.5
    scaled = torch.full((prototypes.shape[1],), 1 / unit, device=where)
    loss = Loss(offset=log_counts / logit_scale).on(where)
    first = distributed.rank() == 0  # gradients are summed over processes, the decay counts once

    def gradients(x: Tensor, labels: Tensor, row_weight: float) -> Tensor:
        temperature = scaled * unit
        value, of_prototypes, of_temperature = score_gradients(x, prototypes, temperature, loss, labels, row_weight)
        if first:
            of_temperature = of_temperature + temperature_decay * temperature
        prototypes.grad.copy_(of_prototypes)  # type: ignore[union-attr]
        scaled.grad.copy_(of_temperature * unit)  # type: ignore[union-attr]
        return value

    sgd(
        [prototypes, scaled],
        gradients,
        features,
        train.labels,
        recipe,
        sampler="class-balanced",
        seed=seed,
        progress=progress,
        description=name,
    )
    return PrototypeHead(prototypes.cpu().numpy(), (scaled * unit).cpu().numpy())
