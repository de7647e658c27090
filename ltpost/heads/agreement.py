"""How far two views of a row agree when experts are combined with weights on the simplex, and where they agree most.

    y_k(λ) = Σ_e λ_e z_e(view k),    k = 1, 2        maximise over λ ≥ 0, Σ λ = 1 the similarity of y_1 and y_2

The similarity is the cosine or the dot product, of the combined logits or of their softmax. On logits it follows from
three E x E Gram matrices per row, whatever C is (``Z_k`` are the (E, C) logits of a view):

    y_1·y_2 = λᵀ Z_1 Z_2ᵀ λ          ‖y_k‖² = λᵀ Z_k Z_kᵀ λ

What this module does not do: read rows, or know what an expert is.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations, product
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
Space = Literal["softmax", "logits"]
Similarity = Literal["cosine", "dot"]
#: (n, E) weights to (n,) similarities
Agreement = Callable[[Doubles], Doubles]

PRECISION = 2.0**-10
_NOTHING = 1e-6  # a gain below this is none: where all experts agree, the weights stay equal
_LATTICE = {2: 16, 3: 8, 4: 4}  # number of experts to the points of the simplex to start from, at multiples of 1/16, …
_TRIES = 10  # sweeps over all pairs of experts for each length of step, at most


def softmax(scores: Doubles) -> Doubles:
    """Softmax over the last axis."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def agreement(first: Doubles, second: Doubles, space: Space, similarity: Similarity) -> Agreement:
    """The similarity of the combined views as a function of the weights.

    Args:
        first: (n, E, C) logits of one view.
        second: (n, E, C) of the other.
        space: what is compared.
        similarity: cosine or dot product. Of a zero vector the cosine is 0.
    """
    if space == "logits":
        return _of_grams(first, second, similarity)

    def of(weights: Doubles) -> Doubles:
        one, other = (softmax(np.einsum("ne,nec->nc", weights, view)) for view in (first, second))
        dots: Doubles = np.einsum("nc,nc->n", one, other)
        if similarity == "dot":
            return dots
        squares = np.einsum("nc,nc->n", one, one) * np.einsum("nc,nc->n", other, other)
        return np.asarray(dots / np.sqrt(squares))

    return of


def _of_grams(first: Doubles, second: Doubles, similarity: Similarity) -> Agreement:
    """The same on logits, at a cost per evaluation that does not depend on C."""
    cross = first @ second.transpose(0, 2, 1)
    grams = [view @ view.transpose(0, 2, 1) for view in (first, second)]

    def of(weights: Doubles) -> Doubles:
        dots = _quadratic(cross, weights)
        if similarity == "dot":
            return dots
        squares = _quadratic(grams[0], weights) * _quadratic(grams[1], weights)
        return np.divide(dots, np.sqrt(np.maximum(squares, 0)), out=np.zeros_like(dots), where=squares > 0)

    return of


def _quadratic(matrices: Doubles, weights: Doubles) -> Doubles:
    """λᵀ A λ of every row, (n,)."""
    return np.asarray(np.einsum("ne,nef,nf->n", weights, matrices, weights, optimize=True))


def best_on_simplex(of: Agreement, num_rows: int, num_experts: int, precision: float = PRECISION) -> Doubles:
    """The weights (n, E) that maximise ``of``, for every row apart.

    The best of equal weights and of a lattice (:func:`starts`) is improved by moving weight from one expert to another,
    in steps of 1/8, 1/16, … down to ``precision``; such moves lead along and into every face of the simplex, so that
    the end is a local maximum up to the step. For three experts that is about 150 evaluations of ``of``. Where nothing
    is gained the weights stay equal.
    """
    best = np.full((num_rows, num_experts), 1 / num_experts)
    value = of(best)

    def take(moved: Doubles) -> bool:
        moved_value = of(moved)
        better = moved_value > value + _NOTHING * np.maximum(1.0, np.abs(value))
        best[better], value[better] = moved[better], moved_value[better]
        return bool(better.any())

    for point in starts(num_experts):
        take(np.broadcast_to(point, best.shape))
    step = 1 / 8
    while step >= precision:
        for _ in range(_TRIES):
            gained = False
            for receiver, giver in permutations(range(num_experts), 2):
                moved = best.copy()
                amount = np.minimum(step, best[:, giver])
                moved[:, receiver] += amount
                moved[:, giver] -= amount
                gained |= take(moved)
            if not gained:
                break
        step /= 2
    return best


def starts(num_experts: int) -> list[Doubles]:
    """Points of the simplex to start from: a lattice for up to four experts, one expert alone for more.

    >>> [point.tolist() for point in starts(3)][:2]
    [[0.0, 0.0, 1.0], [0.0, 0.125, 0.875]]
    """
    parts = _LATTICE.get(num_experts, 1)
    if parts == 1:
        return list(np.eye(num_experts))
    points = product(range(parts + 1), repeat=num_experts)
    return [np.array(point) / parts for point in points if sum(point) == parts]
