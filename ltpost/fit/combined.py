"""Learns how rare classes combine the classifiers of near frequent classes, in torch (``methods.alphanet``)."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import leaky_relu, normalize
from torch.optim.adamw import adamw
from tqdm.auto import tqdm

from ltpost.data.features import FeatureSet
from ltpost.data.tensors import as_tensor, find_device
from ltpost.fit.loss import cross_entropy_
from ltpost.fit.options import quiet
from ltpost.heads import LinearHead

HIDDEN = 32
BATCH, EPOCHS, RATE, STEP, DROP = 64, 25, 1e-3, 10, 0.1


def nearest_sources(
    weight: NDArray[np.float32], few: NDArray[np.int64], base: NDArray[np.int64], number: int
) -> NDArray[np.int64]:
    """(F, K) the K base classes whose weights are nearest (Euclidean) to that of each few-shot class."""
    own, others = weight[few].astype(np.float64), weight[base].astype(np.float64)
    distances = np.square(others).sum(1) - 2 * own @ others.T
    return base[np.argsort(distances, axis=1, kind="stable")[:, :number]]


def combination(parameters: list[Tensor], own: Tensor, sources: Tensor) -> Tensor:
    """New weights (F, D): own (F, D) plus coefficients times sources (F, K, D), of which the L1 norm is 1.

    The network sees own weights and sources one after the other, (1 + K) D numbers, and has two hidden layers.
    """
    x = torch.cat([own[:, None], sources], dim=1).flatten(1)
    first, first_bias, second, second_bias, last, last_bias = parameters
    x = leaky_relu(torch.addmm(first_bias, x, first))
    x = leaky_relu(torch.addmm(second_bias, x, second))
    coefficients = normalize(torch.addmm(last_bias, x, last), p=1.0, dim=1)
    return own + torch.einsum("fk,fkd->fd", coefficients, sources)


def learn_combination(
    train: FeatureSet,
    head: LinearHead,
    few: NDArray[np.int64],
    sources: NDArray[np.int64],
    *,
    ratio: float,
    seed: int,
    device: str,
    progress: bool,
) -> LinearHead:
    """The classifier with new weights for the few-shot classes; all else, biases too, stays.

    Args:
        train: training features (N, D) and labels.
        head: the classifier, (C, D).
        few: (F,) classes whose weights change.
        sources: (F, K) classes that each combines.
        ratio: rows of other classes in an epoch, as a part of those of few-shot classes; drawn with 1/n_c.
        seed: of the start and the batches.
        device: where to compute.
        progress: show a bar, on a terminal.
    """
    where = find_device(device)
    random, torch_random = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    weight = as_tensor(head.weight, where)
    bias = torch.zeros(len(weight), device=where) if head.bias is None else as_tensor(head.bias, where)
    few_classes = torch.from_numpy(few).to(where)
    own, others = weight[few_classes], weight[torch.from_numpy(sources).to(where)]
    sizes = [(sources.shape[1] + 1) * weight.shape[1], HIDDEN, HIDDEN, sources.shape[1]]
    parameters = []
    for columns, width in pairwise(sizes):
        bound = float(columns) ** -0.5  # as torch.nn.Linear starts
        for shape in ((columns, width), (width,)):
            random_start = torch.empty(shape).uniform_(-bound, bound, generator=torch_random)
            parameters.append(random_start.to(where).requires_grad_())
    optimiser = _AdamW(parameters)

    is_few = np.isin(train.labels, few)
    few_rows, base_rows = np.flatnonzero(is_few), np.flatnonzero(~is_few)
    likely = 1 / np.bincount(train.labels)[train.labels[base_rows]]
    likely /= likely.sum()
    number = min(round(ratio * len(few_rows)), len(base_rows))
    with tqdm(total=EPOCHS, desc="alphanet", unit="epoch", disable=quiet(progress)) as bar:
        for epoch in range(EPOCHS):
            rows = random.permutation(np.concatenate([few_rows, random.choice(base_rows, number, p=likely)]))
            for first in range(0, len(rows), BATCH):
                batch = rows[first : first + BATCH]
                block = train.read_features(batch)
                train.check_finite("features", block, batch)
                x, labels = as_tensor(block, where), torch.from_numpy(train.labels[batch]).to(where)
                new = combination(parameters, own, others)
                current = weight.index_copy(0, few_classes, new.detach())
                scores = torch.addmm(bias, x, current.T)
                cross_entropy_(scores, labels, 1 / len(batch))  # the scores become the gradient
                gradients = torch.autograd.grad(new, parameters, grad_outputs=scores[:, few_classes].T @ x)
                optimiser.step(list(gradients), RATE * DROP ** (epoch // STEP))
            bar.update()
    with torch.no_grad():
        new = combination(parameters, own, others)
        weight = weight.index_copy(0, few_classes, new)
    return LinearHead(weight.cpu().numpy(), head.bias)


class _AdamW:
    """torch.optim.AdamW by its function, as importing the class takes longer than many a fit."""

    def __init__(self, parameters: list[Tensor]):
        self.parameters = parameters
        self.first = [torch.zeros_like(parameter) for parameter in parameters]
        self.second = [torch.zeros_like(parameter) for parameter in parameters]
        self.steps = [torch.tensor(0.0) for _ in parameters]

    def step(self, gradients: list[Tensor], rate: float) -> None:
        """One step; weight decay is torch's default, 0.01."""
        with torch.no_grad():
            adamw(
                self.parameters,
                gradients,
                self.first,
                self.second,
                [],
                self.steps,
                amsgrad=False,
                beta1=0.9,
                beta2=0.999,
                lr=rate,
                weight_decay=0.01,
                eps=1e-8,
                maximize=False,
            )
