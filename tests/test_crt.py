import warnings

import numpy as np
import pytest
import torch
from long_tail import accuracy, cifar100lt, crt, crt_path, crt_sgd, long_tail, permuted, regression, with_rows
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from slow_reference import slow_crt_objective, slow_sgd

import ltpost
import ltpost.data.tensors
from ltpost.data.features import FeatureSet
from ltpost.data.load import load
from ltpost.data.tensors import training_features
from ltpost.errors import DataError, UsageError
from ltpost.fit.options import HeadFit
from ltpost.fit.sampling import SAMPLERS, Sampler, row_weights, rows_per_class

TRAIN = long_tail()


def family(train, **options):
    return ltpost.crt(train, progress=False, **options)


def objective(head, train, strength):
    return slow_crt_objective(
        head.weight.astype(float), head.bias.astype(float), np.asarray(train.features, float), train.labels, strength
    )


@pytest.mark.parametrize("held", [True, False])
def test_value_and_gradient_equal_the_slow_objective(held, monkeypatch):
    if not held:
        monkeypatch.setattr(ltpost.data.tensors, "RESIDENT_BYTES", 0)
    problem = regression(TRAIN)
    theta = torch.from_numpy(np.random.default_rng(2).normal(0, 0.5, problem.start().shape)).float()

    def slow(theta):
        return objective(problem.head(theta, {}), TRAIN, 0.0)

    value, gradient = problem(theta)
    assert value == pytest.approx(slow(theta), rel=1e-5)
    for k in [0, 7, 29, 30, 34]:  # weights, then centred biases
        step = torch.zeros_like(theta)
        step[k] = 1e-2
        difference = (slow(theta + step) - slow(theta - step)) / 2e-2
        assert float(gradient[k]) == pytest.approx(difference, rel=1e-3, abs=1e-4)


def test_preconditioner_inverts_its_model_of_the_hessian():
    problem = regression(TRAIN)
    problem.strength = 0.05
    random = np.random.default_rng(3)
    theta = torch.from_numpy(random.normal(0, 0.3, problem.start().shape)).float()
    problem.refresh(theta)
    x = TRAIN.features.astype(float)
    weights = row_weights(TRAIN.labels, rows_per_class(TRAIN))
    mean = weights @ x
    covariance = ((x - mean) * weights[:, None]).T @ (x - mean)
    gradient = torch.from_numpy(random.normal(size=theta.shape)).float()
    weight, bias = problem.split(problem.precondition(gradient))
    weight_gradient, bias_gradient = problem.split(gradient)
    scores = problem.head(theta, {}).logits(TRAIN.features)
    p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    for c in range(5):
        q = weights * p[:, c] * (1 - p[:, c])
        h, v = q.sum(), q @ (x - mean) / q.sum()
        hessian = np.zeros((7, 7))
        hessian[:6, :6] = h * (covariance + np.outer(v, v)) + 0.05 * np.eye(6)
        hessian[:6, 6] = hessian[6, :6] = h * v
        hessian[6, 6] = h
        solution = np.linalg.solve(hessian, [*weight_gradient[c], bias_gradient[c]])
        np.testing.assert_allclose([*weight[c], bias[c]], solution, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("strength", [0.3, 0.01, 0.001])
def test_minimum_is_sklearns(strength):
    head = crt(TRAIN, strength, tolerance=1e-6)
    assert head.info["converged"]
    # sklearn minimises C_sk Σ_i n/(C n_y) loss_i + ‖W‖²/2: the same for C_sk = 1 / (n strength)
    peer = LogisticRegression(C=1 / (len(TRAIN) * strength), class_weight="balanced", tol=1e-10, max_iter=10_000).fit(
        TRAIN.features.astype(float), TRAIN.labels
    )
    best = slow_crt_objective(peer.coef_, peer.intercept_, TRAIN.features.astype(float), TRAIN.labels, strength)
    assert objective(head, TRAIN, strength) == pytest.approx(best, rel=1e-6)
    assert head.info["objective"] == pytest.approx(best, rel=1e-6)
    np.testing.assert_allclose(head.weight, peer.coef_, atol=2e-3)


def test_path_equals_single_fits_and_goes_from_strong_to_weak():
    heads = crt_path(TRAIN, strengths=(0.01, 1.0, 0.1), tolerance=1e-6)
    assert [head.info["strength"] for head in heads] == [1.0, 0.1, 0.01]
    for head in heads:
        alone = crt(TRAIN, strength=head.info["strength"], tolerance=1e-6)
        np.testing.assert_allclose(head.weight, alone.weight, atol=1e-3)
        assert head.info["gradient_norm"] <= 1e-6


def test_convex_is_deterministic():
    assert crt(TRAIN).same_as(crt(TRAIN))


def test_order_of_rows_does_not_matter():
    order = np.random.default_rng(0).permutation(len(TRAIN))
    shuffled = with_rows(TRAIN, TRAIN.features[order], TRAIN.labels[order])
    np.testing.assert_allclose(crt(shuffled, tolerance=1e-6).weight, crt(TRAIN, tolerance=1e-6).weight, atol=1e-3)


def test_permuted_classes_permute_the_head():
    order = np.array([3, 0, 4, 1, 2])
    head, other = crt(TRAIN, tolerance=1e-6), crt(permuted(TRAIN, order), tolerance=1e-6)
    np.testing.assert_allclose(other.weight, head.weight[order], atol=1e-3)
    np.testing.assert_allclose(other.bias, head.bias[order], atol=1e-3)


def test_copies_of_a_tail_class_change_nothing():
    """All classes count alike, however many rows they have."""
    extra = np.flatnonzero(TRAIN.labels == 4)
    more = with_rows(
        TRAIN,
        np.concatenate([TRAIN.features, *[TRAIN.features[extra]] * 3]),
        np.concatenate([TRAIN.labels, *[TRAIN.labels[extra]] * 3]),
    )
    np.testing.assert_allclose(crt(more, tolerance=1e-6).weight, crt(TRAIN, tolerance=1e-6).weight, atol=1e-3)


def test_views_are_rows():
    twice = with_rows(TRAIN, np.repeat(TRAIN.features, 2, axis=0), np.repeat(TRAIN.labels, 2))
    np.testing.assert_allclose(crt(twice, tolerance=1e-6).weight, crt(TRAIN, tolerance=1e-6).weight, atol=1e-3)


@pytest.mark.parametrize("resident", [2**30, 0])
def test_a_float16_file_gives_what_its_values_give_in_memory(tmp_path, monkeypatch, resident):
    half = long_tail(dtype=np.float16)
    whole = with_rows(half, half.features.astype(np.float32), half.labels)
    stored = load(half.save(tmp_path / "train.h5"))
    expected, expected_sgd = crt(whole), crt_sgd(whole)
    monkeypatch.setattr(ltpost.data.tensors, "RESIDENT_BYTES", resident)
    assert crt(stored).same_as(expected)
    assert crt_sgd(stored).same_as(expected_sgd)


@pytest.mark.parametrize("fit", [crt, crt_sgd])
def test_features_in_memory_are_neither_copied_nor_changed(fit):
    before = TRAIN.features.copy()
    held = training_features(TRAIN, torch.device("cpu")).rows(slice(None))
    assert np.shares_memory(held.numpy(), TRAIN.features)
    fit(TRAIN)
    np.testing.assert_array_equal(TRAIN.features, before)


@pytest.mark.parametrize("num_classes", [1, 2])
@pytest.mark.parametrize("fit", [crt, crt_sgd])
def test_few_classes(fit, num_classes):
    train = long_tail(num_classes=num_classes)
    head = fit(train)
    assert head.shape == (num_classes, 6)
    assert np.isfinite(head.weight).all()


def test_constant_features():
    train = with_rows(TRAIN, np.zeros_like(TRAIN.features), TRAIN.labels)
    head = crt(train)
    np.testing.assert_allclose(head.weight, 0, atol=1e-6)
    np.testing.assert_allclose(head.bias - head.bias.mean(), 0, atol=1e-4)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_sgd_equals_the_slow_one(sampler):
    train = long_tail(num_classes=3, num_features=4, most=12)
    options = {"learning_rate": 0.3, "weight_decay": 0.01, "batch_size": 5, "sampler": sampler, "seed": 7}
    start = crt_sgd(train, epochs=1, **{**options, "learning_rate": 1e-30})
    head = crt_sgd(train, epochs=4, **options)
    draws, batches, rates = Sampler(train.labels, sampler, 7), [], []
    steps = len(train) // 5
    for epoch in range(4):
        rows = draws.draw(steps * 5, epoch / 3)
        for part in np.split(rows, steps):
            batches.append((train.features[part].astype(float), train.labels[part]))
            rates.append(0.3 * (1 + np.cos(np.pi * epoch / 4)) / 2)
    weight, bias = slow_sgd(start.weight, start.bias, batches, rates, 0.01)
    np.testing.assert_allclose(head.weight, weight, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(head.bias, bias, rtol=1e-4, atol=1e-5)


def test_sgd_seed_decides():
    first, same, other = (crt_sgd(TRAIN, seed=seed) for seed in (0, 0, 1))
    assert first.same_as(same)
    assert not first.same_as(other)


def test_sgd_start_is_random_within_torchs_bounds():
    head = crt_sgd(TRAIN, learning_rate=1e-30)
    bound = 1 / np.sqrt(6)
    assert 0.5 * bound < np.abs(head.weight).max() <= bound
    assert np.abs(head.bias).max() <= bound


def test_sgd_comes_near_the_minimum():
    sgd = crt_sgd(TRAIN, learning_rate=0.05, weight_decay=0.1, epochs=300, batch_size=32)
    best = crt(TRAIN, strength=0.1)
    assert objective(sgd, TRAIN, 0.1) < 1.05 * objective(best, TRAIN, 0.1)


def test_absent_class():
    with pytest.raises(DataError, match="none of class 3;"):
        crt(TRAIN.subset(np.flatnonzero(TRAIN.labels != 3)))
    with pytest.raises(DataError, match="none of class 3;"):
        crt_sgd(TRAIN.subset(np.flatnonzero(TRAIN.labels != 3)))


@pytest.mark.parametrize("fit", [crt, crt_sgd])
def test_features_must_be_there_and_finite(fit):
    with pytest.raises(DataError, match="holds no 'features', only logits"):
        fit(FeatureSet(labels=np.array([0, 1]), logits=np.eye(2)))
    broken = TRAIN.features.copy()
    broken[5, 2] = np.nan
    with pytest.raises(DataError, match="'features' must be finite, but row 5 holds NaN"):
        fit(with_rows(TRAIN, broken, TRAIN.labels))


def test_usage_errors():
    with pytest.raises(UsageError, match="strengths= must be a positive number, but is 0"):
        crt(TRAIN, strength=0)
    with pytest.raises(UsageError, match="strengths= must name at least one L2 strength"):
        family(TRAIN, strengths=())
    with pytest.raises(UsageError, match="tolerance= must lie between 0 and 1, but is 2"):
        crt(TRAIN, tolerance=2)
    with pytest.raises(UsageError, match="solver= must be one of convex, sgd, but is 'adam'"):
        family(TRAIN, solver="adam")
    with pytest.raises(UsageError, match="solver= must be one of convex, sgd, but is 'adam'"):
        family(TRAIN, fit=HeadFit(solver="adam"))
    with pytest.raises(UsageError, match="epochs= is no option of crt with the solver convex"):
        family(TRAIN, solver="convex", epochs=3)
    with pytest.raises(UsageError, match="strengths= is no option of crt with the solver sgd"):
        family(TRAIN, strengths=(1.0,), epochs=3)
    with pytest.raises(UsageError, match="sampler= must be one of"):
        crt_sgd(TRAIN, sampler="even")
    with pytest.raises(UsageError, match="sampler= must be one of"):
        family(TRAIN, fit=HeadFit(solver="sgd", sampler="even"))
    with pytest.raises(UsageError, match="sampler= progressive changes .* so it needs the solver sgd"):
        family(TRAIN, solver="convex", sampler="progressive")
    with pytest.raises(UsageError, match="precision= must be one of float32, bfloat16, but is 'float8'"):
        crt_sgd(TRAIN, precision="float8")
    with pytest.raises(UsageError, match="device= must be auto, cpu, cuda"):
        crt(TRAIN, device="abacus")
    with pytest.raises(UsageError, match="device='cuda:9' was asked for, but this machine has"):
        crt(TRAIN, device="cuda:9")


def test_family_of_the_convex_path():
    made = family(TRAIN, strengths=(0.1, 1.0), tolerance=1e-3)
    params = {"solver": "convex", "sampler": "class-balanced", "strengths": [1.0, 0.1], "tolerance": 1e-3}
    assert (made.parameter, made.params, made.notes) == ("strength", params, ())
    with pytest.raises(UsageError, match="there is no head at strength 0.5"):
        made.head(0.5)
    with pytest.raises(UsageError, match="name a value of strength"):
        made.head()
    curve = made.curve(TRAIN)
    best = curve.best("all")
    assert made.head(best.value).info["strength"] == best.value
    head = made.head(best.value)
    assert 100 * best.figures.all == pytest.approx(accuracy(head, TRAIN))


def test_a_tolerance_that_was_not_reached_is_noted():
    made = family(TRAIN, strengths=(0.1, 1.0), tolerance=1e-14)
    assert made.notes == ("strength 1, 0.1 did not reach the tolerance",)
    assert not made.head(0.1).info["converged"]


def test_family_of_sgd_is_one_head():
    made = family(TRAIN, solver="sgd", seed=3, epochs=2)
    assert made.parameter is None
    assert {"sampler": "class-balanced", "epochs": 2, "seed": 3}.items() <= made.params.items()


@pytest.mark.parametrize(("views", "strength", "expected"), [(1, 0.03, 42.94), (4, 0.1, 43.20)])
def test_real_features_convex(views, strength, expected):
    train, val, test = cifar100lt(views)
    heads = crt_path(train, strengths=(1.0, 0.1, 0.03, 0.01))
    best = max(heads, key=lambda head: accuracy(head, val))
    assert best.info["strength"] == strength
    assert accuracy(best, test) == pytest.approx(expected, abs=0.1)


def test_real_features_minimum_is_sklearns():
    train = cifar100lt()[0]
    train = train.subset(np.arange(0, len(train), 4))
    head = crt(train, strength=0.03, tolerance=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        peer = LogisticRegression(C=1 / (len(train) * 0.03), class_weight="balanced", tol=1e-7, max_iter=2000).fit(
            np.asarray(train.features, float), train.labels
        )

    def value(weight, bias):
        z = np.asarray(train.features, float) @ weight.T.astype(float) + bias
        z -= z.max(1, keepdims=True)
        losses = np.log(np.exp(z).sum(1)) - z[np.arange(len(z)), train.labels]
        weights = row_weights(train.labels, rows_per_class(train))
        return weights @ losses + 0.015 * np.sum(weight.astype(float) ** 2)

    best = value(peer.coef_, peer.intercept_)
    assert value(head.weight, head.bias) == pytest.approx(best, rel=1e-6)
    assert head.info["objective"] == pytest.approx(best, rel=1e-6)


def test_real_features_sgd():
    train, _, test = cifar100lt()
    figures = [accuracy(crt_sgd(train, seed=seed), test) for seed in range(3)]
    assert np.mean(figures) == pytest.approx(42.0, abs=0.5)
    assert np.std(figures) < 0.4


def test_only_the_weights_are_penalised():
    problem = regression(TRAIN)
    theta = torch.from_numpy(np.random.default_rng(4).normal(size=problem.start().shape)).float()
    weight, bias = problem.split(problem.penalised(theta))
    np.testing.assert_array_equal(weight, problem.split(theta)[0])
    assert not bias.any()


def test_a_sample_of_the_rows_is_enough_for_the_preconditioner(monkeypatch):
    train = long_tail(most=400)
    expected = crt(train, tolerance=1e-6)
    monkeypatch.setattr(ltpost.data.tensors, "FEW_ROWS", 50)
    found = crt(train, tolerance=1e-6)
    assert regression(train).refresh(torch.zeros(35)) < 0.1
    assert found.info["passes"] < 1.5 * expected.info["passes"]
    np.testing.assert_allclose(found.weight, expected.weight, atol=1e-3)


def test_the_solver_is_that_of_the_options():
    train = long_tail()
    assert family(train).params["solver"] == "convex"
    assert family(train, epochs=1).params["solver"] == "sgd"
    assert family(train, strengths=(1.0,)).params["solver"] == "convex"
    assert family(train, sampler="progressive").params["solver"] == "sgd"
    assert family(train, solver="convex", strengths=(1.0,)).params["solver"] == "convex"
