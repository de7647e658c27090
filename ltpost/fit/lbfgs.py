"""Preconditioned L-BFGS, for convex functions.

Source: Liu and Nocedal, "On the limited memory BFGS method for large scale optimization", Math. Programming 45 (1989),
algorithm 2.1. The line search has the approximate Wolfe conditions of Hager and Zhang, "A new conjugate gradient method
with guaranteed descent", SIAM J. Optim. 16 (2005), equation 4.1: near the minimum, float32 rounding hides the ordinary
ones.

What this module does not do: know what is being minimised (``regression``, ``rescaling``).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ltpost.data import distributed

Objective = Callable[[Tensor], tuple[float, Tensor]]
#: from a point with its value and gradient to an objective that is faster, and exact at that point only
Nearby = Callable[[Tensor, float, Tensor], Objective]
HISTORY = 40  # pairs (s, y) that L-BFGS remembers; fewer, but at least 10, where they take more than 1 GiB
REFRESH = 8  # iterations after which the preconditioner is made anew


class Curvature:
    """What L-BFGS knows of the Hessian: pairs of a step s and the change y of the gradient along it."""

    def __init__(self, size: int = 1) -> None:
        most = min(HISTORY, max(10, 2**27 // size))  # of 2 · 4 · size bytes
        self._pairs: deque[tuple[Tensor, Tensor, float]] = deque(maxlen=most)

    def add(self, step: Tensor, change: Tensor) -> None:
        """Remember a pair, if it shows positive curvature (rounding may not)."""
        product = float(step @ change)
        if product > 1e-10 * float(step.norm()) * float(change.norm()):
            self._pairs.append((step, change, product))

    def strengthen(self, strength: float, penalised: Callable[[Tensor], Tensor]) -> None:
        """The Hessian gained strength · ``penalised``: correct every pair for it."""
        pairs = [(step, change.add_(penalised(step), alpha=strength)) for step, change, _ in self._pairs]
        self._pairs.clear()
        for step, change in pairs:
            self.add(step, change)

    def solve(self, gradient: Tensor, precondition: Callable[[Tensor], Tensor]) -> Tensor:
        """About H⁻¹ gradient: the two-loop recursion around ``precondition``."""
        result = gradient.clone()
        weights = []
        for step, change, product in reversed(self._pairs):
            weights.append(float(step @ result) / product)
            result.sub_(change, alpha=weights[-1])
        result = precondition(result)
        if self._pairs:
            _, change, product = self._pairs[-1]
            result.mul_(product / float(change @ precondition(change)))
        for step, change, product in self._pairs:
            result.add_(step, alpha=weights.pop() - float(change @ result) / product)
        return result


@dataclass
class Minimum:
    """Where L-BFGS ended."""

    x: Tensor
    value: float
    gradient: Tensor
    gradient_norm: float
    iterations: int
    passes: float
    converged: bool


def lbfgs(
    objective: Objective,
    start: Tensor,
    at_start: tuple[float, Tensor] | None = None,
    *,
    precondition: Callable[[Tensor], Tensor],
    gradient_norm: float,
    refresh: Callable[[Tensor], float] = lambda x: 0.0,
    curvature: Curvature | None = None,
    gain: float = 0.0,
    rounding: float = 1e-6,
    max_passes: int = 1000,
    after_pass: Callable[[], Any] = lambda: None,
) -> Minimum:
    """Minimise a smooth convex function.

    Args:
        objective: x to (value, gradient); it costs one pass over the data.
        start: (K,), not changed.
        at_start: value and gradient there, where they are known already.
        precondition: about the inverse Hessian times a vector; symmetric, positive definite.
        gradient_norm: stop when the gradient's Euclidean norm is at most this.
        refresh: called with x before the first iteration and after every ``REFRESH`` iterations. It adapts
            ``precondition`` to x, and returns how much of a pass that took.
        curvature: pairs of an earlier, similar problem; new pairs are added to it.
        gain: stop, too, where a Newton step would lower the value by no more than this part of it, ½ gᵀ H⁻¹ g.
        rounding: the error of a value, as a part of it.
        max_passes: give up after so many passes.
        after_pass: called after each evaluation.

    Returns:
        The best point found; ``converged`` is false where rounding or ``max_passes`` ended the descent.
    """
    curvature = Curvature(len(start)) if curvature is None else curvature
    passes = 0.0

    def evaluate(x: Tensor) -> tuple[float, Tensor]:
        nonlocal passes
        passes += 1
        value, gradient = objective(x)
        after_pass()
        return agreed_number(torch.tensor(value, dtype=torch.float64, device=x.device)), gradient

    x = start
    value, gradient = evaluate(x) if at_start is None else at_start
    iterations = 0
    norm = agreed_number(gradient.norm())
    while norm > gradient_norm and passes < max_passes:
        if iterations % REFRESH == 0:
            passes += refresh(x)
        direction = distributed.agree_(curvature.solve(gradient, precondition).neg_())
        slope = agreed_number(gradient @ direction)
        if gain and 0 <= -slope / 2 <= gain * abs(value):
            return Minimum(x, value, gradient, norm, iterations, passes, True)
        reached = _line_search(evaluate, x, direction, value, slope, rounding)
        if reached is None:
            return Minimum(x, value, gradient, norm, iterations, passes, False)
        new_x, value, new_gradient = reached
        curvature.add(new_x - x, new_gradient - gradient)
        x, gradient = new_x, new_gradient
        norm = agreed_number(gradient.norm())
        iterations += 1
    return Minimum(x, value, gradient, norm, iterations, passes, norm <= gradient_norm)


def _line_search(
    evaluate: Objective, x: Tensor, direction: Tensor, value: float, slope: float, rounding: float
) -> tuple[Tensor, float, Tensor] | None:
    """A step along ``direction`` that lowers the value enough; None where rounding errors are larger than the gain.

    The slope of a convex function grows along the step. The step is too long where the slope has become steep. It is
    never lengthened: its curvature is positive, and the next direction makes use of it.
    """
    if not slope < 0:
        return None
    step = 1.0
    for _ in range(12):
        new_x = torch.add(x, direction, alpha=step)
        new_value, new_gradient = evaluate(new_x)
        new_slope = agreed_number(new_gradient @ direction)
        if new_value <= value + rounding * abs(value) and new_slope <= -0.8 * slope:
            return new_x, new_value, new_gradient
        secant = slope / (slope - new_slope) if math.isfinite(new_slope) and new_slope > slope else 0.0
        step *= min(max(secant, 0.01), 0.9)
    return None


def agreed_number(scalar: Tensor) -> float:
    """A scalar that decides something: the same one in every process."""
    return float(distributed.agree_(scalar))
