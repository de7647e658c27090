import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from long_tail import long_tail

from ltpost.data.features import FeatureSet
from ltpost.errors import UsageError
from ltpost.fit.lbfgs import Curvature, lbfgs
from ltpost.fit.options import HeadFit, Recipe
from ltpost.fit.path import convex_path

MATRIX = torch.tensor(np.diag(np.geomspace(1, 1e4, 30)))
TARGET = torch.linspace(-1, 1, 30, dtype=torch.float64)


def quadratic(x):
    return float((x - TARGET) @ MATRIX @ (x - TARGET) / 2), MATRIX @ (x - TARGET)


def logistic_well(x):
    """Convex, steep far out and nearly flat in the middle: the step 1 is wrong almost everywhere."""
    return float((torch.exp(x) + torch.exp(-2 * x)).sum()), torch.exp(x) - 2 * torch.exp(-2 * x)


def test_quadratic_is_solved():
    found = lbfgs(quadratic, torch.zeros_like(TARGET), precondition=lambda g: g, gradient_norm=1e-4)
    assert found.converged
    np.testing.assert_allclose(found.x, TARGET, atol=1e-4)


def test_exact_preconditioner_needs_one_step():
    inverse = torch.linalg.inv(MATRIX)
    found = lbfgs(quadratic, torch.zeros_like(TARGET), precondition=lambda g: inverse @ g, gradient_norm=1e-6)
    assert (found.iterations, found.converged) == (1, True)


@pytest.mark.parametrize("start", [-5.0, 0.0, 30.0])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3])
def test_line_search_copes_with_bad_scaling(start, scale):
    x = torch.full((3,), start, dtype=torch.float64)
    found = lbfgs(logistic_well, x, precondition=lambda g: scale * g, gradient_norm=1e-8)
    assert found.converged
    np.testing.assert_allclose(found.x, np.log(2) / 3, atol=1e-8)
    assert (x == start).all()


def test_minimum_cannot_be_reached_in_no_passes():
    found = lbfgs(quadratic, torch.zeros_like(TARGET), precondition=lambda g: g, gradient_norm=1e-8, max_passes=3)
    assert not found.converged
    assert found.passes <= 3 + 20  # a line search is finished


def test_impossible_tolerance_ends():
    found = lbfgs(quadratic, torch.zeros_like(TARGET), precondition=lambda g: g, gradient_norm=0.0)
    assert found.value < 1e-12


def test_remembered_curvature_moves_with_the_strength():
    """After H = A was learnt, strengthen(2, identity) makes it H = A + 2 I."""
    curvature = Curvature()
    hessian = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    for step in torch.eye(2, dtype=torch.float64):
        curvature.add(step, hessian @ step)
    curvature.strengthen(2.0, lambda step: step)
    step, change, product = curvature._pairs[0]
    expected = (hessian + 2 * torch.eye(2)) @ step
    np.testing.assert_allclose(change, expected)
    assert product == pytest.approx(float(step @ expected))


def test_pairs_of_negative_curvature_are_left_out():
    curvature = Curvature()
    step = torch.ones(2)
    curvature.add(step, -step)
    assert not curvature._pairs


def test_a_large_problem_remembers_fewer_pairs():
    assert [Curvature(size)._pairs.maxlen for size in (1, 2**22, 2**27)] == [40, 32, 10]


class Well:
    """``logistic_well`` of three parameters, with a penalty that pulls them to 0."""

    near = None

    def __init__(self):
        self.strength, self.cost, self.tried = 0.0, 1.0, []

    def start(self):
        return torch.zeros(3, dtype=torch.float64)

    def __call__(self, theta):
        self.tried.append((self.strength, theta))
        return logistic_well(theta)

    def penalised(self, step):
        return step.clone()

    def refresh(self, theta):
        return 0.25

    def precondition(self, gradient):
        return gradient / (5 + self.strength)

    def head(self, theta, info):
        return theta, info


@pytest.mark.parametrize(("strengths", "followed"), [((10.0, 3.0, 1.0), True), ((10.0, 9.99, 1e-3), False)])
def test_a_path_tries_what_its_last_two_solutions_point_to(strengths, followed):
    problem = Well()
    (first, _), (second, _), (third, info) = convex_path(problem, strengths, 1e-9, description="well", progress=False)
    tried = [theta for strength, theta in problem.tried if strength == strengths[2]]
    ratio = np.log(strengths[2] / strengths[1]) / np.log(strengths[1] / strengths[0])
    np.testing.assert_allclose(tried[0], second + ratio * (second - first), rtol=1e-12)
    assert (float((tried[1] - tried[0]).norm()) < float((tried[1] - second).norm())) == followed
    assert info["passes"] == len(tried) + 0.25 * np.ceil(info["iterations"] / 8)
    slope = torch.exp(third) - 2 * torch.exp(-2 * third) + strengths[2] * third
    np.testing.assert_allclose(slope, 0, atol=1e-8)


def test_a_solution_that_stays_one_is_not_predicted():
    problem = Well()
    *_, (_, info) = convex_path(problem, [10.0, 3.0, 3.0 - 1e-9], 1e-6, description="well", progress=False)
    assert (info["passes"], info["converged"]) == (0, True)


@pytest.mark.parametrize(
    ("field", "value"), [("learning_rate", 0.0), ("batch_size", 0), ("epochs", -1), ("weight_decay", -1.0)]
)
def test_impossible_recipes(field, value):
    with pytest.raises(UsageError, match=f"{field}= must .* but is {value}"):
        Recipe(**{"learning_rate": 0.1, "weight_decay": 0.0, "batch_size": 2, "epochs": 1, field: value})


def published_recipe(train, **given):
    return HeadFit(**given).recipe(train)


def test_published_recipes():
    def empty(rows, classes):
        labels = np.zeros(rows, int)
        return FeatureSet(np.broadcast_to(np.float32(0), (rows, 1)), labels, class_counts=np.ones(classes, int))

    assert published_recipe(long_tail()) == Recipe(0.1, 2e-4, 128, 10)
    assert published_recipe(empty(62_500, 365)) == Recipe(0.1, 5e-4, 256, 10)
    assert published_recipe(empty(115_846, 1000)) == Recipe(0.2, 5e-4, 512, 10)
    assert published_recipe(empty(437_513, 8142)) == Recipe(0.2, 1e-4, 512, 30)
    assert published_recipe(empty(437_513, 8142), epochs=5, batch_size=64) == Recipe(0.2, 1e-4, 64, 5)


def test_views_are_not_counted_as_samples():
    train = FeatureSet(
        np.zeros((40_000, 1), np.float32),
        np.zeros(40_000, int),
        sample=np.arange(40_000) // 4,
        view=np.arange(40_000) % 4,
    )
    assert published_recipe(train) == Recipe(0.1, 2e-4, 128, 10)


def test_sgd_imports_no_compiler():
    """torch.optim's classes do, which takes longer than many a fit."""
    code = (
        "import sys; from long_tail import long_tail; import ltpost\n"
        "ltpost.crt(long_tail(), solver='sgd', progress=False); assert 'torch._dynamo' not in sys.modules"
    )
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": path})
