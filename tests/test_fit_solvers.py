"""Both solvers minimise the same objective, whatever loss and sampler; fits reduce to one another; old bits stay."""

import hashlib

import numpy as np
import pytest
import torch
from long_tail import along, long_tail, same
from scipy.optimize import minimize
from slow_reference import slow_class_probability, slow_loss

import ltpost
from ltpost.errors import UsageError
from ltpost.fit.fitting import refit, rescale
from ltpost.fit.loss import Loss
from ltpost.fit.options import Fit, HeadFit
from ltpost.heads import LinearHead

TRAIN = long_tail()
COUNTS = np.bincount(TRAIN.labels)
PRIOR = COUNTS / COUNTS.sum()
RANDOM = np.random.default_rng(8)
LOSSES = {
    "plain": {},
    "weight": {"weight": RANDOM.uniform(0.5, 2, 5)},
    "offset": {"offset": np.log(PRIOR)},
    "scale": {"scale": RANDOM.uniform(0.5, 1.5, 5)},
    "margin": {"margin": 0.5 * COUNTS**-0.25},
    "smoothing": {"smoothing": np.linspace(0.3, 0.0, 5)},
    "all of them": {
        "weight": np.linspace(0.5, 2, 5),
        "offset": np.log(PRIOR),
        "scale": np.linspace(1.2, 0.8, 5),
        "margin": 0.5 * COUNTS**-0.25,
        "smoothing": np.linspace(0.3, 0.0, 5),
    },
}
SAMPLERS = ("class-balanced", "instance", "square-root")  # progressive has no objective: it changes
STRENGTH = 0.1


def row_weights_of(sampler, weight=None):
    """What each row counts: the sampler's probability of its class, spread over its rows, times the class weight."""
    share = np.array([slow_class_probability(sampler, COUNTS.tolist(), c, 0) for c in range(5)]) / COUNTS
    return (share if weight is None else share * weight)[TRAIN.labels]


def loss_at(scores, sampler, parts):
    """The slow loss, all rows."""
    parts = dict(parts)
    return slow_loss(scores, TRAIN.labels, row_weights_of(sampler, parts.pop("weight", None)), **parts)


def objective(theta, sampler, parts, penalised):
    """Loss and penalty of (W, b), (C, D + 1) float64; ``penalised`` (D + 1,) is 0 for a column without a penalty."""
    parts = {name: torch.from_numpy(np.asarray(value)) for name, value in parts.items()}
    labels = torch.from_numpy(TRAIN.labels)
    x = torch.from_numpy(np.pad(TRAIN.features.astype(float), ((0, 0), (0, 1)), constant_values=1))
    z = (x @ theta.T) * parts.get("scale", 1.0) + parts.get("offset", 0.0)
    own = torch.nn.functional.one_hot(labels, 5)
    z = z - own * parts.get("margin", torch.zeros(5))
    smoothing = parts.get("smoothing", torch.zeros(5))[labels][:, None]
    target = (1 - smoothing) * own + smoothing / 5
    weight = torch.from_numpy(row_weights_of(sampler)) * parts.get("weight", torch.ones(5))[labels]
    loss = -(weight * (target * z.log_softmax(1)).sum(1)).sum()
    return loss + STRENGTH / 2 * (theta.square() * torch.from_numpy(penalised)).sum()


def value_of(head, *problem):
    theta = np.concatenate([head.weight, head.bias[:, None]], axis=1).astype(float)
    return float(objective(torch.from_numpy(theta), *problem))


def least(*problem):
    """The minimum, by scipy."""

    def function(flat):
        theta = torch.from_numpy(flat.reshape(5, -1)).requires_grad_()
        value = objective(theta, *problem)
        return float(value.detach()), torch.autograd.grad(value, theta)[0].numpy().ravel()

    return minimize(function, np.zeros(5 * 7), jac=True, method="L-BFGS-B", options={"maxiter": 2000}).fun


def convex(loss, sampler, strength=STRENGTH, train=TRAIN):
    fit = HeadFit(solver="convex", strengths=(strength,), tolerance=1e-6, sampler=sampler, progress=False)
    return refit(train, loss, fit, name="test").head(strength)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("parts", LOSSES.values(), ids=LOSSES)
def test_both_solvers_minimise_the_same_objective(parts, sampler):
    """But that the weight decay of SGD, as in the reference code, pulls at the bias too."""
    without_bias, with_bias = np.append(np.ones(6), 0.0), np.ones(7)
    head = convex(Loss(**parts), sampler)
    best = least(sampler, parts, without_bias)
    assert value_of(head, sampler, parts, without_bias) == pytest.approx(best, rel=1e-5)
    assert head.info["objective"] == pytest.approx(best, rel=1e-5)
    options = {"learning_rate": 0.05, "weight_decay": STRENGTH, "batch_size": 32, "epochs": 200}
    fit = HeadFit(solver="sgd", sampler=sampler, progress=False, **options)
    head = refit(TRAIN, Loss(**parts), fit, name="test").head()
    best = least(sampler, parts, with_bias)
    assert best * (1 - 1e-6) <= value_of(head, sampler, parts, with_bias) < 1.005 * best


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("parts", LOSSES.values(), ids=LOSSES)
def test_both_solvers_rescale_alike(parts, sampler):
    """Without a penalty, as SGD pulls factors to 0 and the convex solver to 1."""
    z = TRAIN.head.logits(TRAIN.features).astype(float)
    fits = [
        Fit(solver="convex", strengths=(1e-6,), tolerance=1e-5, sampler=sampler, progress=False),
        Fit(
            solver="sgd",
            sampler=sampler,
            progress=False,
            learning_rate=0.05,
            weight_decay=0.0,
            batch_size=32,
            epochs=200,
        ),
    ]
    families = [rescale(TRAIN, TRAIN.head, Loss(**parts), fit, name="test", shift_unit=np.ones(5)) for fit in fits]
    heads = [families[0].head(1e-6), families[1].head()]
    value, other = (loss_at(z * head.scale + head.offset, sampler, parts) for head in heads)
    assert heads[0].info["objective"] == pytest.approx(value, rel=1e-3)
    assert value * (1 - 1e-3) <= other < 1.03 * value
    assert value < 0.9 * loss_at(z, sampler, parts), "there was something to learn"


def test_shifts_have_their_unit():
    """b u with a strong penalty on b: a large unit lets the same shift through at a small price."""
    fit = Fit(solver="convex", strengths=(1.0,), tolerance=1e-6, progress=False)
    offsets = [
        np.abs(rescale(TRAIN, TRAIN.head, Loss(), fit, name="test", shift_unit=unit).head(1.0).offset)
        for unit in (np.full(5, 0.1), np.full(5, 10.0), np.array([0.0, 1.0, 1.0, 1.0, 1.0]))
    ]
    assert offsets[0].max() < 0.1 * offsets[1].max()
    assert offsets[2][0] == 0
    assert (offsets[2][1:] > 0).all()


# -- reductions --------------------------------------------------------------------------------------------------------


def assert_equal_heads(one, other, atol=1e-3):
    np.testing.assert_allclose(one.weight, other.weight, atol=atol)
    np.testing.assert_allclose(one.bias - one.bias.mean(), other.bias - other.bias.mean(), atol=atol)


def test_class_weights_undo_a_sampler():
    """The balanced sampler with rows that count n_c C / N is the instance sampler."""
    assert_equal_heads(convex(Loss(weight=PRIOR * 5), "class-balanced"), convex(Loss(), "instance"))


def test_an_offset_of_log_pi_moves_the_bias_alone():
    """Balanced Softmax: the instance-weighted fit, minus log π."""
    balanced, plain = convex(Loss(offset=np.log(PRIOR)), "instance"), convex(Loss(), "instance")
    assert_equal_heads(balanced, LinearHead(plain.weight, plain.bias - np.log(PRIOR)))


def test_a_common_scale_is_a_weaker_penalty():
    """CE(2 V x) + λ/2 ‖V‖² is minimal at V = W/2, W of λ/4."""
    scaled, plain = convex(Loss(scale=np.full(5, 2.0)), "instance"), convex(Loss(), "instance", STRENGTH / 4)
    assert_equal_heads(scaled, LinearHead(plain.weight / 2, plain.bias / 2))


def test_smoothing_of_everything_learns_nothing():
    head = convex(Loss(smoothing=np.ones(5)), "instance")
    np.testing.assert_allclose(head.weight, 0, atol=1e-4)


@pytest.mark.parametrize("part", ["offset", "margin", "smoothing"])
def test_parts_of_zeros_are_none(part):
    assert same(convex(Loss(**{part: np.zeros(5)}), "instance"), convex(Loss(), "instance"))


def test_crt_is_a_plain_refit():
    family = ltpost.crt(TRAIN, strengths=(STRENGTH,), tolerance=1e-6, progress=False)
    assert same(family.head(STRENGTH), convex(Loss(), "class-balanced"))


def test_impossible_losses():
    with pytest.raises(UsageError, match=r"must all have shape \(C,\), but have \[\(2,\), \(3,\)\]"):
        Loss(offset=np.zeros(2), margin=np.zeros(3))
    with pytest.raises(UsageError, match=r"must all have shape \(C,\), but have \[\(2, 2\)\]"):
        Loss(offset=np.zeros((2, 2)))
    with pytest.raises(UsageError, match="the margin of a loss must be finite, but that of class 1 is inf"):
        Loss(margin=np.array([0.0, np.inf]))


# -- bits --------------------------------------------------------------------------------------------------------------

#: heads of `small` as the code made them before methods became functions; torch 2.14.1 on an x86-64 CPU with AVX512
BEFORE = {
    "crt convex": [
        "b41b41536e4f5dbd", "1498c756cb111ea2", "902555e6c337bdcc", "af8452213a4dac00", "a3e68a9efade0289",
        "4f1c27ac2e4ac736", "76e25825cf401f23",
    ],
    "crt sgd": ["cccf70ac6232deca"],
    "lws convex": [
        "ebf42114ee59f38f", "04e29df21a256f3e", "e6d0284050e0b2a1", "7308c4a73227707e", "54fb39031d638843",
        "f919a631240385f3", "f0125dbfbd77b5f6",
    ],
    "lws sgd": ["8d4e06bab63afc3c"],
}  # fmt: skip
REFERENCE = "c0579011bb689d18"


def small():
    rng = np.random.default_rng(0)
    counts = np.array([40, 20, 10, 5])
    labels = np.repeat(np.arange(4), counts)
    means = rng.normal(size=(4, 6)) * 2
    features = np.maximum(means[labels] + rng.normal(size=(75, 6)), 0).astype(np.float32)
    head = LinearHead(rng.normal(size=(4, 6)), rng.normal(size=4))
    return ltpost.FeatureSet(features, labels, head=head, class_counts=counts, split="train")


def sha(*arrays):
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def arithmetic_of_this_machine():
    """What torch and numpy make of the operations that the fits consist of; other processors and versions round so."""
    train = small()
    x, weight = torch.from_numpy(train.features), torch.from_numpy(train.head.weight)
    scores = torch.addmm(torch.from_numpy(train.head.bias), x, weight.T)
    p = scores.softmax(1)
    spectrum, basis = torch.linalg.eigh(torch.mm(x.T, x) / 75)
    parts = [scores, torch.log_softmax(scores, 1), p, torch.mm(p.T, x), spectrum, basis, p.double().sum(0), x.norm()]
    return sha(*parts, train.head.logits(train.features))


@pytest.mark.parametrize("fit", BEFORE)
def test_heads_have_the_bits_that_they_had(fit):
    if arithmetic_of_this_machine() != REFERENCE:
        pytest.skip("this processor, or this version of torch, rounds otherwise than the one that made the hashes")
    train, (method, solver) = small(), fit.split()
    needs = (train,) if method == "crt" else (train, train.joint)
    family = getattr(ltpost, method)(*needs, solver=solver, progress=False)
    heads = along(family) if solver == "convex" else [family.head()]
    assert [sha(head.linear().weight, head.linear().bias) for head in heads] == BEFORE[fit]
