"""Convex fits along a path of strengths, from strong to weak.

The solutions lie on a curve. Each next one is predicted from the last two, then corrected by L-BFGS. Source: Allgower
and Georg, "Introduction to numerical continuation methods", SIAM (2003): a secant predictor, here over the logarithm of
the strength.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

from torch import Tensor
from tqdm.auto import tqdm

from ltpost.data import distributed
from ltpost.fit.lbfgs import Curvature, agreed_number, lbfgs
from ltpost.fit.options import quiet
from ltpost.heads import Head


class Problem(Protocol):
    """A convex loss of parameters θ, and a penalty strength/2 ‖P (θ - start)‖², P a projection."""

    strength: float  # of the penalty, for the preconditioner
    cost: float  # passes over the data that one evaluation takes

    def start(self) -> Tensor:
        """The solution for an infinite strength."""

    def __call__(self, theta: Tensor) -> tuple[float, Tensor]:
        """Value and gradient of the loss alone."""

    def penalised(self, step: Tensor) -> Tensor:
        """P times a step, as a tensor of its own."""

    def refresh(self, theta: Tensor) -> float:
        """Adapt the preconditioner to θ; returns how much of a pass that took, the same in every process."""

    def precondition(self, gradient: Tensor) -> Tensor:
        """About the inverse Hessian, times a vector."""

    def head(self, theta: Tensor, info: dict[str, Any]) -> Head:
        """The classifier with the parameters θ."""


def convex_path(
    problem: Problem,
    strengths: Sequence[float],
    tolerance: float,
    *,
    description: str,
    progress: bool,
    begin: Tensor | None = None,
) -> Iterator[Head]:
    """Minimise for every strength, strong to weak, each started where the last two point to along log strength.

    The remembered curvature is corrected for the new strength: where a step s changed the gradient by y, it now changes
    it by y + (new - old strength) s. Where the prediction is no better than the last solution, the first direction of
    L-BFGS is therefore the tangent of the path. ``begin`` is another point to begin with, for a loss that is not
    convex. The path then goes from weak to strong: under a strong penalty all descents would end in one minimum.

    Yields:
        Heads, whose ``info`` says strength, objective, gradient_norm (relative to the gradient at the start, like
        ``tolerance``), iterations, passes over the data, and whether that converged.
    """
    start = problem.start()
    theta = start.clone() if begin is None else begin.clone()
    curvature, ends = Curvature(len(start)), deque[tuple[float, Tensor]](maxlen=2)
    value, gradient = problem(theta)
    at_start, passes = agreed_number(gradient.norm()), 1
    problem.strength = 0.0

    def objective(x: Tensor) -> tuple[float, Tensor]:
        return penalised(*problem(x), problem.strength, problem.penalised(x - start))

    with tqdm(desc=description, unit="pass", disable=quiet(progress)) as bar:
        for strength in sorted(set(strengths), reverse=begin is None):
            change, problem.strength = strength - problem.strength, strength
            value, gradient = penalised(value, gradient, change, problem.penalised(theta - start))
            curvature.strengthen(change, problem.penalised)
            bar.set_postfix(strength=strength)
            if len(ends) == 2 and agreed_number(gradient.norm()) > tolerance * at_start:
                step = distributed.agree_(_secant(ends, strength))
                predicted = objective(theta + step)
                passes += 1
                bar.update()
                if agreed_number(predicted[1].norm()) < agreed_number(gradient.norm()):
                    curvature.add(step, predicted[1] - gradient)
                    theta, (value, gradient) = theta + step, predicted
            minimum = lbfgs(
                objective,
                theta,
                (value, gradient),
                precondition=problem.precondition,
                refresh=problem.refresh,
                gradient_norm=tolerance * at_start,
                curvature=curvature,
                after_pass=bar.update,
            )
            theta, value, gradient = minimum.x, minimum.value, minimum.gradient
            ends.append((strength, theta))
            yield problem.head(
                theta,
                {
                    "solver": "convex",
                    "strength": strength,
                    "tolerance": tolerance,
                    "objective": minimum.value,
                    "gradient_norm": minimum.gradient_norm / at_start if at_start else 0.0,
                    "iterations": minimum.iterations,
                    "passes": round((minimum.passes + passes) * problem.cost, 2),
                    "converged": minimum.converged,
                },
            )
            passes = 0


def _secant(ends: Iterable[tuple[float, Tensor]], strength: float) -> Tensor:
    """The step from the last of two solutions along the straight line through both, over log strength."""
    (older, far), (newer, near) = ends
    return (near - far).mul_(math.log(strength / newer) / math.log(newer / older))


def penalised(value: float, gradient: Tensor, strength: float, away: Tensor) -> tuple[float, Tensor]:
    """Value and gradient with strength/2 ‖away‖² more."""
    return value + strength / 2 * float(away.norm()) ** 2, gradient + strength * away
