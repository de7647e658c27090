"""The ways to a fitted head, in torch: a whole layer or factors, by a full-batch solver or by SGD.

What this module does not do: choose the solver (``fitting``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from ltpost.data.features import FeatureSet
from ltpost.data.tensors import Matrix, find_device, training_features, training_logits
from ltpost.errors import UsageError
from ltpost.fit.full_batch import FullBatch
from ltpost.fit.layer import Layer
from ltpost.fit.loss import HeadLoss
from ltpost.fit.models import Cosine, Factors, Gated, Linear, Model, Scaled
from ltpost.fit.options import Fit, HeadFit, Recipe
from ltpost.fit.path import convex_path
from ltpost.fit.precision import has_bfloat16
from ltpost.fit.projected import ball_path
from ltpost.fit.regression import Regression
from ltpost.fit.rescaling import Rescaling
from ltpost.fit.sampling import check_sampler, row_weights
from ltpost.fit.sgd import Mix, sgd
from ltpost.heads import Array, Head, LinearHead

#: a step is not worth a pass of seconds where it lowers the objective by no more than this part times the tolerance
GAIN = 3e-3
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def refit_convex(
    train: FeatureSet,
    counts: NDArray[np.int64],
    loss: HeadLoss,
    fit: HeadFit,
    name: str,
    layer: Layer,
    shares: Array | None,
    starts: int,
) -> Iterator[Head]:
    """A whole layer for every strength.

    ``counts`` (C,) are the training rows per class, ``shares`` (C,) takes the place of the sampler, and of ``starts``
    descents the lowest end is kept.
    """
    device = find_device(fit.device)
    features, much = _features(train, device, torch.float32, layer.cosine), fit.is_much_work(train)
    problem = Regression(
        features,
        *_labels_and_weights(train, counts, loss, fit.sampler if shares is None else shares, device),
        train.num_classes,
        loss.on(device),
        start=layer.start if layer.pull else None,
        bias=not layer.cosine,
        bfloat16=much and has_bfloat16(device),
    )
    if layer.max_norm is not None:
        return ball_path(problem, layer.max_norm, fit.strengths, fit.tolerance, description=name, progress=fit.progress)

    begins = [None, *(problem.random_start(fit.seed + number) for number in range(1, starts))]
    gain = GAIN * fit.tolerance if much else 0.0
    paths = (
        convex_path(
            problem, fit.strengths, fit.tolerance, description=name, progress=fit.progress, begin=begin, gain=gain
        )
        for begin in begins
    )
    return next(paths) if starts == 1 else _lowest(chain.from_iterable(paths))


def _lowest(heads: Iterable[Head]) -> Iterator[Head]:
    """Of several heads for every strength, the one with the lowest objective."""
    by_strength: dict[float, list[Head]] = {}
    for head in heads:
        by_strength.setdefault(head.info["strength"], []).append(head)
        by_strength[head.info["strength"]].sort(key=lambda head: float(head.info["objective"]))
    for _, same in sorted(by_strength.items(), reverse=True):
        objectives = [head.info["objective"] for head in same]
        passes = round(sum(head.info["passes"] for head in same), 2)
        same[0].info.update(starts=len(same), objectives=objectives, passes=passes)
        yield same[0]


def rescale_convex(
    train: FeatureSet,
    counts: NDArray[np.int64],
    joint: Head,
    loss: HeadLoss,
    fit: Fit,
    name: str,
    shift_unit: Array | None,
    factors: bool,
) -> Iterator[Head]:
    """Factors and shifts for every strength."""
    device = find_device(fit.device)
    problem = Rescaling(
        training_logits(train, device),
        *_labels_and_weights(train, counts, loss, fit.sampler, device),
        joint,
        loss.on(device),
        shift_unit,
        factors,
    )
    return convex_path(problem, fit.strengths, fit.tolerance, description=name, progress=fit.progress)


def _labels_and_weights(
    train: FeatureSet, counts: NDArray[np.int64], loss: HeadLoss, sampler: str | Array, device: torch.device
) -> tuple[Tensor, Tensor]:
    weights = row_weights(train.labels, counts, sampler, loss.weight)
    return torch.from_numpy(train.labels).to(device), torch.from_numpy(weights).to(device, torch.float32)


def _features(train: FeatureSet, device: torch.device, dtype: torch.dtype, unit: bool) -> Matrix:
    """Features (N, D), at unit length if ``unit``; a row of zeros stays one."""
    if not unit:
        return training_features(train, device, dtype)

    def finish(rows: Tensor) -> Tensor:
        return normalize(rows.float(), dim=1).to(dtype)

    return Matrix(train.features, train.feature_blocks(), finish, train.features.shape[1], device, dtype)


def refit_sgd(
    train: FeatureSet,
    loss: HeadLoss,
    fit: HeadFit,
    recipe: Recipe,
    name: str,
    layer: Layer,
    shares: Array | None,
    mix: Mix | None,
) -> Head:
    """A whole layer by the published recipe: a few epochs of SGD, from a head or from a random one."""
    check_sampler(fit.sampler)
    if fit.precision not in PRECISIONS:
        raise UsageError(f"precision= must be one of {', '.join(PRECISIONS)}, but is {fit.precision!r}")
    device = find_device(fit.device)
    features = _features(train, device, PRECISIONS[fit.precision], layer.cosine)
    start = layer.start or random_head(train.num_classes, features.shape[1], fit.seed)
    model: Model
    if layer.cosine:
        model = Cosine(start, device)
    elif layer.factor is not None:
        model = Scaled(start, device, layer.factor)
    else:
        model = Linear(start, device, layer.max_norm)
    return train_by_sgd(model, features, train, loss, fit, recipe, name, shares, mix)


def random_head(num_classes: int, num_features: int, seed: int) -> LinearHead:
    """A new linear layer, as torch makes it."""
    bound = 1 / np.sqrt(num_features)
    random = torch.Generator().manual_seed(seed)
    weight = torch.empty(num_classes, num_features).uniform_(-bound, bound, generator=random)
    bias = torch.empty(num_classes).uniform_(-bound, bound, generator=random)
    return LinearHead(weight.numpy(), bias.numpy())


def rescale_sgd(
    train: FeatureSet,
    joint: Head,
    loss: HeadLoss,
    fit: Fit,
    recipe: Recipe,
    name: str,
    shift_unit: Array | None,
    factors: bool,
) -> Head:
    """Factors and shifts by the published recipe: f starts at 1, b at 0; weight decay pulls both to 0."""
    check_sampler(fit.sampler)
    device = find_device(fit.device)
    logits = training_logits(train, device)
    return train_by_sgd(Factors(joint, device, shift_unit, factors), logits, train, loss, fit, recipe, name)


def gate(
    train: FeatureSet,
    counts: NDArray[np.int64],
    head: LinearHead,
    loss: HeadLoss,
    fit: Fit,
    recipe: Recipe | None,
    name: str,
    unit: bool,
    scale: float,
) -> Iterator[Head]:
    """Gated heads: one by the recipe, or without a recipe one for every strength."""
    check_sampler(fit.sampler)
    device = find_device(fit.device)
    features, model = _features(train, device, torch.float32, unit), Gated(head, device, unit, scale)
    if recipe is not None:
        return iter([train_by_sgd(model, features, train, loss, fit, recipe, name)])
    rows = _labels_and_weights(train, counts, loss, fit.sampler, device)
    problem = FullBatch(model, features, *rows, train.num_classes, loss.on(device))
    return convex_path(problem, fit.strengths, fit.tolerance, description=name, progress=fit.progress)


def train_by_sgd(
    model: Model,
    matrix: Matrix,
    train: FeatureSet,
    loss: HeadLoss,
    fit: Fit,
    recipe: Recipe,
    name: str,
    shares: Array | None = None,
    mix: Mix | None = None,
) -> Head:
    """The head of a model that SGD has trained on the rows of ``matrix``."""
    mean_loss = sgd(
        model,
        loss,
        matrix,
        train.labels,
        recipe,
        sampler=fit.sampler if shares is None else shares,
        seed=fit.seed,
        progress=fit.progress,
        description=name,
        mix=mix,
    )
    return model.head({"loss": mean_loss})
