import math

import numpy as np
import pytest
from conftest import COUNTS, make_split

from ltpost import DataError, FeatureSet, LinearHead, la_curve, logit_adjust
from ltpost.scores.predict import predict


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


def test_a_head_on_logits_is_a_linear_head():
    head = logit_adjust(LinearHead.identity(10), COUNTS, 1.0)
    z = make_split("val").logits
    np.testing.assert_array_equal(head.weight, np.eye(10))
    np.testing.assert_allclose(head.logits(np.asarray(z)), z + head.bias, rtol=1e-5, atol=1e-6)


def test_errors():
    head = make_split("val").head
    with pytest.raises(DataError, match="class 9 has none"):
        logit_adjust(head, np.array([*COUNTS[:9], 0]))
    with pytest.raises(DataError, match="must have C = 10 entries"):
        logit_adjust(head, COUNTS[:9])
    split = make_split("val", class_counts=None)
    with pytest.raises(DataError, match="'class_counts' \\(C,\\), which logit adjustment needs"):
        la_curve(split)
    empty = make_split("val", class_counts=np.array([*COUNTS[:9], 0]), class_names=[f"n{c}" for c in range(10)])
    with pytest.raises(DataError, match="class 9 \\(n9\\) has none"):
        la_curve(empty)
