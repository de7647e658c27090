"""SADE's test-time weights of experts (Zhang et al., "Self-Supervised Aggregation …", NeurIPS 2022, arXiv:2107.09249).

    maximise over a on the simplex   mean_i cos(p_i1, p_i2),    p_ik = softmax(Σ_e a_e z_e(view k of row i))

One set of weights for all rows of the split: those with which the predictions on two augmented views agree most. It
sees the whole unlabelled test set, and its rows say so. What it does not do: train the experts, or work online.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ltpost.data.unlabelled import UnlabelledRows
from ltpost.errors import UsageError
from ltpost.family import Family
from ltpost.heads import AggregatedHead, ExpertHead
from ltpost.heads.aggregated import stacked_logits
from ltpost.heads.agreement import softmax, starts
from ltpost.method import Method

Doubles = NDArray[np.float64]
MOMENTUM, LEAST_WEIGHT = 0.9, 0.05  # of the reference code
_FEW_ROWS = 2000  # to find where to start from
_BLOCK_ELEMENTS = 2**20


def sade(
    experts: Sequence[ExpertHead],
    views: UnlabelledRows,
    *,
    solver: Literal["sgd", "optimum"] = "sgd",
    epochs: int = 5,
    learning_rate: float = 0.025,
    weight_decay: float = 5e-4,
    batch_size: int = 128,
    seed: int = 0,
) -> Family:
    """Finds the weights of the experts with which two augmented views of the test images agree most.

    Args:
        experts: E heads.
        views: the rows to classify, with two augmented views of each.
        solver: sgd: the recipe of the reference code; optimum: the maximum of the same objective on the simplex,
            without weight decay.
        epochs: of sgd, at most.
        learning_rate: of sgd; the paper takes 0.025 for ImageNet-LT, 0.1 for CIFAR-100-LT, 0.01 for Places-LT and 0.2
            for iNaturalist.
        weight_decay: of sgd; it acts on θ, a = softmax(θ), and so pulls to equal weights.
        batch_size: of sgd.
        seed: of the order of the rows.

    Returns:
        One head, linear like the experts; ``params`` hold the weights.

    Raises:
        DataError: rows without two views.
        UsageError: an option of sgd that is not positive.

    Cost: ``epochs`` passes over the logits of all experts on both views, 2 E C D products a row each; of the optimum
    one pass per evaluation, about 10 to 20; and two for the note. Measured with three experts of D = 2,048 and
    C = 1,000 on one core: 1.2 ms a row and pass. The objective is not concave, and small test sets have several maxima:
    the optimum is the one near the best point of a lattice.

    NOTE[DIFF]: θ starts at 0 instead of 1/3 each, which gives the same weights at every step. As in the reference
    code, training stops after an epoch that leaves a weight, rounded to two decimals, below 0.05, and the weights of
    that epoch are kept.
    """
    for name, value in (("epochs", epochs), ("learning_rate", learning_rate), ("batch_size", batch_size)):
        if value <= 0:
            raise UsageError(f"{name}= must be positive, but is {value:g}")
    objective = _Objective(experts, views)
    if solver == "optimum":
        weights, done = _maximise(objective), 0
    else:
        weights, done = _descend(objective, epochs, learning_rate, weight_decay, batch_size, seed)
    listed = ", ".join(f"{weight:.3f}" for weight in weights)
    before, after = (objective(a)[0] for a in (np.full(len(weights), 1 / len(weights)), weights))
    notes = [f"weights of the experts {listed}: mean cosine of two views {after:.4f}, with equal weights {before:.4f}"]
    if solver == "sgd" and done < epochs:
        notes.append(f"stopped after epoch {done} of {epochs}, as a weight fell below {LEAST_WEIGHT:g}")
    head = AggregatedHead(experts, weights)
    return Family.single(head, params={"weights": weights.tolist()}, notes=tuple(notes))


class _Objective:
    """The mean cosine and its derivative by the weights, over all rows or some.

    Args:
        experts: E heads.
        views: rows with two views of each.
    """

    def __init__(self, experts: Sequence[ExpertHead], views: UnlabelledRows):
        self.experts = experts
        self.rows, self.index = views.two_views()
        self.size = max(1, _BLOCK_ELEMENTS // (len(experts) * experts[0].num_classes))

    def __call__(self, weights: Doubles, rows: NDArray[np.int64] | None = None) -> tuple[float, Doubles]:
        """Mean cosine, and its derivative (E,)."""
        total, slope, count = 0.0, np.zeros(len(weights)), 0
        for first, second in self.blocks(rows):
            value, change = cosine_sum(weights, first, second)
            total, slope, count = total + value, slope + change, count + len(first)
        return total / count, slope / count

    def blocks(self, rows: NDArray[np.int64] | None = None) -> Iterator[tuple[Doubles, Doubles]]:
        """Logits (n, E, C) of both views, block by block."""
        index = self.index if rows is None else self.index[rows]
        for start in range(0, len(index), self.size):
            part = index[start : start + self.size]
            yield (
                stacked_logits(self.experts, self.rows, part[:, 0]),
                stacked_logits(self.experts, self.rows, part[:, 1]),
            )


def cosine_sum(weights: Doubles, first: Doubles, second: Doubles) -> tuple[float, Doubles]:
    """Σ_i cos(p_i1, p_i2) and its derivative by the weights, (E,).

    Args:
        weights: (E,).
        first: (n, E, C) logits of one view.
        second: (n, E, C) of the other.
    """
    p, q = (softmax(np.einsum("e,nec->nc", weights, view)) for view in (first, second))
    pq, pp, qq = (np.einsum("nc,nc->n", one, other)[:, None] for one, other in ((p, q), (p, p), (q, q)))
    cosine = pq / np.sqrt(pp * qq)
    by_p, by_q = q / np.sqrt(pp * qq) - cosine * p / pp, p / np.sqrt(pp * qq) - cosine * q / qq
    slope = np.zeros(len(weights))
    for prediction, change, view in ((p, by_p, first), (q, by_q, second)):
        by_z = prediction * (change - np.einsum("nc,nc->n", prediction, change)[:, None])  # through the softmax
        slope += np.einsum("nc,nec->e", by_z, view)
    return float(cosine.sum()), slope


def _descend(
    objective: _Objective, epochs: int, learning_rate: float, weight_decay: float, batch_size: int, seed: int
) -> tuple[Doubles, int]:
    """SADE's recipe: SGD with Nesterov momentum on θ. Returns the weights, and how many epochs it took."""
    theta, velocity = np.zeros(len(objective.experts)), np.zeros(len(objective.experts))
    random = np.random.default_rng(seed)
    for epoch in range(1, epochs + 1):
        order = random.permutation(len(objective.index))
        for start in range(0, len(order), batch_size):
            weights = softmax(theta)
            _, slope = objective(weights, order[start : start + batch_size])
            gradient = -weights * (slope - weights @ slope) + weight_decay * theta
            velocity = MOMENTUM * velocity + gradient
            theta = theta - learning_rate * (gradient + MOMENTUM * velocity)
        weights = softmax(theta)
        if np.round(weights, 2).min() < LEAST_WEIGHT:
            return weights, epoch
    return weights, epochs


def _maximise(objective: _Objective) -> Doubles:
    """The maximum that SLSQP reaches from the best point of a lattice, which some of the rows show."""
    from scipy.optimize import minimize

    count = len(objective.experts)

    some = np.unique(np.linspace(0, len(objective.index) - 1, _FEW_ROWS).astype(np.int64))
    points = [np.full(count, 1 / count), *starts(count)]
    totals = np.zeros(len(points))
    for first, second in objective.blocks(some):
        totals += [cosine_sum(point, first, second)[0] for point in points]
    start = points[int(np.argmax(totals))]

    def negative(weights: Doubles) -> tuple[float, Doubles]:
        value, slope = objective(weights)
        return -value, -slope

    solution = minimize(
        negative,
        start,
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * count,
        constraints={"type": "eq", "fun": lambda a: a.sum() - 1, "jac": np.ones_like},
        options={"ftol": 1e-9},
    )
    weights = np.clip(solution.x, 0, None)
    return np.asarray(weights / weights.sum())


METHOD = Method(
    "sade",
    sade,
    title="test-time weights of the experts",
    label="SADE",
    equation="Σ_e a_e z_ec",
    source="Zhang et al., NeurIPS 2022",
    how="SGD recipe, or the optimum",
    example="ltpost sade --solver optimum",
)
