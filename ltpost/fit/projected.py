"""Weights inside a ball, along a path of strengths: projected gradient, accelerated.

    min over W, b   loss(W, b) + strength/2 ‖W - W_start‖²      with ‖w_c‖ ≤ radius for every class

Source: Beck and Teboulle, "A fast iterative shrinkage-thresholding algorithm …", SIAM J. Imaging Sci. 2 (2009), with
backtracking, and the restart by the gradient of O'Donoghue and Candès, "Adaptive restart for accelerated gradient
schemes", Found. Comput. Math. 15 (2015), section 3.2. Steps are measured in a diagonal metric that is the same for all
weights of a class, so that the projection only shortens rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ltpost.data import distributed
from ltpost.fit.lbfgs import agreed_number
from ltpost.fit.options import quiet
from ltpost.fit.path import penalised
from ltpost.fit.regression import Regression
from ltpost.heads import Head

MAX_PASSES = 1000  # for one strength


def ball_path(
    problem: Regression,
    radius: float,
    strengths: Sequence[float],
    tolerance: float,
    *,
    description: str,
    progress: bool,
) -> Iterator[Head]:
    """Minimise for every strength, strong to weak, each started at the one before.

    Yields:
        Heads, whose ``info`` is as that of :func:`~ltpost.fit.path.convex_path`; the gradient is that of the gradient
        mapping, which is 0 where no step inside the ball helps. ``at_radius`` counts the rows that reach the ball.
    """
    start = problem.start()
    theta = problem.project_(start.clone(), radius)
    value, gradient = problem(theta)
    at_start = agreed_number(gradient.norm())
    inside = problem.penalised(torch.ones_like(start))

    def objective(x: Tensor) -> tuple[float, Tensor]:
        value, gradient = penalised(*problem(x), problem.strength, problem.penalised(x - start))
        return agreed_number(torch.tensor(value, dtype=torch.float64, device=x.device)), gradient

    with tqdm(desc=description, unit="pass", disable=quiet(progress)) as bar:
        for strength in sorted(set(strengths), reverse=True):
            problem.strength = strength
            passes = problem.refresh(theta)
            metric = problem.steepness().add_(inside, alpha=strength)
            ahead, momentum, steepness, iterations, remaining = theta, 1.0, 1.0, 0, float("inf")
            while passes < MAX_PASSES and remaining > tolerance * at_start:
                value, gradient = objective(ahead)
                while True:  # until the quadratic of this steepness lies above the objective
                    new = problem.project_(ahead - gradient / (metric * steepness), radius)
                    step = new - ahead
                    new_value, _ = objective(new)
                    passes += 1
                    bar.update()
                    bound = value + agreed_number(gradient @ step + steepness / 2 * (metric * step) @ step)
                    if new_value <= bound + 1e-7 * abs(value) or steepness > 1e6:
                        break
                    steepness *= 2
                passes += 1
                bar.update()
                remaining = agreed_number((metric * step).norm()) * steepness
                turned = agreed_number((metric * step) @ (new - theta)) < 0  # uphill: forget the momentum
                if turned:
                    momentum = 1.0
                following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
                ahead = new + (0.0 if turned else (momentum - 1) / following) * (new - theta)
                theta, momentum, value = distributed.agree_(new), following, new_value
                steepness, iterations = max(steepness * 0.9, 1e-3), iterations + 1
            weight, _ = problem.split(theta)
            at_radius = int((weight.norm(dim=1) >= radius * (1 - 1e-6)).sum())
            yield problem.head(
                theta,
                {
                    "solver": "convex",
                    "strength": strength,
                    "tolerance": tolerance,
                    "objective": value,
                    "gradient_norm": remaining / at_start if at_start else 0.0,
                    "iterations": iterations,
                    "passes": round(passes * problem.cost, 2),
                    "converged": remaining <= tolerance * at_start,
                    "at_radius": at_radius,
                },
            )
