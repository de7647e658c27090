"""The gated head of DisAlign: its formula, its files, its training."""

import math

import numpy as np
import pytest
import torch
from long_tail import long_tail

from ltpost import methods
from ltpost.data.features import FeatureSet
from ltpost.errors import DataError
from ltpost.fit.models import Cosine, Factors, Gated, Linear, Scaled
from ltpost.heads import GatedHead, load_head
from ltpost.heads.blocks import score_blocks

TRAIN = long_tail()
HEAD = TRAIN.head
CPU = torch.device("cpu")


def gated(unit=False, seed=0):
    random = np.random.default_rng(seed)
    return GatedHead(HEAD, random.normal(size=5), random.normal(size=5), random.normal(size=6), 0.3, unit)


def all_scores(head, rows):
    return np.concatenate([block.copy() for _, block in score_blocks(head, rows)])


@pytest.mark.parametrize("unit", [False, True])
def test_logits_equal_the_formula(unit):
    head = gated(unit)
    for x, row in zip(TRAIN.features[:9].tolist(), head.logits(TRAIN.features[:9]), strict=True):
        norm = math.sqrt(sum(v * v for v in x)) if unit else 1.0
        x = [v / norm for v in x]
        g = 1 / (1 + math.exp(-sum(v * w for v, w in zip(x, head.gate.tolist(), strict=True)) - 0.3))
        for c in range(5):
            z = sum(v * w for v, w in zip(x, HEAD.weight[c].tolist(), strict=True)) + float(HEAD.bias[c])
            assert row[c] == pytest.approx((1 + g * head.alpha[c]) * z + g * head.beta[c], rel=1e-4, abs=1e-5)


def test_a_closed_gate_is_the_base():
    head = GatedHead(HEAD, np.ones(5), np.ones(5), np.zeros(6), -100.0)
    np.testing.assert_allclose(head.logits(TRAIN.features), HEAD.logits(TRAIN.features), rtol=1e-6)


@pytest.mark.parametrize("unit", [False, True])
def test_stored_logits_give_the_same_and_are_left_as_they_are(unit):
    logits = HEAD.logits(TRAIN.features)
    stored = FeatureSet(TRAIN.features, TRAIN.labels, head=HEAD, logits=logits.copy())
    head = gated(unit)
    np.testing.assert_allclose(all_scores(head, stored), all_scores(head, TRAIN), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(stored.logits, logits)


@pytest.mark.parametrize("unit", [False, True])
def test_a_saved_head_is_loaded_as_it_was(unit, tmp_path):
    head = gated(unit)
    head.info["method"] = "disalign"
    loaded = load_head(head.save(tmp_path / "head.safetensors"))
    assert isinstance(loaded, GatedHead)
    assert loaded.info == head.info
    np.testing.assert_array_equal(loaded.logits(TRAIN.features), head.logits(TRAIN.features))


def test_it_is_no_linear_layer_and_needs_features():
    head = gated()
    assert head.linear() is None
    assert not head.is_stored(TRAIN)
    logits_only = FeatureSet(None, TRAIN.labels, logits=HEAD.logits(TRAIN.features))
    with pytest.raises(DataError, match="holds no 'features', only logits"):
        head.reader(logits_only)


def test_shapes_are_checked():
    with pytest.raises(DataError, match=r"beta of a gated head must have shape \(5,\), but has \(4,\)"):
        GatedHead(HEAD, np.ones(5), np.ones(4), np.zeros(6))


def test_features_that_are_not_finite_are_named():
    features = TRAIN.features.copy()
    features[3, 2] = np.nan
    rows = FeatureSet(features, TRAIN.labels, head=HEAD)
    with pytest.raises(DataError, match="features"):
        all_scores(gated(), rows)


def models():
    yield "linear", Linear(HEAD, CPU)
    yield "cosine", Cosine(HEAD, CPU)
    scaled = Scaled(HEAD, CPU, 0.5)
    scaled.factor.uniform_(0.5, 2)
    yield "scaled", scaled
    factors = Factors(HEAD, CPU, np.arange(1.0, 6.0))
    factors.factor.uniform_(0.5, 2)
    factors.shift.normal_()
    yield "factors", factors
    shifts = Factors(HEAD, CPU, np.ones(5), factors=False)
    shifts.shift.normal_()
    yield "shifts", shifts
    for unit in (False, True):
        model = Gated(HEAD, CPU, unit, 3.0)
        for part in (model.alpha, model.beta, model.gate, model.gate_bias):
            part.normal_()
        yield f"gated {unit}", model


def by_name(name):
    torch.manual_seed(0)
    return dict(models())[name]


def formula(name, model, x):
    """Scores by autograd's operations."""
    if name == "linear":
        return x @ model.weight.T + model.bias
    if name == "cosine":
        return x @ torch.nn.functional.normalize(model.weight, dim=1).T
    if name == "scaled":
        weight, bias, factor = model.parameters
        return factor * (x @ weight.T + bias)
    if name == "factors":
        return x * model.factor + model.shift * model.unit
    if name == "shifts":
        return x + model.shift
    weight, bias = torch.from_numpy(HEAD.weight), torch.from_numpy(HEAD.bias)
    if name.endswith("True"):
        weight, bias = torch.nn.functional.normalize(weight, dim=1) * model.scale, 0.0
    z, g = x @ weight.T + bias, torch.sigmoid(x @ model.gate + model.gate_bias)[:, None]
    return (1 + g * model.alpha) * z + g * model.beta


@pytest.mark.parametrize("name", [name for name, _ in models()])
def test_gradients_of_models_equal_autograd(name):
    model = by_name(name)
    random = torch.Generator().manual_seed(1)
    x = torch.randn(20, 5 if name in ("factors", "shifts") else 6, generator=random)
    upstream = torch.randn(20, 5, generator=random)
    for parameter in model.parameters:
        parameter.grad = torch.zeros_like(parameter)
    scores = model.scores(x)
    model.backward(x, upstream.clone())
    ours = [parameter.grad.clone() for parameter in model.parameters]
    for parameter in model.parameters:
        parameter.grad = None
        parameter.requires_grad_()
    expected = formula(name, model, x)
    np.testing.assert_allclose(scores, expected.detach(), rtol=1e-4, atol=1e-5)
    (expected * upstream).sum().backward()
    for own, parameter in zip(ours, model.parameters, strict=True):
        np.testing.assert_allclose(own, parameter.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [name for name, _ in models() if name not in ("factors", "shifts")])
def test_the_head_of_a_model_decides_as_its_scores_do(name):
    model = by_name(name)
    x = torch.from_numpy(TRAIN.features)
    if name in ("cosine", "gated True"):
        x = torch.nn.functional.normalize(x, dim=1)
    guesses = model.scores(x).argmax(1)
    np.testing.assert_array_equal(model.head({}).logits(TRAIN.features).argmax(1), guesses)


@pytest.mark.parametrize("form", ["linear", "cosine"])
def test_disalign_lowers_its_loss_from_the_published_start(form):
    method = methods.get("disalign")
    family = method(TRAIN, HEAD, TRAIN.class_counts, form=form, solver="convex", strengths=(1e3, 0.01), progress=False)
    start, end = family.head(1e3), family.head(0.01)
    np.testing.assert_allclose(start.alpha, 1, atol=0.02)
    np.testing.assert_allclose(start.gate, 0.1, atol=0.02)
    weights = (TRAIN.class_counts / len(TRAIN)) ** -1.2
    weights *= 5 / weights.sum()

    def loss(head):
        z = head.logits(TRAIN.features).astype(float)
        own = z[np.arange(len(z)), TRAIN.labels]
        return np.mean(weights[TRAIN.labels] * (np.log(np.exp(z).sum(1)) - own))

    assert loss(end) < loss(start)
    assert end.info["converged"]
    away = sum(np.square(part).sum() for part in (end.alpha - 1, end.beta, end.gate - 0.1)) + end.gate_bias**2
    if form == "cosine":
        scale = np.linalg.norm(end.base.weight, axis=1)[0]
        away += (scale - 20) ** 2
    assert end.info["objective"] == pytest.approx(loss(end) + 0.005 * away, rel=1e-4)
