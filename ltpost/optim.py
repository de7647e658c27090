"""The two minimisers: preconditioned L-BFGS for the convex heads, and SGD with the published recipes.

L-BFGS: Liu and Nocedal, "On the limited memory BFGS method for large scale optimization", Math. Programming 45 (1989),
algorithm 2.1, with the line search's approximate Wolfe conditions of Hager and Zhang, "A new conjugate gradient method
with guaranteed descent", SIAM J. Optim. 16 (2005), equation 4.1 (the ordinary ones drown in float32 rounding near the
minimum).

A path of strengths is a continuation: its solutions lie on a curve, and each next one is predicted from the last two,
then corrected by L-BFGS. Source: Allgower and Georg, "Introduction to numerical continuation methods", SIAM (2003):
a secant predictor, here along the logarithm of the strength.

What this module does not do: know what is being minimised (``methods``).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.sgd import sgd as fused_sgd
from tqdm.auto import tqdm

from ltpost import distributed
from ltpost.errors import UsageError
from ltpost.features import FeatureSet
from ltpost.head import LinearHead
from ltpost.sampling import Sampler
from ltpost.tensors import Matrix

Objective = Callable[[Tensor], tuple[float, Tensor]]
HISTORY = 40  # pairs (s, y) that L-BFGS remembers; fewer, but at least 10, where they take more than 1 GiB
REFRESH = 8  # iterations after which the preconditioner is made anew


class Curvature:
    """What L-BFGS has seen of the Hessian: pairs of a step s and the gradient's change y along it."""

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
    look_around: Callable[[Tensor], float] = lambda x: 0.0,
    curvature: Curvature | None = None,
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
        look_around: called with x before the first iteration and every ``REFRESH``; it may improve ``precondition``
            there, and says how much of a pass that took.
        curvature: pairs of an earlier, similar problem; new pairs are added to it.
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
        return _number(torch.tensor(value, dtype=torch.float64, device=x.device)), gradient

    x = start
    value, gradient = evaluate(x) if at_start is None else at_start
    iterations = 0
    norm = _number(gradient.norm())
    while norm > gradient_norm and passes < max_passes:
        if iterations % REFRESH == 0:
            passes += look_around(x)
        direction = distributed.agree_(curvature.solve(gradient, precondition).neg_())
        found = _line_search(evaluate, x, direction, value, gradient)
        if found is None:
            return Minimum(x, value, gradient, norm, iterations, passes, False)
        new_x, value, new_gradient = found
        curvature.add(new_x - x, new_gradient - gradient)
        x, gradient = new_x, new_gradient
        norm = _number(gradient.norm())
        iterations += 1
    return Minimum(x, value, gradient, norm, iterations, passes, norm <= gradient_norm)


def _line_search(
    evaluate: Objective, x: Tensor, direction: Tensor, value: float, gradient: Tensor
) -> tuple[Tensor, float, Tensor] | None:
    """A step along ``direction`` that lowers the value enough; None where rounding hides the way.

    Along it a convex function's slope only grows: the step is too long once the slope rises steeply. It is never
    lengthened: the curvature along any step of a convex function is positive, and the next direction knows it.
    """
    slope = _number(gradient @ direction)
    if not slope < 0:
        return None
    step = 1.0
    for _ in range(12):
        new_x = torch.add(x, direction, alpha=step)
        new_value, new_gradient = evaluate(new_x)
        new_slope = _number(new_gradient @ direction)
        if new_value <= value + 1e-6 * abs(value) and new_slope <= -0.8 * slope:
            return new_x, new_value, new_gradient
        secant = slope / (slope - new_slope) if math.isfinite(new_slope) and new_slope > slope else 0.0
        step *= min(max(secant, 0.01), 0.9)
    return None


class Problem(Protocol):
    """A convex loss of parameters θ, and a penalty strength/2 ‖P (θ - start)‖², P a projection."""

    strength: float  # of the penalty, for the preconditioner

    def start(self) -> Tensor:
        """Where an infinite strength would lead."""

    def __call__(self, theta: Tensor) -> tuple[float, Tensor]:
        """Value and gradient of the loss alone: one pass over the data."""

    def penalised(self, step: Tensor) -> Tensor:
        """P times a step, as a tensor of its own."""

    def look_around(self, theta: Tensor) -> float:
        """Adapt the preconditioner to θ; returns how much of a pass that took, the same in every process."""

    def precondition(self, gradient: Tensor) -> Tensor:
        """About the inverse Hessian, times a vector."""

    def head(self, theta: Tensor, info: dict[str, Any]) -> LinearHead:
        """The classifier that θ stands for."""


def convex_path(
    problem: Problem, strengths: Sequence[float], tolerance: float, *, method: str, progress: bool
) -> Iterator[LinearHead]:
    """Minimise for every strength, strong to weak, each started where the last two point to along log strength.

    The remembered curvature moves along: a step s of the last problem has y + (new - old strength) s in the next. Where
    the prediction is no better than the last solution, the first L-BFGS direction is so the tangent of the path.

    Yields:
        Heads, whose ``info`` says strength, objective, gradient_norm (relative to the gradient at the start, like
        ``tolerance``), iterations, passes over the data, and whether that converged.
    """
    theta, start = problem.start(), problem.start()
    curvature, ends = Curvature(len(start)), deque[tuple[float, Tensor]](maxlen=2)
    value, gradient = problem(theta)
    at_start, passes = _number(gradient.norm()), 1
    problem.strength = 0.0

    def objective(x: Tensor) -> tuple[float, Tensor]:
        return _penalised(*problem(x), problem.strength, problem.penalised(x - start))

    with tqdm(desc=method, unit="pass", disable=quiet(progress)) as bar:
        for strength in sorted(set(strengths), reverse=True):
            change, problem.strength = strength - problem.strength, strength
            value, gradient = _penalised(value, gradient, change, problem.penalised(theta - start))
            curvature.strengthen(change, problem.penalised)
            bar.set_postfix(strength=strength)
            if len(ends) == 2 and _number(gradient.norm()) > tolerance * at_start:
                step = distributed.agree_(_secant(ends, strength))
                there = objective(theta + step)
                passes += 1
                bar.update()
                if _number(there[1].norm()) < _number(gradient.norm()):
                    curvature.add(step, there[1] - gradient)
                    theta, (value, gradient) = theta + step, there
            found = lbfgs(
                objective,
                theta,
                (value, gradient),
                precondition=problem.precondition,
                look_around=problem.look_around,
                gradient_norm=tolerance * at_start,
                curvature=curvature,
                after_pass=bar.update,
            )
            theta, value, gradient = found.x, found.value, found.gradient
            ends.append((strength, theta))
            yield problem.head(
                theta,
                {
                    "method": method,
                    "solver": "convex",
                    "strength": strength,
                    "tolerance": tolerance,
                    "objective": found.value,
                    "gradient_norm": found.gradient_norm / at_start if at_start else 0.0,
                    "iterations": found.iterations,
                    "passes": round(found.passes + passes, 2),
                    "converged": found.converged,
                },
            )
            passes = 0


def _secant(ends: Iterable[tuple[float, Tensor]], strength: float) -> Tensor:
    """The step from the last of two solutions that goes on as the path went, straight along log strength."""
    (older, far), (newer, near) = ends
    return (near - far).mul_(math.log(strength / newer) / math.log(newer / older))


def _penalised(value: float, gradient: Tensor, strength: float, away: Tensor) -> tuple[float, Tensor]:
    """Value and gradient with strength/2 ‖away‖² more."""
    return value + strength / 2 * float(away.norm()) ** 2, gradient + strength * away


def check_path(strengths: Sequence[float], tolerance: float) -> None:
    """Raise UsageError unless there is a strength, and all are positive, like the tolerance."""
    if not strengths:
        raise UsageError("strengths must name at least one L2 strength, but is empty")
    for strength in strengths:
        if not 0 < strength < math.inf:
            raise UsageError(f"a strength must be a positive number, but is {strength}")
    if not 0 < tolerance < 1:
        raise UsageError(f"tolerance must lie between 0 and 1, but is {tolerance}")


def _number(scalar: Tensor) -> float:
    """A scalar that decides something: the same one in every process."""
    return float(distributed.agree_(scalar))


def quiet(progress: bool) -> bool | None:
    """Whether tqdm shows no bar; None leaves it to whether there is a terminal."""
    return None if progress and distributed.rank() == 0 else True


@dataclass(frozen=True)
class Recipe:
    """How SGD runs: momentum 0.9, cosine learning rate from ``learning_rate`` towards 0, epoch by epoch.

    Raises:
        UsageError: a rate or size that cannot be.
    """

    learning_rate: float
    weight_decay: float
    batch_size: int
    epochs: int

    def __post_init__(self) -> None:
        for name in ("learning_rate", "batch_size", "epochs"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} must be positive, but is {getattr(self, name)}")
        if not self.weight_decay >= 0:
            raise UsageError(f"weight_decay must not be negative, but is {self.weight_decay}")


def published_recipe(
    train: FeatureSet,
    *,
    learning_rate: float | None = None,
    weight_decay: float | None = None,
    batch_size: int | None = None,
    epochs: int | None = None,
) -> Recipe:
    """The recipe published for the benchmark that the training rows look like.

    Places-LT (365 classes), iNaturalist 2018 (300,000 samples or more) and ImageNet-LT as in the reference code of
    Kang et al. (``config/*/cls_crt.yaml``, read 2024); below 30,000 samples as MiSLAS trains its CIFAR-LT classifiers.
    What is given replaces the published figure.
    """
    samples = len(train) if train.sample is None else len(np.unique(train.sample))
    samples = int(distributed.sum_array(np.array([samples]))[0])
    if samples < 30_000:
        recipe = Recipe(0.1, 2e-4, 128, 10)
    elif train.num_classes == 365:
        recipe = Recipe(0.1, 5e-4, 256, 10)
    elif samples < 300_000:
        recipe = Recipe(0.2, 5e-4, 512, 10)
    else:
        recipe = Recipe(0.2, 1e-4, 512, 30)
    given = {
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "batch_size": batch_size,
        "epochs": epochs,
    }
    return replace(recipe, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]


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
            # all processes draw the same batches, and each takes the rows that it has
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
    # NOTE[DIFF]: the reference keeps the epoch that is best on val; the last one is kept here, and choosing is the
    # business of model_selection.
    return mean_loss
