"""Methods that fit a head with a loss of their own: against scalar loops, their siblings, and their messages."""

import subprocess
import sys

import numpy as np
import pytest
import slow_fitted as slow
from long_tail import accuracy, cifar100lt, long_tail, permuted

from ltpost import methods
from ltpost.data.features import FeatureSet
from ltpost.errors import DataError, UsageError
from ltpost.fit.layer import Layer
from ltpost.fit.options import HeadFit
from ltpost.heads import LinearHead
from ltpost.methods.class_offsets import shrunk
from ltpost.methods.do_head import reversed_order

TRAIN = long_tail()
COUNTS = TRAIN.class_counts
LISTS = TRAIN.features.tolist(), TRAIN.labels.tolist(), COUNTS.tolist()
JOINT = TRAIN.head
KEYS = [
    "marc",
    "balanced-softmax",
    "ldam",
    "vs",
    "cdt-head",
    "cb-ce",
    "cb-focal",
    "lade",
    "gcl",
    "los",
    "gm",
    "cosine-la",
    "wb",
    "mislas",
    "h2t",
    "do-head",
    "vector-scaling",
    "bias-only",
    "disalign",
    "class-offsets",
]
NOISY = ("gcl", "h2t")


def run(key, train=TRAIN, *, counts=None, **options):
    method = methods.get(key)
    known = {
        "train": train,
        "val": train,
        "head": train.head,
        "joint": train.head,
        "class_counts": train.class_counts if counts is None else counts,
    }
    return method(
        *(known[need] for need in method.needs), **({} if "fit" in options else {"progress": False}), **options
    )


def by_sgd(key):
    """The option that asks for SGD, where there is another solver."""
    return {"solver": "sgd"} if "solver" in methods.get(key).options else {}


def fitted(key, strength=0.1, **options):
    options = {"solver": "convex", "strengths": (1.0, strength), "tolerance": 1e-5, **options}
    head = run(key, **options).head(strength)
    return head, head.info["objective"]


def slow_objective(key, head, strength, loss, *, balanced=False, features=LISTS[0], start=None):
    z = slow.scores_of(head.weight.tolist(), None if head.bias is None else head.bias.tolist(), features)
    mean = slow.mean_over_rows(z, LISTS[1], loss)
    if balanced:
        mean = slow.mean_over_classes(z, LISTS[1], loss, 5)
    return mean + slow.penalty(head.weight.tolist(), strength, start)


N = LISTS[2]
CASES = {
    "balanced-softmax": (slow.balanced_softmax(N), {}),
    "vs": (slow.vs(N, 0.2, 0.7), {"options": {"gamma": 0.2, "tau": 0.7}}),
    "cdt-head": (slow.vs(N, 0.3, 0.0), {}),
    "cb-ce": (slow.weighted(slow.effective_number(N, 0.99), slow.minus_log_p), {"options": {"beta": 0.99}}),
    "cb-focal": (slow.weighted(slow.effective_number(N, 0.9999), slow.focal(1.0)), {"options": {"starts": 2}}),
    "ldam": (slow.ldam(N, 0.5, 30.0), {"features": slow.unit(LISTS[0])}),
    "cosine-la": (
        lambda z, y: slow.minus_log_p([25 * v + np.log(n / sum(N)) for v, n in zip(z, N, strict=True)], y),
        {"features": slow.unit(LISTS[0]), "options": {"start": "random"}},
    ),
    "los": (slow.smoothed([0.98] * 5), {}),
    "wb": (slow.weighted(slow.effective_number(N, 0.9999), slow.minus_log_p), {"options": {"threshold": 1.0}}),
    "mislas": (slow.smoothed(slow.label_aware(N, 0.4, 0.1, "concave", 2)), {"balanced": True, "start": JOINT.weight}),
}


@pytest.mark.parametrize("key", CASES)
def test_objective_equals_the_formula_and_is_stationary(key):
    loss, how = CASES[key]
    how = dict(how)
    head, objective = fitted(key, **how.pop("options", {}))
    assert head.info["converged"]
    assert objective == pytest.approx(slow_objective(key, head, 0.1, loss, **how), rel=2e-5)
    random = np.random.default_rng(0)
    for _ in range(3):  # no direction leads down
        step = random.normal(size=head.weight.shape)
        for sign in (1, -1):
            moved = LinearHead(head.weight + sign * 0.02 * step, head.bias)
            assert slow_objective(key, moved, 0.1, loss, **how) > objective


def test_objective_of_losses_of_all_rows_equals_the_formula():
    for key, slow_loss in (
        ("gm", lambda z: slow.geometric_mean(z, LISTS[1], N)),
        ("lade", lambda z: slow.lade(z, LISTS[1], N, 0.1, 0.1)),
    ):
        head, objective = fitted(key)
        z = slow.scores_of(head.weight.tolist(), head.bias.tolist(), LISTS[0])
        assert objective == pytest.approx(slow_loss(z) + slow.penalty(head.weight.tolist(), 0.1), rel=2e-5), key


@pytest.mark.parametrize("shape", ["concave", "linear", "convex", "exponential"])
def test_shapes_of_label_aware_smoothing(shape):
    head, objective = fitted("mislas", shape=shape, most=0.3, least=0.0, power=3.0)
    loss = slow.smoothed(slow.label_aware(N, 0.3, 0.0, shape, 3.0))
    expected = slow_objective("mislas", head, 0.1, loss, balanced=True, start=JOINT.weight)
    assert objective == pytest.approx(expected, rel=2e-5)


@pytest.mark.parametrize(
    ("key", "weights", "units"),
    [
        ("marc", slow.inverse_power(N, 1.2), JOINT.norms()),
        ("vector-scaling", None, np.ones(5)),
        ("bias-only", None, np.ones(5)),
    ],
)
def test_rescaled_heads_equal_the_formula(key, weights, units):
    head, objective = fitted(key)
    scale = np.ones(5) if head.scale is None else head.scale
    z = [
        [s * v + t for s, v, t in zip(scale, row, head.offset, strict=True)]
        for row in slow.scores_of(JOINT.weight.tolist(), JOINT.bias.tolist(), LISTS[0])
    ]
    if weights is None:
        expected = slow.mean_over_classes(z, LISTS[1], slow.minus_log_p, 5)
    else:
        expected = slow.mean_over_rows(z, LISTS[1], slow.weighted(weights, slow.minus_log_p))
    expected += 0.05 * (sum((scale - 1) ** 2) + sum((head.offset / units) ** 2))
    assert objective == pytest.approx(expected, rel=2e-5)
    assert (head.scale is None) == (key == "bias-only")


def test_softmax_bce_of_weight_balancing_equals_the_formula():
    head, objective = fitted("wb", loss="softmax-bce", threshold=1.0)
    loss = slow.weighted(slow.effective_number(N, 0.9999), slow.softmax_bce)
    assert objective == pytest.approx(slow_objective("wb", head, 0.1, loss), rel=2e-5)


# -- siblings -------------------------------------------------------------------------------------------------------


def same(first, second):
    np.testing.assert_allclose(first.weight, second.weight, atol=2e-3)


@pytest.mark.parametrize(
    ("key", "options", "sibling", "its_options"),
    [
        ("vs", {"gamma": 0.0}, "balanced-softmax", {}),
        ("lade", {"alpha": 0.0}, "balanced-softmax", {}),
        ("cdt-head", {"gamma": 0.0}, "cb-ce", {"beta": 0.0}),
        ("los", {"smoothing": 0.0}, "cb-ce", {"beta": 0.0}),
        ("wb", {"threshold": 50.0}, "cb-ce", {}),
        ("do-head", {"prefer": "many"}, "cb-ce", {"beta": 0.0}),
        ("ldam", {"margin": 0.0, "scale": 25.0}, "cosine-la", {"tau": 0.0, "start": "random"}),
    ],
)
def test_reductions(key, options, sibling, its_options):
    same(fitted(key, **options)[0], fitted(sibling, **its_options)[0])


def test_weights_of_nearly_infinite_beta_give_crt():
    # they sum to C, so that all rows together count 25 / (N Σ 1/n) where cRT's count 1
    share = 25 / (COUNTS.sum() * (1 / COUNTS).sum())
    same(fitted("cb-ce", beta=1 - 1e-9)[0], fitted("crt", 0.1 / share)[0])


def test_do_head_for_medium_classes_draws_them_more_often():
    head, objective = fitted("do-head", rho=0.7)
    assert COUNTS[0] <= 100
    assert COUNTS[1] >= 20 > COUNTS[2]
    shares = np.array([0.7, 0.7, 0.3, 0.3, 0.3])
    weights = (shares / shares.sum() / COUNTS * COUNTS.sum()).tolist()
    loss = slow.weighted(weights, slow.minus_log_p)
    assert objective == pytest.approx(slow_objective("do-head", head, 0.1, loss), rel=2e-5)


def test_do_head_for_few_shifts_by_the_reversed_prior():
    head, objective = fitted("do-head", prefer="few")
    shares = (1 / COUNTS) / (1 / COUNTS).sum()
    weights = (shares / COUNTS * COUNTS.sum()).tolist()
    backwards = sorted(N)  # counts fall with the class number, so that the reversed order is ascending

    def loss(z, y):
        shifted = [v - np.log(n / sum(N)) for v, n in zip(z, backwards, strict=True)]
        return weights[y] * slow.minus_log_p(shifted, y)

    assert objective == pytest.approx(slow_objective("do-head", head, 0.1, loss), rel=2e-5)


def test_reversed_order_does_not_depend_on_the_order_of_classes():
    counts = np.array([7, 1, 3, 3, 9])
    order = np.array([3, 0, 4, 2, 1])
    np.testing.assert_array_equal(reversed_order(counts)[order], reversed_order(counts[order]))


def test_h2t_without_borrowing_trains_on_and_all_borrowed_is_another_head():
    none, all_of_it = (run("h2t", rho=rho, epochs=3).head().weight for rho in (0.0, 1.0))
    assert not np.allclose(none, all_of_it)
    from ltpost.fit import solve
    from ltpost.fit.loss import Loss
    from ltpost.fit.options import HeadFit
    from ltpost.methods.h2t import FIT

    fit = HeadFit(**{**vars(FIT), "epochs": 3, "progress": False})
    plain = solve.refit_sgd(TRAIN, Loss(), fit, fit.recipe(TRAIN), "h2t", Layer(start=JOINT), None, None)
    np.testing.assert_array_equal(plain.weight, none)


def test_h2t_borrows_the_same_channels_in_every_row():
    import torch

    from ltpost.methods.h2t import borrow

    x, others = torch.zeros(4, 8), torch.ones(4, 8)
    mixed = borrow(x, others, np.random.default_rng(0), 0.3)
    assert mixed.sum(1).tolist() == [2.0] * 4  # int(.3 · 8)
    assert torch.equal(mixed, mixed[:1].expand(4, -1))
    assert not x.any()


def test_cosine_heads_do_not_depend_on_the_lengths_of_the_rows():
    longer = FeatureSet(
        TRAIN.features * np.random.default_rng(1).uniform(0.5, 9, (len(TRAIN), 1)).astype(np.float32),
        TRAIN.labels,
        head=JOINT,
        class_counts=COUNTS,
    )
    for key in ("ldam", "gcl"):
        one, other = (run(key, train, epochs=2, **by_sgd(key)).head().weight for train in (TRAIN, longer))
        np.testing.assert_allclose(one, other, atol=1e-4)
        np.testing.assert_allclose(np.linalg.norm(one, axis=1), 1, rtol=1e-5)


def test_a_strong_penalty_keeps_the_class_means():
    head, _ = fitted("cosine-la", 1e4, strengths=(1e4,))
    np.testing.assert_allclose(head.weight, methods.get("ncm")(TRAIN).head().weight, atol=1e-3)


@pytest.mark.parametrize("loss", ["cross-entropy", "softmax-bce"])
@pytest.mark.parametrize("solver", ["convex", "sgd"])
def test_weight_balancing_stays_inside_the_ball(loss, solver):
    norms = JOINT.norms()
    threshold = (0.5 - norms.min()) / (norms.max() - norms.min())  # radius .5
    options = {"strengths": (0.001,)} if solver == "convex" else {"weight_decay": 0.0, "epochs": 3}
    family = run("wb", loss=loss, solver=solver, threshold=threshold, **options)
    head = family.head(0.001) if solver == "convex" else family.head()
    assert (head.norms() <= 0.5 * (1 + 1e-5)).all()
    assert (head.norms() > 0.499).any()


def test_the_ball_solver_finds_the_constrained_minimum():
    from scipy.optimize import minimize

    norms = JOINT.norms()
    threshold = (0.5 - norms.min()) / (norms.max() - norms.min())
    head, objective = fitted("wb", threshold=threshold, strengths=(0.1,), strength=0.1)
    assert head.info["converged"]
    weights = np.array(slow.effective_number(N, 0.9999))[TRAIN.labels] / len(TRAIN)
    x = TRAIN.features.astype(float)

    def value(theta):
        weight, bias = theta[:30].reshape(5, 6), theta[30:]
        z = x @ weight.T + bias
        top = z.max(1, keepdims=True)
        log_sum = np.log(np.exp(z - top).sum(1)) + top[:, 0]
        return weights @ (log_sum - z[np.arange(len(z)), TRAIN.labels]) + 0.05 * np.square(weight).sum()

    ball = {"type": "ineq", "fun": lambda theta: 0.25 - np.square(theta[:30].reshape(5, 6)).sum(1)}
    best = minimize(value, np.zeros(35), method="SLSQP", constraints=[ball], options={"maxiter": 500, "ftol": 1e-10})
    assert best.success
    assert objective == pytest.approx(best.fun, abs=2e-5)


def test_several_starts_keep_the_lowest_end_and_count_all_passes():
    one, three = (run("cb-focal", starts=starts, strengths=(0.1, 0.01)) for starts in (1, 3))
    for strength in (0.1, 0.01):
        info = three.head(strength).info
        assert info["starts"] == len(info["objectives"]) == 3
        assert info["objective"] == min(info["objectives"])
        assert info["passes"] > one.head(strength).info["passes"]


# -- shifts fitted on val -----------------------------------------------------------------------------------------


def test_unshrunk_offsets_balance_the_predicted_probabilities():
    head = run("class-offsets", shrinkage="none").head()
    z = JOINT.logits(TRAIN.features) + head.offset
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    share = np.bincount(TRAIN.labels, minlength=5)[TRAIN.labels]
    np.testing.assert_allclose((p / share[:, None]).sum(0) / 5, 0.2, atol=2e-3)  # where the gradient is 0


def test_offsets_of_a_large_split_are_kept_and_of_a_small_one_lie_on_the_line():
    log_pi = np.log(np.array([0.6, 0.2, 0.1, 0.07, 0.03]))
    a = -0.8 * log_pi + np.array([0.3, -0.3, 0.2, -0.2, 0.1])
    present = np.ones(5, bool)
    kept, summary = shrunk(a, np.full(5, 1e-9), log_pi, present)
    np.testing.assert_allclose(kept, a, atol=1e-6)
    assert summary["kept"] == pytest.approx(1)
    line, summary = shrunk(a, np.full(5, 50.0), log_pi, present)
    assert summary["sigma"] == 0
    np.testing.assert_allclose(np.diff(line) / np.diff(log_pi), -summary["tau"])


def test_moments_of_the_offsets_equal_der_simonian_and_laird():
    random = np.random.default_rng(3)
    log_pi, a, variance = random.normal(size=9), random.normal(0, 2, 9), random.uniform(0.2, 1.0, 9)
    w, x = 1 / variance, np.column_stack([np.ones(9), log_pi.mean() - log_pi])
    hat = np.linalg.solve(x.T @ np.diag(w) @ x, x.T @ np.diag(w))
    rest = a - x @ (hat @ a)
    projector = np.diag(w) - np.diag(w) @ x @ hat
    spread = (w @ rest**2 - 7) / np.trace(projector)
    assert spread > 0
    assert shrunk(a, variance, log_pi, np.ones(9, bool))[1]["sigma"] == pytest.approx(spread**0.5)


def test_a_class_without_val_rows_is_shifted_by_its_prior():
    part = TRAIN.subset(np.flatnonzero(TRAIN.labels != 3))
    family = run("class-offsets", part)
    assert np.isfinite(family.head().offset).all()
    log_pi = np.log(COUNTS / COUNTS.sum())
    others = run("class-offsets", part, shrinkage="none").head().offset
    assert others[3] == 0
    # the others say what the line is: b = k - tau log pi, and the absent class lies on it
    a, variance, present = np.array([0.5, 1.0, 2.1, 0.0, 2.9]), np.full(5, 0.04), np.arange(5) != 3
    b, summary = shrunk(a, variance, log_pi, present)
    share = summary["sigma"] ** 2 / (summary["sigma"] ** 2 + 0.04)
    assert 0 < share < 1
    line = (b[present] - share * a[present]) / (1 - share)
    slope, intercept = np.polyfit(log_pi[present], line, 1)
    assert -slope == pytest.approx(summary["tau"])
    assert b[3] == pytest.approx(intercept + slope * log_pi[3])


# -- solvers agree ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [key for key in KEYS if key != "class-offsets"])
def test_sgd_runs_twice_alike_and_leaves_its_inputs(key):
    before = TRAIN.features.copy(), JOINT.weight.copy(), COUNTS.copy()
    rows = TRAIN.features[:7]
    one, other = (run(key, **by_sgd(key), epochs=2, batch_size=32).head().logits(rows) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    assert np.isfinite(one).all()
    for old, new in zip(before, (TRAIN.features, JOINT.weight, COUNTS), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("key", [key for key in KEYS if key not in NOISY])
def test_renamed_classes_give_the_renamed_head(key):
    order = np.array([3, 0, 4, 1, 2])
    renamed = permuted(TRAIN, order)
    options = {} if key == "class-offsets" else {"solver": "convex", "strengths": (0.1,), "tolerance": 1e-5}
    if key == "cb-focal":
        options["starts"] = 1
    value = () if key == "class-offsets" else (0.1,)
    one = run(key, **options).head(*value).logits(TRAIN.features)
    other = run(key, renamed, counts=COUNTS[order], **options).head(*value).logits(TRAIN.features)
    np.testing.assert_allclose(one[:, order], other, atol=5e-3)


# -- messages -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [key for key in KEYS if "class_counts" in methods.get(key).needs])
def test_a_class_without_training_samples_is_named(key):
    with pytest.raises(DataError, match="class 2"):
        run(key, counts=np.array([60, 26, 0, 5, 2]))


@pytest.mark.parametrize("key", [key for key in KEYS if "class_counts" in methods.get(key).needs])
def test_equal_counts_have_a_limit(key):
    options = {} if key == "class-offsets" else {**by_sgd(key), "epochs": 1}
    head = run(key, counts=np.full(5, 20), **options).head()
    assert np.isfinite(head.logits(TRAIN.features)).all()


@pytest.mark.parametrize("key", NOISY)
def test_noise_needs_sgd(key):
    with pytest.raises(UsageError, match=f"solver= is no option of {key}"):
        run(key, solver="convex")
    with pytest.raises(UsageError, match="so it needs the solver sgd"):
        run(key, fit=HeadFit(solver="convex"))


@pytest.mark.parametrize(
    ("key", "options", "message"),
    [
        ("cb-ce", {"beta": 1.0}, "beta= must be at least 0 and less than 1, but is 1.0"),
        ("cb-focal", {"starts": 0}, "starts= must be at least 1, but is 0"),
        ("lade", {"alpha": -1.0}, "alpha= must not be negative, but is -1.0"),
        ("los", {"smoothing": 2.0}, "smoothing= must lie between 0 and 1, but is 2.0"),
        ("mislas", {"most": 2.0}, "most= must lie between 0 and 1, but is 2.0"),
        ("mislas", {"lr_factor": 0.0}, "lr_factor= must be positive, but is 0.0"),
        ("h2t", {"rho": 1.5}, "rho= must lie between 0 and 1, but is 1.5"),
        ("do-head", {"rho": 1.5}, "rho= must lie between 0 and 1, but is 1.5"),
        ("do-head", {"sampler": "instance"}, "sampler= is no option of do-head"),
        ("wb", {"threshold": -5.0}, "the greatest norm of a weight must be positive"),
        ("disalign", {"scale": 0.0}, "scale= must be positive, but is 0.0"),
        ("gcl", {"noise": -1.0}, "noise= must not be negative, but is -1.0"),
    ],
)
def test_values_that_cannot_be(key, options, message):
    with pytest.raises(UsageError, match=message):
        run(key, **options)


def test_a_start_of_another_shape_is_refused():
    with pytest.raises(DataError, match=r"must have shape \(C, D\) = \(5, 6\) like the training features, but has \(5"):
        Layer(start=LinearHead(np.ones((5, 7)))).check("train.h5", 5, 6)


def test_declarations_need_no_torch():
    code = (
        "import sys; from ltpost import methods; "
        f"[methods.get(key).options for key in {KEYS!r}]; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# -- real features -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["mislas", "gcl", "h2t", "balanced-softmax"])
def test_rare_classes_gain_on_real_features(key):
    train, _, test = cifar100lt()
    options = {"strengths": (0.01,)} if key == "balanced-softmax" else {}
    family = run(key, train, **options)
    head = family.head(0.01) if options else family.head()
    assert accuracy(head, test) > accuracy(train.head, test) + 2
