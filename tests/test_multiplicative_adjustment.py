import numpy as np
import pytest
from conftest import COUNTS, make_split

from ltpost import DataError, LinearHead, multiplicative_adjustment, tau_norm
from ltpost.scores.predict import predict

HEAD = make_split("val").head


def multiplicative_adjust(joint, counts, tau):
    return multiplicative_adjustment(joint, counts).head(tau)


def slow_multiplicative_adjust(logits, counts, tau):
    """z_c · (n_c / n)^-τ, one number at a time."""
    total = sum(counts)
    return np.array([[z * (n / total) ** -tau for z, n in zip(row, counts, strict=True)] for row in logits])


def test_equals_the_slow_formula_up_to_one_factor():
    split = make_split("val", 3)
    ours = multiplicative_adjust(HEAD, COUNTS, 0.6).logits(split.features)
    slow = slow_multiplicative_adjust(split.logits, COUNTS, 0.6)
    np.testing.assert_allclose(ours / ours[0, 0], slow / slow[0, 0], rtol=1e-3, atol=1e-5)


def test_tau_0_and_a_uniform_prior_change_nothing():
    np.testing.assert_allclose(multiplicative_adjust(HEAD, COUNTS, 0.0).weight, HEAD.weight)
    np.testing.assert_allclose(multiplicative_adjust(HEAD, np.full(10, 7), 1.3).weight, HEAD.weight)


def test_is_tau_normalization_where_norms_are_a_power_of_the_counts():
    direction = HEAD.weight / HEAD.norms()[:, None]
    power = LinearHead(direction * (COUNTS / COUNTS.sum())[:, None] ** 0.5)
    np.testing.assert_allclose(
        multiplicative_adjust(power, COUNTS, 0.35).weight / tau_norm(power).head(0.7).weight,
        np.full((10, 16), (COUNTS.max() / COUNTS.sum()) ** 0.35),
        rtol=1e-4,
    )


def test_curve_equals_the_evaluated_head():
    split = make_split("val")
    curve = multiplicative_adjustment(split.joint, split.class_counts).curve(split)
    for tau in np.linspace(0, 2, 21):
        head = multiplicative_adjust(HEAD, COUNTS, tau)
        np.testing.assert_array_equal(curve.correct(tau), predict(head, split) == split.labels)


def test_a_class_without_samples():
    with pytest.raises(DataError, match="positive for a class prior, but class 9 has none") as caught:
        multiplicative_adjustment(HEAD, np.array([*COUNTS[:9], 0]))
    assert "logit adjustment" not in str(caught.value), "it is another method"
