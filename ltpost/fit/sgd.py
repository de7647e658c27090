"""SGD as the long-tail codes run it: momentum 0.9, weight decay, a cosine learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.sgd import sgd as fused_sgd
from tqdm.auto import tqdm

from ltpost.data import distributed
from ltpost.data.tensors import Matrix
from ltpost.fit.options import Recipe, quiet
from ltpost.fit.sampling import Sampler


def sgd(
    parameters: list[Tensor],
    gradients: Callable[[Tensor, Tensor, float], Tensor],
    matrix: Matrix,
    labels: NDArray[np.int64],
    recipe: Recipe,
    *,
    sampler: str,
    seed: int,
    progress: bool,
    description: str,
) -> float:
    """Minimise with SGD, momentum 0.9 and weight decay; ``parameters`` are changed in place.

    Args:
        parameters: tensors on one device.
        gradients: rows (b, K), their labels (b,) and the weight of a row to the weighted sum of losses (0-d, on the
            device); writes the gradient of it into every parameter's ``grad``.
        matrix: (N, K), the training rows.
        labels: (N,) of them.
        recipe: rates and sizes. An epoch is N // batch_size steps, whatever the sampler.
        sampler: one of ``sampling.SAMPLERS``.
        seed: of the sampler.
        progress: show a bar, on a terminal.
        description: its title.

    Returns:
        The mean loss over the last epoch.
    """
    device = parameters[0].device
    num_rows, own_labels = len(labels), torch.from_numpy(labels).to(device)
    labels, begin = distributed.join(labels)
    draws = Sampler(labels, sampler, seed)
    batch = min(recipe.batch_size, len(labels))
    steps = len(labels) // batch
    slots = [torch.zeros_like(parameter) for parameter in parameters]
    for parameter, slot in zip(parameters, slots, strict=True):
        parameter.grad = slot
    step = partial(  # torch.optim.SGD does the same, but imports torch._dynamo, which takes longer than many a fit
        fused_sgd,
        parameters,
        slots,
        [torch.zeros_like(parameter) for parameter in parameters],
        momentum=0.9,
        weight_decay=recipe.weight_decay,
        fused=True,
        dampening=0,
        nesterov=False,
        maximize=False,
    )
    mean_loss = math.nan
    with tqdm(total=recipe.epochs * steps, desc=description, unit="step", disable=quiet(progress)) as bar:
        for epoch in range(recipe.epochs):
            # NOTE[DIFF]: the reference steps its scheduler before the epoch, so its first epoch runs at less than the
            # stated rate and its last at zero. Here epoch e of E runs at lr/2 (1 + cos(π e / E)), e = 0 … E-1.
            rate = recipe.learning_rate * (1 + math.cos(math.pi * epoch / recipe.epochs)) / 2
            drawn = draws.draw(steps * batch, epoch / max(1, recipe.epochs - 1))
            total = torch.zeros((), dtype=torch.float64, device=device)
            # all processes draw the same batches, and each takes the rows that it holds
            here = (begin <= drawn) & (drawn < begin + num_rows)
            sizes = here.reshape(steps, batch).sum(1).tolist()
            for numbers, x in matrix.batches(drawn[here] - begin, sizes):
                total += gradients(x, own_labels[numbers], 1 / batch)
                for slot in slots:
                    distributed.sum_(slot)
                step(lr=rate)
                bar.update()
            mean_loss = float(distributed.sum_(total)) / steps
            bar.set_postfix(loss=f"{mean_loss:.4f}")
    # NOTE[DIFF]: the reference keeps the epoch that is best on val. Here the last one is kept; only model_selection
    # chooses.
    return mean_loss
