import math

import numpy as np
import pytest
from conftest import COUNTS, make_split

from ltpost import DataError, Experiment, FeatureSet, LinearHead, UsageError, logit_adjustment, tau_norm
from ltpost.heads import JointHead, RescaledHead
from ltpost.scores.predict import predict


def logit_adjust(joint, counts, tau):
    return logit_adjustment(joint, counts).head(tau)


def la_curve(split):
    return logit_adjustment(split.joint, split.class_counts).curve(split)


def slow_logit_adjust(logits, counts, tau):
    """z_c - τ log(n_c / n), one number at a time."""
    total = sum(counts)
    return np.array([[z - tau * math.log(n / total) for z, n in zip(row, counts, strict=True)] for row in logits])


def test_equals_the_slow_formula():
    split = make_split("val", 3)
    adjusted = logit_adjust(split.head, COUNTS, 0.8).logits(split.features)
    np.testing.assert_allclose(adjusted, slow_logit_adjust(split.logits, COUNTS, 0.8), rtol=1e-4, atol=1e-5)


def test_tau_0_and_a_uniform_prior_change_no_prediction():
    split = make_split("val")
    joint = predict(split.head, split)
    np.testing.assert_array_equal(predict(logit_adjust(split.head, COUNTS, 0.0), split), joint)
    np.testing.assert_array_equal(predict(logit_adjust(split.head, np.full(10, 7), 1.3), split), joint)


def test_permuting_classes_permutes_the_head():
    order = np.random.default_rng(0).permutation(10)
    head = make_split("val").head
    permuted = logit_adjust(LinearHead(head.weight[order], head.bias[order]), COUNTS[order], 1.0)
    np.testing.assert_allclose(permuted.bias, logit_adjust(head, COUNTS, 1.0).bias[order], rtol=1e-6)


def test_curve_equals_the_evaluated_head_and_works_on_logits_alone():
    split = make_split("val")
    alone = FeatureSet(labels=split.labels, logits=split.logits, class_counts=COUNTS)
    curve, same = la_curve(split), la_curve(alone)
    np.testing.assert_array_equal(curve.low, same.low)
    for tau in np.linspace(0, 2, 21):
        right = predict(logit_adjust(alone.joint, COUNTS, tau), alone) == alone.labels
        np.testing.assert_array_equal(curve.correct(tau), right)


def test_a_head_on_logits_shifts_them():
    split = make_split("val")
    alone = FeatureSet(labels=split.labels, logits=split.logits)
    head = logit_adjust(JointHead(10), COUNTS, 1.0)
    shift = -np.log(COUNTS / COUNTS.sum())
    np.testing.assert_allclose(head.reader(alone)(slice(0, 50)), split.logits[:50] + shift, rtol=1e-5, atol=1e-6)
    assert head.linear() is None
    with pytest.raises(DataError, match=r"rescales stored logits and has no weight \(C, D\)"):
        _ = head.weight


def test_two_adjustments_add():
    joint = make_split("val").head
    twice = logit_adjust(logit_adjust(joint, COUNTS, 0.4), COUNTS, 0.5)
    assert twice.base is joint
    np.testing.assert_allclose(twice.bias, logit_adjust(joint, COUNTS, 0.9).bias, rtol=1e-6)


def test_of_a_rescaled_head_shifts_the_rescaled_logits():
    split = make_split("val")
    scaled = tau_norm(split.head).head(0.7)
    both = logit_adjust(scaled, COUNTS, 0.5)
    assert isinstance(both, RescaledHead)
    shift = -0.5 * np.log(COUNTS / COUNTS.sum())
    np.testing.assert_allclose(both.logits(split.features), scaled.logits(split.features) + shift, rtol=1e-4, atol=1e-5)


def test_errors():
    head = make_split("val").head
    with pytest.raises(DataError, match="class 9 has none"):
        logit_adjustment(head, np.array([*COUNTS[:9], 0]))
    with pytest.raises(UsageError, match=r"the slope must have shape \(C,\) = \(10,\) like the head, but has \(9,\)"):
        logit_adjustment(head, COUNTS[:9])
    with pytest.raises(UsageError, match="la needs class_counts=, counts, but it is None"):
        logit_adjustment(head, None)


def test_a_class_without_samples_is_named_by_the_experiment(tmp_path):
    names = [f"n{c}" for c in range(10)]
    make_split("val", class_counts=np.array([*COUNTS[:9], 0]), class_names=names).save(tmp_path / "val.h5")
    with pytest.raises(DataError, match=r"val\.h5: class_counts must be positive .* class 9 \(n9\) has none"):
        Experiment(tmp_path).run("la")
