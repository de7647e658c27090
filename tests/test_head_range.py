"""Heads whose values float32 does not hold: rescaled by a common factor, and never another answer than their curve."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import make_split

from ltpost import DataError, Experiment, FeatureSet, LinearHead, RescaledHead, evaluate, load_head, tau_norm
from ltpost.family import Family
from ltpost.heads import JointHead
from ltpost.model_selection import Selection, check_against_curve
from ltpost.scores.exact import ExactCurve


def scaled_split(split, factor, *, features=True, logits=True):
    """The usual problem with a classifier ``factor`` times as large."""
    made = make_split(split, 20)
    head = LinearHead(made.head.weight * np.float32(factor), made.head.bias * np.float32(factor))
    return FeatureSet(
        made.features if features else None,
        made.labels,
        head=head if features else None,
        logits=np.asarray(made.logits) * np.float32(factor) if logits else None,
        class_counts=made.class_counts,
        split=split,
    )


@pytest.mark.parametrize("factor", [1e-30, 1e-25, 1e25, 1e30])
@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize(("method", "grid"), [("tnorm", (2.0,)), ("tnorm", (0.0, 30.0)), ("mla", (1.0,))])
def test_the_size_of_the_classifier_changes_no_figure(tmp_path, factor, stored, method, grid):
    tables = []
    for size in (1.0, factor):
        folder = tmp_path / f"{size:g}"
        for split in ("val", "test"):
            scaled_split(split, size, logits=stored).save(folder / f"{split}.h5")
        experiment = Experiment(folder)
        outcome = experiment.run(method, grid=grid)
        loaded = load_head(outcome.save_head(folder / "head"))
        there = next(result for result in outcome.results if (result.split, result.name) == ("test", method))
        again = evaluate(loaded, experiment.report_set)
        no_logits = FeatureSet(experiment.report_set.features, experiment.report_set.labels)
        exported = evaluate(loaded.linear(), no_logits)
        np.testing.assert_array_equal(again.hits, there.hits)
        np.testing.assert_allclose(exported.hits.sum(), there.hits.sum(), atol=1)
        tables.append(there.hits)
    np.testing.assert_allclose(tables[0], tables[1], atol=1)  # a row at the very edge may round otherwise


def test_stored_logits_alone():
    val = scaled_split("val", 1e-25, features=False)
    slope = np.log(np.linspace(1, 3, val.num_classes)) - 57.0
    family = Family.scaled(val.joint, slope)
    for t in (-3.0, 2.0, 40.0):
        right = evaluate(family.head(t), val).hits.sum()
        np.testing.assert_allclose(right, family.curve(val).correct(t).sum(), atol=1)


def test_ordinary_heads_are_not_touched():
    head = make_split("val").head
    scale = np.exp(-1.3 * np.log(head.norms()))
    made = RescaledHead(head, scale, head.bias)
    np.testing.assert_array_equal(made.scale, scale)
    np.testing.assert_array_equal(made.offset, head.bias)
    np.testing.assert_array_equal(tau_norm(head).head(0.0).weight, head.weight)


def test_a_common_factor_changes_no_decision():
    rng = np.random.default_rng(0)
    joint, scale, offset = LinearHead(rng.normal(size=(6, 4))), rng.uniform(1, 3, 6), rng.normal(size=6)
    x = rng.normal(size=(50, 4)).astype(np.float32)
    expected = (joint.logits(x).astype(float) * scale + offset).argmax(1)
    for power in (-1e-60, -1e-40, 1e40, 1e60):
        size = abs(power)
        head = RescaledHead(joint, scale * size, offset * size)
        assert np.isfinite(head.weight).all()
        np.testing.assert_array_equal(head.logits(x).argmax(1), expected)
        rows = FeatureSet(None, np.zeros(50, int), logits=joint.logits(x))
        over_logits = RescaledHead(JointHead(6), scale * size, offset * size)
        np.testing.assert_array_equal(over_logits.reader(rows)(slice(0, 50)).argmax(1), expected)


def test_rows_without_features_tie_when_the_bias_is_dropped():
    """z = b there, so that nothing is left; all classes tie, and the first one wins, in the curve and in the head."""
    rng = np.random.default_rng(3)
    head = LinearHead(rng.normal(size=(7, 5)) * rng.uniform(0.2, 5, (7, 1)), rng.normal(size=7) * 3)
    features = np.zeros((7, 5), np.float32)
    rows = FeatureSet(features, np.arange(7), head=head, logits=head.logits(features))
    family = tau_norm(head, bias="drop")
    for tau in np.linspace(0, 3, 31):
        np.testing.assert_array_equal(family.head(tau).reader(rows)(slice(0, 7)), 0)
        assert evaluate(family.head(tau), rows).hits.tolist() == [1, 0, 0, 0, 0, 0, 0]
        assert family.curve(rows).correct(tau).tolist() == [True, *[False] * 6]


def test_a_plateau_as_narrow_as_float32_rounds_is_not_chosen():
    """At 1 two rows are right for a width of 1e-8: an artefact of rounding. Right of 1.5 it is one row for long."""
    low, high = np.array([0.0, 1.0, 1.5]), np.array([1.0 + 1e-8, 2.0, 1.6])
    curve = ExactCurve("tau", low, high, np.array([0, 1, 2]), None, 3)
    best = curve.best("all", 0.0, 2.0)
    assert (best.low, best.high) == (1.5, pytest.approx(1.6))


def test_a_head_that_contradicts_its_curve_is_an_error():
    val = make_split("val", 20, name="val.h5")
    selection = Selection(groups=val.shot_groups())
    choice = selection.choose(val, tau_norm(val.head))
    check_against_curve(choice, val)
    zeros = replace(choice, head=LinearHead(np.zeros_like(val.head.weight)))
    with pytest.raises(
        DataError, match=r"val.h5: the head at tau .* gives \d+ of 200 rows another answer than its curve"
    ):
        check_against_curve(zeros, val)
    other = replace(choice, head=LinearHead(np.roll(val.head.weight, 1, axis=0)))
    with pytest.raises(DataError, match="another answer than its curve"):
        check_against_curve(other, val)
    family = tau_norm(val.head)
    wrong = replace(family, head_at=lambda tau: family.head_at(tau + 1.0))
    with pytest.raises(DataError, match="another answer than its curve"):
        selection.choose(val, wrong)
