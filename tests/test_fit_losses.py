"""The losses of fitted heads: value and gradient against torch's autograd, and against scalar loops."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy, binary_cross_entropy_with_logits, cross_entropy

from ltpost.data.features import FeatureSet
from ltpost.data.tensors import training_features
from ltpost.errors import DataError, UsageError
from ltpost.fit.class_weights import effective_number, inverse_power
from ltpost.fit.cloud_loss import CloudLoss
from ltpost.fit.loss import Loss, WholeLoss
from ltpost.fit.models import Linear
from ltpost.fit.one_vs_rest import FocalLoss, SoftmaxBCE
from ltpost.fit.regression import Regression
from ltpost.fit.sampling import row_weights
from ltpost.fit.sgd import _RowLoss
from ltpost.fit.whole_losses import GeometricMeanLoss, LadeLoss
from ltpost.heads import LinearHead

CPU = torch.device("cpu")
COUNTS = np.array([50, 20, 9, 4, 2])
LOG_PRIOR = np.log(COUNTS / COUNTS.sum())


def draw(rows=40, seed=0, spread=3.0):
    random = np.random.default_rng(seed)
    labels = torch.from_numpy(random.integers(0, 5, rows))
    return torch.from_numpy(random.normal(0, spread, (rows, 5))), labels, torch.from_numpy(random.uniform(0.1, 1, rows))


def ours(loss, scores, labels, weights, blocks=3):
    """Value and gradient, block by block as the solvers call it."""
    bound, gradient = loss.on(CPU), scores.float().clone()
    parts = torch.chunk(torch.arange(len(scores)), blocks)
    if isinstance(bound, WholeLoss):
        for part in parts:
            before = gradient[part].clone()
            bound.gather(before, labels[part], weights[part].float())
            assert torch.equal(before, gradient[part])
        bound.settle()
    value = 0.0
    for part in parts:
        block = gradient[part].clone()
        value += float(bound(block, labels[part], weights[part].float()))
        gradient[part] = block
    return value, gradient


def by_autograd(function, scores, labels, weights):
    z = scores.double().clone().requires_grad_()
    value = function(z, labels, weights.double())
    value.backward()
    return float(value.detach()), z.grad


def focal(gamma):
    def function(z, y, w):
        sign = -torch.ones_like(z)
        sign[torch.arange(len(z)), y] = 1
        q = torch.sigmoid(sign * z)
        return (w[:, None] * (1 - q) ** gamma * -torch.nn.functional.logsigmoid(sign * z)).sum()

    return function


def softmax_bce(z, y, w):
    target = torch.nn.functional.one_hot(y, 5).to(z)
    return (w * binary_cross_entropy(z.softmax(1), target, reduction="none").mean(1)).sum()


def geometric_mean(z, y, w):
    right = (z + torch.from_numpy(LOG_PRIOR)).softmax(1)[torch.arange(len(z)), y]
    terms = [((w * right)[y == c].sum() / w[y == c].sum()).log() for c in y.unique()]
    return -torch.stack(terms).mean()


def lade(z, y, w):
    pi, w = torch.from_numpy(np.exp(LOG_PRIOR)), w
    value = (w * cross_entropy(z + pi.log(), y, reduction="none")).sum()
    for c in range(5):
        own = (w * z[:, c])[y == c].sum() / w[y == c].sum() if (y == c).any() else 0.0
        shifted = z[:, c] - pi[c].log() - math.log(5)
        everything = torch.logsumexp(shifted + (w / w.sum()).log(), 0)
        value = value - 0.1 * pi[c] * (own - everything - 0.3 * everything**2)
    return value


def adjusted(z, y, w):
    scale, offset, margin, smoothing = (torch.from_numpy(part) for part in PARTS)
    z = z * scale + offset
    z = z - margin * torch.nn.functional.one_hot(y, 5)
    log_p = z.log_softmax(1)
    eps = smoothing[y]
    return (w * -((1 - eps) * log_p[torch.arange(len(z)), y] + eps * log_p.mean(1))).sum()


PARTS = np.array([[1.0, 0.5, 2, 1.5, 1], [0.1, 0, -1, 2, 0.3], [0, 0.1, 0.2, 0.5, 1], [0, 0.1, 0.4, 0.9, 1.0]])
LOSSES = {
    "adjusted": (Loss(scale=PARTS[0], offset=PARTS[1], margin=PARTS[2], smoothing=PARTS[3]), adjusted),
    "focal 1": (FocalLoss(None, 1.0), focal(1.0)),
    "focal 2.5": (FocalLoss(None, 2.5), focal(2.5)),
    "focal 0": (FocalLoss(None, 0.0), focal(0.0)),
    "softmax-bce": (SoftmaxBCE(), softmax_bce),
    "geometric mean": (GeometricMeanLoss(LOG_PRIOR), geometric_mean),
    "lade": (LadeLoss(LOG_PRIOR, 0.1, 0.3), lade),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("spread", [0.0, 1.0, 4.0])
def test_value_and_gradient_equal_autograd(name, spread):
    loss, function = LOSSES[name]
    case = draw(spread=spread)
    value, gradient = ours(loss, *case)
    expected, expected_gradient = by_autograd(function, *case)
    assert value == pytest.approx(expected, rel=1e-5, abs=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=2e-6 * max(1, float(gradient.abs().max())))


@pytest.mark.parametrize("name", LOSSES)
def test_a_class_without_a_row_in_the_batch_is_left_out(name):
    loss, function = LOSSES[name]
    scores, labels, weights = draw()
    keep = labels != 3
    case = scores[keep], labels[keep], weights[keep]
    value, gradient = ours(loss, *case)
    expected, expected_gradient = by_autograd(function, *case)
    assert value == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_one_number_for_all_rows_weighs_like_equal_weights(name):
    loss, _ = LOSSES[name]
    scores, labels, _ = draw()
    expected = ours(loss, scores, labels, torch.full((40,), 0.025), blocks=1)
    bound, gradient = loss.on(CPU), scores.float().clone()
    if isinstance(bound, WholeLoss):
        bound.gather(gradient, labels, 0.025)
        bound.settle()
    value = float(bound(gradient, labels, 0.025))
    assert value == pytest.approx(expected[0], rel=1e-6)
    np.testing.assert_allclose(gradient, expected[1], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", LOSSES)
def test_curvature_is_positive_and_finite(name):
    loss, _ = LOSSES[name]
    scores, labels, weights = draw()
    bound = loss.on(CPU)
    if isinstance(bound, WholeLoss):
        bound.gather(scores.float(), labels, weights.float())
        bound.settle()
    curvature = bound.curvature(scores.float())
    assert curvature.shape == (40, 5)
    assert (curvature >= 0).all()
    assert curvature.isfinite().all()


@pytest.mark.parametrize("name", ["focal 1", "softmax-bce", "geometric mean"])
def test_extreme_logits_stay_finite(name):
    loss, _ = LOSSES[name]
    scores = torch.tensor([[300.0, 0, 0, 0, 0], [0, 300, 0, 0, 0], [-300, 0, 0, 0, 0]])
    value, gradient = ours(loss, scores, torch.tensor([0, 0, 0]), torch.ones(3), blocks=1)
    assert math.isfinite(value)
    assert gradient.isfinite().all()


def test_focal_loss_without_focus_is_binary_cross_entropy():
    scores, labels, _ = draw()
    target = torch.nn.functional.one_hot(labels, 5).double()
    expected = binary_cross_entropy_with_logits(scores, target, reduction="sum")
    value, _ = ours(FocalLoss(None, 0.0), scores, labels, torch.ones(40))
    assert value == pytest.approx(float(expected), rel=1e-5)


def test_the_geometric_mean_of_one_row_per_class_is_cross_entropy():
    scores, labels, weights = draw()[0][:5], torch.arange(5), torch.full((5,), 0.2)
    value, gradient = ours(GeometricMeanLoss(LOG_PRIOR), scores, labels, weights)
    expected, expected_gradient = ours(Loss(offset=LOG_PRIOR), scores, labels, weights)
    assert value == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-6)


def test_lade_without_its_bound_is_balanced_softmax():
    case = draw()
    value, gradient = ours(LadeLoss(LOG_PRIOR, 0.0), *case)
    expected, expected_gradient = ours(Loss(offset=LOG_PRIOR), *case)
    assert value == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-6)


def test_clouded_logits_without_noise_and_focus_are_a_margin():
    case = draw(spread=0.3)
    value, gradient = ours(CloudLoss(COUNTS, scale=20, noise=0, margin=0.1, gamma=0), *case)
    expected, expected_gradient = ours(Loss(scale=np.full(5, 20.0), margin=np.full(5, 2.0)), *case)
    assert value == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-4)


def test_clouded_logits_equal_autograd_with_the_same_noise():
    scores, labels, weights = draw(spread=0.3)
    value, gradient = ours(CloudLoss(COUNTS, 20, 0.5, 0.1, 1.0, seed=7), scores, labels, weights, blocks=1)
    random = torch.Generator().manual_seed(7)
    noise = torch.empty(40, 5).normal_(0, 1 / 3, generator=random).clamp(-1, 1).abs().double()
    gap = torch.from_numpy(np.log(50 / COUNTS))

    def function(z, y, w):
        z = 20 * (z - 0.5 * noise * gap / gap.max() - 0.1 * torch.nn.functional.one_hot(y, 5))
        right = z.softmax(1)[torch.arange(40), y].detach()
        return (w * (1 - right) * cross_entropy(z, y, reduction="none")).sum()

    expected, expected_gradient = by_autograd(function, scores, labels, weights)
    assert value == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-4)


def test_equal_counts_are_not_clouded():
    assert not CloudLoss(np.full(3, 7), 20, 0.5, 0.1, 1.0).cloud.any()


def test_class_weights_equal_loops_and_sum_to_the_number_of_classes():
    raw = [(1 - 0.99) / (1 - 0.99 ** int(n)) for n in COUNTS]
    np.testing.assert_allclose(effective_number(COUNTS, 0.99), [5 * value / sum(raw) for value in raw])
    raw = [(int(n) / 85) ** -1.2 for n in COUNTS]
    np.testing.assert_allclose(inverse_power(COUNTS, 1.2), [5 * value / sum(raw) for value in raw])


def test_effective_numbers_approach_one_over_n():
    np.testing.assert_allclose(effective_number(COUNTS, 1 - 1e-9), inverse_power(COUNTS, 1.0), rtol=1e-5)


def test_zero_counts_are_named():
    for weigh in (lambda: effective_number(np.array([3, 0]), 0.9), lambda: inverse_power(np.array([3, 0]), 1.2)):
        with pytest.raises(DataError, match="class 1"):
            weigh()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: effective_number(COUNTS, 1.0), "beta= must be at least 0 and less than 1, but is 1.0"),
        (lambda: FocalLoss(None, -1.0), "gamma= must not be negative, but is -1.0"),
        (lambda: CloudLoss(COUNTS, -1.0, 0, 0, 0), "scale= must not be negative, but is -1.0"),
    ],
)
def test_values_that_cannot_be(make, message):
    with pytest.raises(UsageError, match=message):
        make()


# -- one loss and one sampler: the same objective for both solvers ---------------------------------------------------


SOLVED = {
    **{name: loss for name, (loss, _) in LOSSES.items()},
    "weighted": Loss(weight=inverse_power(COUNTS, 1.2)),
    "weighted focal": FocalLoss(effective_number(COUNTS, 0.99), 1.0),
    "weighted softmax-bce": SoftmaxBCE(effective_number(COUNTS, 0.99)),
}


@pytest.mark.parametrize("name", SOLVED)
@pytest.mark.parametrize("sampler", ["instance", "class-balanced"])
def test_a_batch_drawn_in_proportion_has_the_gradient_of_all_rows_weighted(name, sampler):
    counts = np.array([12, 6, 4, 2, 1])
    labels = np.repeat(np.arange(5), counts)
    random = np.random.default_rng(0)
    features = random.normal(size=(25, 3)).astype(np.float32)
    start = LinearHead(random.normal(size=(5, 3)), random.normal(size=5))
    weights = torch.from_numpy(row_weights(labels, counts, sampler, SOLVED[name].weight)).float()
    train = FeatureSet(features, labels)
    y = torch.from_numpy(labels)
    problem = Regression(training_features(train, CPU), y, weights, 5, SOLVED[name].on(CPU), start=start)
    value, gradient = problem(problem.start())
    weight_gradient, bias_gradient = problem.split(gradient)

    times = np.ones(5, int) if sampler == "instance" else 12 // counts  # so that every class comes as often
    batch = np.repeat(np.arange(25), times[labels])
    model, x = Linear(start, CPU), torch.from_numpy(features[batch])
    for parameter in model.parameters:
        parameter.grad = torch.zeros_like(parameter)
    scores = model.scores(x)
    batch_value = _RowLoss(SOLVED[name], CPU)(scores, y[batch], 1 / len(batch))
    model.backward(x, scores)

    assert float(batch_value) == pytest.approx(value, rel=1e-5)
    np.testing.assert_allclose(model.bias.grad, bias_gradient, rtol=1e-3, atol=1e-5)
    uncentred = weight_gradient + torch.outer(bias_gradient, problem.mean)
    np.testing.assert_allclose(model.weight.grad, uncentred, rtol=1e-3, atol=1e-5)
