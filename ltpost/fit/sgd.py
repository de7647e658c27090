"""SGD as the long-tail codes run it: momentum 0.9, weight decay, a cosine learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.sgd import sgd as fused_sgd
from tqdm.auto import tqdm

from ltpost.data import distributed
from ltpost.data.tensors import Matrix
from ltpost.fit.loss import HeadLoss, WholeLoss
from ltpost.fit.models import Model
from ltpost.fit.options import Recipe, quiet
from ltpost.fit.sampling import Sampler


class Mix(Protocol):
    """Makes the rows of a batch from two: the drawn ones, and as many others, drawn as by the sampler instance."""

    def __call__(self, x: Tensor, others: Tensor, random: np.random.Generator) -> Tensor:
        """(n, K) rows, from (n, K) and (n, K); ``random`` is the same in every process."""


def sgd(
    model: Model,
    loss: HeadLoss,
    matrix: Matrix,
    labels: NDArray[np.int64],
    recipe: Recipe,
    *,
    sampler: str | NDArray[np.float64],
    seed: int,
    progress: bool,
    description: str,
    mix: Mix | None = None,
) -> float:
    """Minimise with SGD, momentum 0.9 and weight decay; the model is changed in place.

    Args:
        model: what is trained.
        loss: of its scores.
        matrix: (N, K), the training rows.
        labels: (N,) of them.
        recipe: rates and sizes. An epoch is N // batch_size steps, whatever the sampler.
        sampler: one of ``sampling.SAMPLERS``, or how likely a row is of each class, (C,).
        seed: of the sampler.
        progress: show a bar, on a terminal.
        description: its title.
        mix: makes the rows of a batch from two. A process takes the others from its own rows.

    Returns:
        The mean loss over the last epoch.
    """
    device = matrix.device
    own_labels = labels
    labels_here = torch.from_numpy(labels).to(device)
    labels, begin = distributed.join(labels)
    draws = Sampler(labels, sampler, seed)
    others = None if mix is None else Sampler(own_labels, "instance", seed + 1)
    random = np.random.default_rng(seed + 2)
    batch = min(recipe.batch_size, len(labels))
    steps = len(labels) // batch
    row_loss = _RowLoss(loss, device)
    for parameter in model.parameters:
        parameter.grad = torch.zeros_like(parameter)
    update = _updates(model, recipe.weight_decay)
    mean_loss = math.nan
    with tqdm(total=recipe.epochs * steps, desc=description, unit="step", disable=quiet(progress)) as bar:
        for epoch in range(recipe.epochs):
            # NOTE[DIFF]: the reference steps its scheduler before the epoch, so its first epoch runs at less than the
            # stated rate and its last at zero. Here epoch e of E runs at lr/2 (1 + cos(π e / E)), e = 0 … E-1.
            rate = recipe.learning_rate * (1 + math.cos(math.pi * epoch / recipe.epochs)) / 2
            drawn = draws.draw(steps * batch, epoch / max(1, recipe.epochs - 1))
            total = torch.zeros((), dtype=torch.float64, device=device)
            # all processes draw the same batches, and each takes the rows that it holds
            here = (begin <= drawn) & (drawn < begin + len(own_labels))
            sizes = here.reshape(steps, batch).sum(1).tolist()
            batches = matrix.batches(drawn[here] - begin, sizes)
            if mix is not None and others is not None:
                batches = _mixed(batches, matrix.batches(others.draw(sum(sizes)), sizes), mix, random)
            for numbers, x in batches:
                scores = model.scores(x)
                total += row_loss(scores, labels_here[numbers], 1 / batch)
                model.backward(x, scores)
                for parameter in model.parameters:
                    assert parameter.grad is not None
                    distributed.sum_(parameter.grad)
                update(rate)
                model.project_()
                bar.update()
            mean_loss = float(distributed.sum_(total)) / steps
            bar.set_postfix(loss=f"{mean_loss:.4f}")
    # NOTE[DIFF]: the reference keeps the epoch that is best on val. Here the last one is kept; only model_selection
    # chooses.
    return mean_loss


Batches = Iterator[tuple[Tensor, Tensor]]


def _mixed(batches: Batches, others: Batches, mix: Mix, random: np.random.Generator) -> Batches:
    for (numbers, x), (_, other) in zip(batches, others, strict=True):
        yield numbers, mix(x, other, random)


def _updates(model: Model, weight_decay: float) -> Callable[[float], None]:
    """A function that takes one step at a learning rate."""
    groups = []
    for part in sorted(set(model.rates)):
        parameters = [p for p, rate in zip(model.parameters, model.rates, strict=True) if rate == part]
        slots = [parameter.grad for parameter in parameters if parameter.grad is not None]
        step = partial(  # torch.optim.SGD does the same, but imports torch._dynamo, which takes longer than many a fit
            fused_sgd,
            parameters,
            slots,
            [torch.zeros_like(parameter) for parameter in parameters],
            momentum=0.9,
            weight_decay=weight_decay,
            fused=True,
            dampening=0,
            nesterov=False,
            maximize=False,
        )
        groups.append((part, step))

    def update(rate: float) -> None:
        for part, step in groups:
            step(lr=part * rate)

    return update


class _RowLoss:
    """A loss with class weights, of a batch whose rows count alike."""

    def __init__(self, loss: HeadLoss, device: torch.device):
        self._loss = loss.on(device)
        self._weight = None if loss.weight is None else torch.as_tensor(loss.weight, dtype=torch.float32).to(device)

    def __call__(self, scores: Tensor, labels: Tensor, row_weight: float) -> Tensor:
        weights = row_weight if self._weight is None else self._weight[labels] * row_weight
        if isinstance(self._loss, WholeLoss):
            self._loss.gather(scores, labels, weights)
            self._loss.settle()
        return self._loss(scores, labels, weights)
