import numpy as np
import pytest
import torch
from slow_reference import slow_balanced_loss, slow_cross_entropy, slow_loss

from ltpost.fit.loss import Loss, cross_entropy_
from ltpost.fit.sampling import row_weights

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(0, 3, (7, 4))
LABELS = np.array([0, 1, 2, 3, 0, 0, 1])
WEIGHTS = RANDOM.random(7)


@pytest.mark.parametrize("weights", [WEIGHTS, np.full(7, 0.25)])
def test_loss_and_gradient_equal_the_slow_ones(weights):
    scores = torch.tensor(LOGITS)
    given = torch.tensor(weights) if len(set(weights)) > 1 else float(weights[0])
    loss = cross_entropy_(scores, torch.from_numpy(LABELS), given)
    slow_loss, slow_gradient = slow_cross_entropy(LOGITS, LABELS, weights)
    assert float(loss) == pytest.approx(slow_loss, rel=1e-12)
    np.testing.assert_allclose(scores.numpy(), slow_gradient, rtol=1e-10, atol=1e-12)


def test_gradient_equals_finite_differences():
    def loss(logits):
        return float(cross_entropy_(torch.tensor(logits), torch.from_numpy(LABELS), torch.tensor(WEIGHTS)))

    gradient = torch.tensor(LOGITS)
    cross_entropy_(gradient, torch.from_numpy(LABELS), torch.tensor(WEIGHTS))
    for i, k in [(0, 0), (0, 1), (3, 3), (6, 2)]:
        step = np.zeros_like(LOGITS)
        step[i, k] = 1e-5
        assert (loss(LOGITS + step) - loss(LOGITS - step)) / 2e-5 == pytest.approx(float(gradient[i, k]), abs=1e-9)


def test_huge_logits_do_not_overflow():
    scores = torch.tensor([[1e4, -1e4], [-1e4, 1e4]])
    loss = cross_entropy_(scores, torch.tensor([1, 1]), 0.5)
    assert float(loss) == pytest.approx(1e4)
    np.testing.assert_array_equal(scores.numpy(), [[0.5, -0.5], [0, 0]])


def test_weights_give_the_mean_over_classes_of_the_mean_loss():
    weights = row_weights(LABELS, np.bincount(LABELS))
    assert weights.sum() == pytest.approx(1)
    loss = cross_entropy_(torch.tensor(LOGITS), torch.from_numpy(LABELS), torch.tensor(weights))
    assert float(loss) == pytest.approx(slow_balanced_loss(LOGITS, LABELS, 4), rel=1e-12)


PARTS = {
    "offset": RANDOM.normal(size=4),
    "scale": RANDOM.uniform(0.5, 2, 4),
    "margin": RANDOM.uniform(0, 1, 4),
    "smoothing": np.array([0.0, 0.1, 0.5, 1.0]),
}


@pytest.mark.parametrize("names", [(), *((name,) for name in PARTS), tuple(PARTS)], ids=" ".join)
def test_every_part_of_a_loss_equals_the_slow_one_and_its_gradient_finite_differences(names):
    parts = {name: PARTS[name] for name in names}
    bound = Loss(**parts).on(torch.device("cpu"))

    def slow(logits):
        return slow_loss(logits, LABELS, WEIGHTS, **parts)

    scores = torch.tensor(LOGITS).float()
    value = bound(scores, torch.from_numpy(LABELS), torch.tensor(WEIGHTS).float())
    assert float(value) == pytest.approx(slow(LOGITS), rel=1e-5)
    for i in range(7):
        for k in range(4):
            step = np.zeros_like(LOGITS)
            step[i, k] = 1e-5
            slope = (slow(LOGITS + step) - slow(LOGITS - step)) / 2e-5
            assert float(scores[i, k]) == pytest.approx(slope, abs=2e-5)


@pytest.mark.parametrize("names", [(), ("offset",), ("scale",), ("offset", "scale")], ids=" ".join)
def test_curvature_is_the_second_derivative(names):
    parts = {name: PARTS[name] for name in names}
    found = Loss(**parts).on(torch.device("cpu")).curvature(torch.tensor(LOGITS).float())
    for i, k in [(0, 0), (3, 3), (6, 2), (2, 1)]:
        step = np.zeros_like(LOGITS)
        step[i, k] = 1e-3
        values = [slow_loss(LOGITS + times * step, LABELS, np.eye(7)[i], **parts) for times in (-1, 0, 1)]
        assert float(found[i, k]) == pytest.approx((values[0] - 2 * values[1] + values[2]) / 1e-6, abs=1e-4)
