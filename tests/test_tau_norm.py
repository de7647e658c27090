import math

import numpy as np
import pytest
from conftest import COUNTS, make_split

from ltpost import DataError, FeatureSet, LinearHead, UsageError, tau_norm
from ltpost.methods.tau_norm import GRID
from ltpost.scores.predict import predict


def slow_tau_normalize(weight, tau):
    """w_c / ‖w_c‖^τ, one number at a time."""
    result = []
    for row in weight:
        norm = math.sqrt(sum(float(value) ** 2 for value in row))
        result.append([float(value) / norm**tau for value in row])
    return np.array(result)


HEAD = make_split("val").head


def tau_normalize(head, tau, bias="drop"):
    return tau_norm(head, bias=bias).head(tau)


@pytest.mark.parametrize("tau", [0.0, 0.3, 1.0, 1.7])
def test_equals_the_slow_formula(tau):
    np.testing.assert_allclose(tau_normalize(HEAD, tau).weight, slow_tau_normalize(HEAD.weight, tau), rtol=1e-5)


def test_tau_0_keeps_the_weights_and_drops_the_bias_as_the_paper_does():
    head = tau_normalize(HEAD, 0.0)
    np.testing.assert_array_equal(head.weight, HEAD.weight)
    assert head.bias is None


def test_tau_0_with_scaled_or_kept_bias_is_the_joint_classifier():
    for bias in ("scale", "keep"):
        head = tau_normalize(HEAD, 0.0, bias)
        np.testing.assert_array_equal(head.weight, HEAD.weight)
        np.testing.assert_allclose(head.bias, HEAD.bias, atol=1e-7)


def test_tau_1_gives_unit_norms():
    np.testing.assert_allclose(tau_normalize(HEAD, 1.0).norms(), 1.0, rtol=1e-6)


def test_composition():
    # ‖w‖ of the first result is ‖w‖^(1-s), so a further τ = t gives ‖w‖^-(s + t(1-s))
    s, t = 0.4, 0.5
    twice = tau_normalize(LinearHead(tau_normalize(HEAD, s).weight), t)
    np.testing.assert_allclose(twice.weight, tau_normalize(HEAD, s + t * (1 - s)).weight, rtol=1e-5)


def test_scaled_bias_by_hand():
    head = tau_normalize(LinearHead(np.array([[3.0, 4.0]]), np.array([10.0])), 1.0, "scale")
    np.testing.assert_allclose(head.bias, [2.0])


def test_permuting_classes_permutes_the_head():
    order = np.random.default_rng(0).permutation(len(COUNTS))
    permuted = tau_normalize(LinearHead(HEAD.weight[order]), 0.7)
    np.testing.assert_array_equal(permuted.weight, tau_normalize(HEAD, 0.7).weight[order])


@pytest.mark.parametrize("bias", ["drop", "scale"])
@pytest.mark.parametrize("logits", [True, False], ids=["stored logits", "from features"])
def test_curve_equals_the_evaluated_head(bias, logits):
    split = make_split("val", logits=logits)
    curve = tau_norm(split.head, bias=bias).curve(split)
    for tau in np.linspace(0, 2, 21):
        head = tau_normalize(split.head, tau, bias)
        plain = LinearHead(head.weight, head.bias)  # no short cut through stored logits
        np.testing.assert_array_equal(curve.correct(tau), predict(plain, split) == split.labels)


def test_kept_bias_is_a_grid():
    split = make_split("val")
    family = tau_norm(split.head, bias="keep")
    curve = family.curve(split, grid=[0.0, 0.5])
    assert any("the curve is not exact" in note for note in family.notes)
    head = tau_normalize(split.head, 0.5, "keep")
    np.testing.assert_allclose(head.weight, tau_normalize(split.head, 0.5).weight, rtol=1e-6)
    np.testing.assert_allclose(head.bias, split.head.bias, atol=1e-6)
    np.testing.assert_array_equal(curve.correct(0.5), predict(head, split) == split.labels)
    with pytest.raises(UsageError, match="not in the grid"):
        curve.correct(0.25)


def test_without_a_bias_all_three_agree():
    split = make_split("val", bias=False)
    for bias in ("scale", "keep"):
        curves = [tau_norm(split.head, bias=which).curve(split) for which in (bias, "drop")]
        np.testing.assert_array_equal(curves[0].low, curves[1].low)


def test_errors():
    with pytest.raises(DataError, match="no row of 'head/weight' may be zero .* that of class 1 is"):
        tau_normalize(LinearHead(np.array([[1.0, 0.0], [0.0, 0.0]])), 0.5)
    with pytest.raises(UsageError, match="bias= must be one of drop, scale, keep, but is 'none'"):
        tau_normalize(HEAD, 0.5, "none")
    logits_only = FeatureSet(labels=np.array([0, 1]), logits=np.eye(2))
    with pytest.raises(UsageError, match="tnorm needs head=, classifier, but it is None"):
        tau_norm(logits_only.head)
    with pytest.raises(DataError, match="tau-normalization needs 'head/weight' .* only the logits .* are known"):
        tau_norm(logits_only.joint)
    with pytest.raises(UsageError, match="name the values of tau to try with grid="):
        tau_norm(HEAD, bias="keep").curve(make_split("val"))


def test_the_grid_is_that_of_the_paper():
    assert tuple(k / 10 for k in range(21)) == GRID
