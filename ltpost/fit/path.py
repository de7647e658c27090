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
from ltpost.fit.lbfgs import Curvature, Minimum, Nearby, Objective, agreed_number, lbfgs
from ltpost.fit.options import quiet
from ltpost.heads import Head

ABOVE_ERROR = 3.0  # a near objective serves as long as its gradient is so many times as long as the error of it
ERROR = 3e-3  # of that gradient, as a part of the first one; then it is measured
NEAR_VALUE = 1e-4  # the error of a near value, as a part of it
LESS = 0.5  # of a gradient has to be left, at most, by a descent of a near objective; else the exact one goes on


class Problem(Protocol):
    """A convex loss of parameters θ, and a penalty strength/2 ‖P (θ - start)‖², P a projection."""

    strength: float  # of the penalty, for the preconditioner
    cost: float  # passes over the data that one evaluation takes
    near: Nearby | None  # a faster loss, with errors of some thousandths of what changes; None where nothing is faster

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

    Where the problem has near objectives, they lead the descent. Each starts at a point where value and gradient are
    exact, and ends where its gradient is ``ABOVE_ERROR`` times as long as its error, which is measured there by an
    exact pass. The next one starts from that, until the exact gradient is short enough.

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
    at_start, passes, near_passes, error = agreed_number(gradient.norm()), 1.0, 0.0, ERROR
    problem.strength = 0.0

    def with_penalty(loss: Objective) -> Objective:
        return lambda x: penalised(*loss(x), problem.strength, problem.penalised(x - start))

    def loss_near(near: Nearby) -> Objective:
        away = problem.penalised(theta - start)
        return with_penalty(near(theta, *penalised(value, gradient, -problem.strength, away)))

    exact = with_penalty(problem)
    with tqdm(desc=description, unit="pass", disable=quiet(progress)) as bar:

        def descend(objective: Objective, norm: float, rounding: float = 1e-6) -> Minimum:
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
            iterations, enough = 0, tolerance * at_start
            step = None
            if len(ends) == 2 and agreed_number(gradient.norm()) > enough:
                step = distributed.agree_(_secant(ends, strength))
            near = problem.near
            while True:
                norm, known = agreed_number(gradient.norm()), theta
                objective = exact if near is None or norm <= enough else loss_near(near)
                if step is not None:
                    predicted = objective(theta + step)
                    passes, near_passes = passes + (objective is exact), near_passes + (objective is not exact)
                    bar.update()
                    if agreed_number(predicted[1].norm()) < norm:
                        curvature.add(step, predicted[1] - gradient)
                        theta, (value, gradient) = theta + step, predicted
                    step = None
                if objective is exact:
                    break
                found = descend(objective, max(enough, ABOVE_ERROR * error * norm), NEAR_VALUE)
                theta, iterations, near_passes = found.x, iterations + found.iterations, near_passes + found.passes
                if theta is known:
                    break
                value, gradient = exact(theta)
                passes += 1
                bar.update()
                error = agreed_number((found.gradient - gradient).norm()) / norm
                if agreed_number(gradient.norm()) > LESS * norm:
                    near = None
            minimum = descend(exact, enough)
            theta, value, gradient = minimum.x, minimum.value, minimum.gradient
            ends.append((strength, theta))
            counted = {"passes": round((minimum.passes + passes) * problem.cost, 2)}
            if problem.near is not None:
                counted["bfloat16_passes"] = round(near_passes * problem.cost, 2)
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
            passes = near_passes = 0.0


def _secant(ends: Iterable[tuple[float, Tensor]], strength: float) -> Tensor:
    """The step from the last of two solutions along the straight line through both, over log strength."""
    (older, far), (newer, near) = ends
    return (near - far).mul_(math.log(strength / newer) / math.log(newer / older))


def penalised(value: float, gradient: Tensor, strength: float, away: Tensor) -> tuple[float, Tensor]:
    """Value and gradient with strength/2 ‖away‖² more."""
    return value + strength / 2 * float(away.norm()) ** 2, gradient + strength * away
