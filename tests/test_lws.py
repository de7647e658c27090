import numpy as np
import pytest
import torch
from long_tail import accuracy, cifar100lt, long_tail, lws, lws_path, lws_sgd, permuted, rescaling, same, with_rows
from slow_reference import slow_lws_objective

import ltpost
import ltpost.data.tensors
from ltpost.data.features import FeatureSet
from ltpost.data.load import load
from ltpost.errors import DataError, UsageError
from ltpost.heads import RescaledHead

TRAIN = long_tail()
LOGITS = TRAIN.head.logits(TRAIN.features)
STORED = FeatureSet(TRAIN.features, TRAIN.labels, logits=LOGITS, head=TRAIN.head)


def family(train, **options):
    return ltpost.lws(train, train.joint, progress=False, **options)


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("train", [TRAIN, STORED], ids=["recomputed", "stored"])
def test_value_and_gradient_equal_the_slow_objective(train, held, monkeypatch):
    if not held:
        monkeypatch.setattr(ltpost.data.tensors, "RESIDENT_BYTES", 0)
    problem = rescaling(train)
    scale = np.random.default_rng(0).uniform(0.5, 2, 5)
    value, gradient = problem(torch.from_numpy(scale).float())
    assert value == pytest.approx(slow_lws_objective(scale, LOGITS, TRAIN.labels, 0.0), rel=1e-5)
    for c in range(5):
        step = np.eye(5)[c] * 1e-4
        up = slow_lws_objective(scale + step, LOGITS, TRAIN.labels, 0.0)
        down = slow_lws_objective(scale - step, LOGITS, TRAIN.labels, 0.0)
        assert float(gradient[c]) == pytest.approx((up - down) / 2e-4, rel=1e-3, abs=1e-5)


def test_preconditioner_is_the_hessians_diagonal():
    problem = rescaling(TRAIN)
    problem.strength = 0.1
    scale = torch.tensor([1.0, 0.8, 1.2, 1.5, 0.9])
    problem.refresh(scale)
    for c in range(5):
        step = 1e-2 * torch.eye(5)[c]
        second = float((problem(scale + step)[1] - problem(scale - step)[1])[c]) / 2e-2
        assert float(problem.precondition(torch.ones(5))[c]) == pytest.approx(1 / (second + 0.1), rel=1e-2)


def test_gradient_and_preconditioner_of_a_shift_with_its_unit():
    """θ = (f, b), logits f ∘ z + b u."""
    unit, random = np.array([0.0, 0.5, 1.0, 2.0, -3.0]), np.random.default_rng(1)
    problem = rescaling(TRAIN, unit)
    theta = np.concatenate([random.uniform(0.5, 2, 5), random.normal(size=5)])

    def slow(theta):
        return slow_lws_objective(theta[:5], LOGITS + theta[5:] * unit / theta[:5], TRAIN.labels, 0.0)

    value, gradient = problem(torch.from_numpy(theta).float())
    assert value == pytest.approx(slow(theta), rel=1e-5)
    problem.refresh(torch.from_numpy(theta).float())
    diagonal = 1 / problem.precondition(torch.ones(10))
    for k in range(10):
        step = np.eye(10)[k] * 1e-3
        up, middle, down = slow(theta + step), slow(theta), slow(theta - step)
        assert float(gradient[k]) == pytest.approx((up - down) / 2e-3, rel=1e-3, abs=1e-5)
        assert float(diagonal[k]) == pytest.approx((up - 2 * middle + down) / 1e-6, rel=2e-2, abs=1e-4)


def test_minimum_is_flat():
    head = lws(TRAIN, solver="convex", strength=0.01, tolerance=1e-6)
    best = slow_lws_objective(head.scale.astype(float), LOGITS, TRAIN.labels, 0.01)
    assert head.info["objective"] == pytest.approx(best, rel=1e-5)
    for c in range(5):
        for move in (-1e-2, 1e-2):
            other = head.scale.astype(float)
            other[c] += move
            assert slow_lws_objective(other, LOGITS, TRAIN.labels, 0.01) > best


def test_a_strong_penalty_leaves_the_joint_classifier():
    head = lws(TRAIN, solver="convex", strength=1e6)
    np.testing.assert_allclose(head.scale, 1, atol=1e-4)


@pytest.mark.parametrize("solver", ["sgd", "convex"])
def test_head_is_the_joint_one_rescaled_bias_too(solver):
    head = lws(TRAIN, solver)
    assert head.base is TRAIN.head
    np.testing.assert_allclose(head.weight, TRAIN.head.weight * head.scale[:, None], rtol=1e-6)
    np.testing.assert_allclose(head.bias, TRAIN.head.bias * head.scale, rtol=1e-6)
    assert head.scale.std() > 1e-3


def test_scales_of_norm_to_minus_tau_are_tau_normalization():
    scale = TRAIN.head.norms() ** -0.7
    lws_head = RescaledHead(TRAIN.head, scale=scale)
    np.testing.assert_allclose(
        lws_head.logits(TRAIN.features),
        ltpost.tau_norm(TRAIN.head, bias="scale").head(0.7).logits(TRAIN.features),
        rtol=1e-6,
    )


@pytest.mark.parametrize("solver", ["convex", "sgd"])
def test_stored_and_recomputed_logits_and_features_on_disk_agree(solver, tmp_path, monkeypatch):
    expected = lws(TRAIN, solver).scale
    stored = load(STORED.save(tmp_path / "train.h5"))
    for train, resident in ((STORED, 2**30), (stored, 2**30), (stored, 0), (TRAIN, 0)):
        monkeypatch.setattr(ltpost.data.tensors, "RESIDENT_BYTES", resident)
        np.testing.assert_allclose(lws(train, solver).scale, expected, rtol=1e-4)


@pytest.mark.parametrize("solver", ["convex", "sgd"])
def test_logits_alone_will_do(solver):
    train = FeatureSet(labels=TRAIN.labels, logits=LOGITS)
    head = lws(train, solver)
    np.testing.assert_allclose(head.scale, lws(TRAIN, solver).scale, rtol=1e-4)
    assert head.linear() is None
    np.testing.assert_allclose(head.reader(train)(slice(0, 9)), LOGITS[:9] * head.scale, rtol=1e-5, atol=1e-6)


def test_permuted_classes_permute_the_scales():
    order = np.array([3, 0, 4, 1, 2])
    options = {"solver": "convex", "tolerance": 1e-6}
    np.testing.assert_allclose(
        lws(permuted(TRAIN, order), **options).scale, lws(TRAIN, **options).scale[order], atol=1e-4
    )


def test_views_are_rows():
    twice = with_rows(TRAIN, np.repeat(TRAIN.features, 2, axis=0), np.repeat(TRAIN.labels, 2))
    options = {"solver": "convex", "tolerance": 1e-6}
    np.testing.assert_allclose(lws(twice, **options).scale, lws(TRAIN, **options).scale, atol=1e-4)


def test_path_goes_from_strong_to_weak_and_is_deterministic():
    heads, again = (lws_path(TRAIN, strengths=(0.01, 1.0, 0.1)) for _ in range(2))
    assert [head.info["strength"] for head in heads] == [1.0, 0.1, 0.01]
    assert all(same(head, other) for head, other in zip(heads, again, strict=True))
    away = [float(np.linalg.norm(head.scale - 1)) for head in heads]
    assert away == sorted(away)


def test_sgd_seed_decides():
    first, again, other = (lws_sgd(TRAIN, seed=seed) for seed in (0, 0, 1))
    assert same(first, again)
    assert not same(first, other)


@pytest.mark.parametrize("num_classes", [1, 2])
@pytest.mark.parametrize("solver", ["convex", "sgd"])
def test_few_classes(solver, num_classes):
    head = lws(long_tail(num_classes=num_classes), solver)
    assert np.isfinite(head.scale).all()


@pytest.mark.parametrize("solver", ["convex", "sgd"])
def test_errors(solver):
    with pytest.raises(DataError, match="none of class 3;"):
        lws(TRAIN.subset(np.flatnonzero(TRAIN.labels != 3)), solver)
    with pytest.raises(DataError, match="needs 'head/weight' .* or 'logits' .* but has neither"):
        lws(FeatureSet(TRAIN.features, TRAIN.labels), solver)
    broken = LOGITS.copy()
    broken[4] = np.inf
    with pytest.raises(DataError, match="'logits' must be finite, but row 4 holds infinity"):
        lws(FeatureSet(labels=TRAIN.labels, logits=broken), solver)
    with pytest.raises(UsageError, match="solver= must be one of convex, sgd, but is 'adam'"):
        family(TRAIN, solver="adam")
    with pytest.raises(UsageError, match="strengths= is no option of lws with the solver sgd"):
        family(TRAIN, strengths=(1.0,))
    with pytest.raises(UsageError, match="precision= is no option of lws; it has solver, .* and epochs"):
        family(TRAIN, precision="bfloat16")


def test_family():
    made = family(TRAIN, seed=2)
    assert (made.parameter, made.params["epochs"], made.params["seed"]) == (None, 5, 2)
    made = family(TRAIN, solver="convex", strengths=(1.0, 0.1))
    assert made.curve(TRAIN).grid().tolist() == [1.0, 0.1]


def test_real_features():
    train, val, test = cifar100lt()
    figures = [accuracy(lws_sgd(train, seed=seed), test) for seed in range(3)]
    assert np.mean(figures) == pytest.approx(42.5, abs=0.3)
    heads = lws_path(train)
    best = max(heads, key=lambda head: accuracy(head, val))
    assert accuracy(best, test) == pytest.approx(42.26, abs=0.2)
