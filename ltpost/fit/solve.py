"""The four ways to a fitted head, in torch: a whole head or factors, by the convex solver or by SGD.

What this module does not do: choose the solver (``fitting``).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltpost.data.features import FeatureSet
from ltpost.data.tensors import find_device, training_features, training_logits
from ltpost.errors import UsageError
from ltpost.fit.loss import HeadLoss
from ltpost.fit.options import Fit, HeadFit, Recipe
from ltpost.fit.path import convex_path
from ltpost.fit.problems import Regression, Rescaling
from ltpost.fit.sampling import check_sampler, row_weights
from ltpost.fit.sgd import sgd
from ltpost.heads import Array, Head, LinearHead, RescaledHead

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def refit_convex(
    train: FeatureSet, counts: NDArray[np.int64], loss: HeadLoss, fit: HeadFit, name: str
) -> Iterator[Head]:
    """A whole head for every strength; ``counts`` (C,) are the training rows per class."""
    device = find_device(fit.device)
    problem = Regression(
        training_features(train, device),
        *_labels_and_weights(train, counts, loss, fit, device),
        train.num_classes,
        loss.on(device),
    )
    return convex_path(problem, fit.strengths, fit.tolerance, description=name, progress=fit.progress)


def rescale_convex(
    train: FeatureSet,
    counts: NDArray[np.int64],
    joint: Head,
    loss: HeadLoss,
    fit: Fit,
    name: str,
    shift_unit: Array | None,
) -> Iterator[Head]:
    """Factors and shifts for every strength."""
    device = find_device(fit.device)
    problem = Rescaling(
        training_logits(train, device),
        *_labels_and_weights(train, counts, loss, fit, device),
        joint,
        loss.on(device),
        shift_unit,
    )
    return convex_path(problem, fit.strengths, fit.tolerance, description=name, progress=fit.progress)


def _labels_and_weights(
    train: FeatureSet, counts: NDArray[np.int64], loss: HeadLoss, fit: Fit, device: torch.device
) -> tuple[Tensor, Tensor]:
    weights = row_weights(train.labels, counts, fit.sampler, loss.weight)
    return torch.from_numpy(train.labels).to(device), torch.from_numpy(weights).to(device, torch.float32)


def refit_sgd(train: FeatureSet, loss: HeadLoss, fit: HeadFit, recipe: Recipe, name: str) -> LinearHead:
    """A whole head by the published recipe: W and b start at random, and take a few epochs of SGD."""
    check_sampler(fit.sampler)
    if fit.precision not in PRECISIONS:
        raise UsageError(f"precision= must be one of {', '.join(PRECISIONS)}, but is {fit.precision!r}")
    device = find_device(fit.device)
    features = training_features(train, device, PRECISIONS[fit.precision])
    bound = 1 / np.sqrt(features.shape[1])  # of a new linear layer, as torch makes it
    random = torch.Generator().manual_seed(fit.seed)
    weight = torch.empty(train.num_classes, features.shape[1]).uniform_(-bound, bound, generator=random).to(device)
    bias = torch.empty(train.num_classes).uniform_(-bound, bound, generator=random).to(device)
    row_loss = _RowLoss(loss, device)

    def gradients(x: Tensor, labels: Tensor, row_weight: float) -> Tensor:
        scores = (x @ weight.to(x.dtype).T).float().add_(bias)
        value = row_loss(scores, labels, row_weight)
        if x.dtype == torch.float32:
            torch.mm(scores.T, x, out=weight.grad)
        else:
            weight.grad.copy_(scores.to(x.dtype).T @ x)  # type: ignore[union-attr]
        torch.sum(scores, 0, out=bias.grad)
        return value

    mean_loss = sgd(
        [weight, bias],
        gradients,
        features,
        train.labels,
        recipe,
        sampler=fit.sampler,
        seed=fit.seed,
        progress=fit.progress,
        description=name,
    )
    return LinearHead(weight.cpu().numpy(), bias.cpu().numpy(), info={"loss": mean_loss})


def rescale_sgd(
    train: FeatureSet, joint: Head, loss: HeadLoss, fit: Fit, recipe: Recipe, name: str, shift_unit: Array | None
) -> RescaledHead:
    """Factors and shifts by the published recipe: f starts at 1, b at 0; weight decay pulls both to 0."""
    check_sampler(fit.sampler)
    device = find_device(fit.device)
    logits = training_logits(train, device)
    factor = torch.ones(train.num_classes, device=device)
    shift = torch.zeros(train.num_classes, device=device)
    unit = None if shift_unit is None else torch.as_tensor(shift_unit, dtype=torch.float32).to(device)
    row_loss = _RowLoss(loss, device)

    def gradients(z: Tensor, labels: Tensor, row_weight: float) -> Tensor:
        scores = z * factor
        if unit is not None:
            scores.addcmul_(shift, unit)
        value = row_loss(scores, labels, row_weight)
        if unit is not None:
            torch.mul(scores.sum(0), unit, out=shift.grad)
        torch.sum(scores.mul_(z), 0, out=factor.grad)
        return value

    mean_loss = sgd(
        [factor] if unit is None else [factor, shift],
        gradients,
        logits,
        train.labels,
        recipe,
        sampler=fit.sampler,
        seed=fit.seed,
        progress=fit.progress,
        description=name,
    )
    offset = None if unit is None else (shift * unit).cpu().numpy()
    return RescaledHead(joint, factor.cpu().numpy(), offset, info={"loss": mean_loss})


class _RowLoss:
    """A loss with class weights, of a batch whose rows count alike."""

    def __init__(self, loss: HeadLoss, device: torch.device):
        self._loss = loss.on(device)
        self._weight = None if loss.weight is None else torch.as_tensor(loss.weight, dtype=torch.float32).to(device)

    def __call__(self, scores: Tensor, labels: Tensor, row_weight: float) -> Tensor:
        weights = row_weight if self._weight is None else self._weight[labels] * row_weight
        return self._loss(scores, labels, weights)
