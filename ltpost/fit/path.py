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
from ltpost.fit.lbfgs import Curvature, Minimum, Objective, agreed_number, lbfgs
from ltpost.fit.options import quiet
from ltpost.heads import Head

ABOVE_ERROR = 3.0  # rough gradients serve as long as they are so many times as long as their error
ROUGH_VALUE = 1e-3  # the error of a rough value, as a part of it


class Problem(Protocol):
    """A convex loss of parameters θ, and a penalty strength/2 ‖P (θ - start)‖², P a projection."""

    strength: float  # of the penalty, for the preconditioner
    cost: float  # passes over the data that one evaluation takes
    rough: Objective | None  # value and gradient with an error of about 1e-3, but faster; None where nothing is

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
    gain: float = 0.0,
) -> Iterator[Head]:
    """Minimise for every strength, strong to weak, each started where the last two point to along log strength.

    The remembered curvature is corrected for the new strength: where a step s changed the gradient by y, it now changes
    it by y + (new - old strength) s. Where the prediction is no better than the last solution, the first direction of
    L-BFGS is therefore the tangent of the path. ``begin`` is another point to begin with, for a loss that is not
    convex. The path then goes from weak to strong: under a strong penalty all descents would end in one minimum.

    Where the problem has a rough objective, it leads the descent until its gradient is ``ABOVE_ERROR`` times as long as
    its error, which is measured at the points where the exact one takes over. The end is that of the exact one.

    A descent ends where the gradient is short enough (``tolerance``), or where a Newton step would lower the objective
    by no more than the part ``gain`` of it: under a strong penalty that is much earlier.

    Yields:
        Heads, whose ``info`` says strength, objective, gradient_norm (relative to the gradient at the start, like
        ``tolerance``), iterations, passes over the data, those in bfloat16 where there are any, and whether that
        converged.
    """
    start = problem.start()
    theta = start.clone() if begin is None else begin.clone()
    curvature, ends = Curvature(len(start)), deque[tuple[float, Tensor]](maxlen=2)
    value, gradient = problem(theta)
    at_start, passes, rough_passes = agreed_number(gradient.norm()), 1.0, 0.0
    problem.strength, error = 0.0, math.inf

    def with_penalty(loss: Objective) -> Objective:
        return lambda x: penalised(*loss(x), problem.strength, problem.penalised(x - start))

    exact = with_penalty(problem)
    rough = None if problem.rough is None else with_penalty(problem.rough)
    if rough is not None:
        error = agreed_number((rough(theta)[1] - gradient).norm())
        rough_passes = 1.0

    with tqdm(desc=description, unit="pass", disable=quiet(progress)) as bar:

        def descend(objective: Objective, norm: float, gain: float = 0.0, rounding: float = 1e-6) -> Minimum:
            return lbfgs(
                objective,
                theta,
                (value, gradient),
                precondition=problem.precondition,
                refresh=problem.refresh,
                gradient_norm=norm,
                curvature=curvature,
                after_pass=bar.update,
                gain=gain,
                rounding=rounding,
            )

        for strength in sorted(set(strengths), reverse=begin is None):
            change, problem.strength = strength - problem.strength, strength
            value, gradient = penalised(value, gradient, change, problem.penalised(theta - start))
            curvature.strengthen(change, problem.penalised)
            bar.set_postfix(strength=strength)
            norm, iterations = agreed_number(gradient.norm()), 0
            objective = exact if rough is None or norm <= ABOVE_ERROR * error else rough
            if len(ends) == 2 and norm > tolerance * at_start:
                step = distributed.agree_(_secant(ends, strength))
                predicted = objective(theta + step)
                passes, rough_passes = passes + (objective is exact), rough_passes + (objective is rough)
                bar.update()
                if agreed_number(predicted[1].norm()) < norm:
                    curvature.add(step, predicted[1] - gradient)
                    theta, (value, gradient) = theta + step, predicted
            if objective is rough:
                far = descend(rough, max(ABOVE_ERROR * error, tolerance * at_start), rounding=ROUGH_VALUE)
                theta, iterations = far.x, far.iterations
                rough_passes += far.passes
                value, gradient = exact(theta)
                passes += 1
                error = agreed_number((far.gradient - gradient).norm())
            minimum = descend(exact, tolerance * at_start, gain=gain)
            theta, value, gradient = minimum.x, minimum.value, minimum.gradient
            ends.append((strength, theta))
            counted = {"passes": round((minimum.passes + passes) * problem.cost, 2)}
            if rough is not None:
                counted["bfloat16_passes"] = round(rough_passes * problem.cost, 2)
            yield problem.head(
                theta,
                {
                    "solver": "convex",
                    "strength": strength,
                    "tolerance": tolerance,
                    "objective": minimum.value,
                    "gradient_norm": minimum.gradient_norm / at_start if at_start else 0.0,
                    "iterations": iterations + minimum.iterations,
                    **counted,
                    "converged": minimum.converged,
                },
            )
            passes = rough_passes = 0.0


def _secant(ends: Iterable[tuple[float, Tensor]], strength: float) -> Tensor:
    """The step from the last of two solutions along the straight line through both, over log strength."""
    (older, far), (newer, near) = ends
    return (near - far).mul_(math.log(strength / newer) / math.log(newer / older))


def penalised(value: float, gradient: Tensor, strength: float, away: Tensor) -> tuple[float, Tensor]:
    """Value and gradient with strength/2 ‖away‖² more."""
    return value + strength / 2 * float(away.norm()) ** 2, gradient + strength * away
