"""Rows that stay unanswered: both rules against slow versions, and what the commands say of them."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import COUNTS, make_split

from ltpost import Experiment, UsageError
from ltpost.cli import cli
from ltpost.data.priors import shot_groups
from ltpost.rejection import ROUNDS, ByGroup, _fixed_point, by_group, reject_rule, rejection_figures

GROUPS = shot_groups(COUNTS)
GROUP_OF = np.array([0] * 5 + [1] * 2 + [2] * 3)  # many, medium and few of the ten classes


def softmax(row):
    weights = [np.exp(z - max(row)) for z in row]
    return [weight / sum(weights) for weight in weights]


def slow_plug_in(posteriors, labels, share, moved):
    """Unit, cost and threshold, class by class and row by row; ``moved`` has m of each group."""
    answered = [float(np.mean([GROUP_OF[y] == k for y in labels])) for k in range(3)]
    for _ in range(ROUNDS):
        unit = [1 / (3 * a) for a in answered]
        safe = []
        for p in posteriors:
            best = max(unit[GROUP_OF[y]] * p[y] for y in range(10))
            safe.append(best - sum((unit[GROUP_OF[y]] - moved[GROUP_OF[y]]) * p[y] for y in range(10)))
        least = sorted(safe)[int(np.ceil(share * (len(safe) - 1)))]
        kept = [value >= least for value in safe]
        for k in range(3):
            now = sum(keep for keep, y in zip(kept, labels, strict=True) if GROUP_OF[y] == k) / len(labels)
            answered[k] = (answered[k] + now) / 2
    return unit, [u - m for u, m in zip(unit, moved, strict=True)], least


def test_the_plug_in_rule_is_the_slow_one():
    val = make_split("val", 8)
    rows = by_group(val.joint, val, GROUP_OF)
    posteriors = [softmax(row) for row in np.asarray(val.logits, float)]
    moved = np.array([-0.5, 0.0, 0.5])
    rule = _fixed_point(rows, 0.25, moved)
    unit, cost, least = slow_plug_in(posteriors, val.labels, 0.25, moved)
    np.testing.assert_allclose(rule.unit, unit, rtol=1e-6)
    np.testing.assert_allclose(rule.cost, cost, rtol=1e-6)
    assert rule.least == pytest.approx(least, rel=1e-5)
    answers, safe = rule.answers(rows)
    for answer, p in zip(answers, posteriors, strict=True):
        assert answer == np.argmax([unit[GROUP_OF[y]] * p[y] for y in range(10)])
    assert np.mean(safe < rule.least) == pytest.approx(0.25, abs=0.5 / 80)


def test_chow_leaves_the_least_sure_rows():
    val = make_split("val", 20)
    rows = by_group(val.joint, val, GROUP_OF)
    sure = np.array([max(softmax(row)) for row in np.asarray(val.logits, float)])
    answers, safe = (rule := reject_rule(rows, "chow", 0.3)).answers(rows)
    np.testing.assert_array_equal(answers, val.logits.argmax(axis=1))
    assert set(np.argsort(sure)[:60]) == set(np.flatnonzero(safe < rule.least))


def test_one_group_of_all_classes_is_chow():
    val = make_split("val", 20)
    rows = by_group(val.joint, val, np.zeros(10, int))
    chow, plug_in = (reject_rule(rows, kind, 0.3) for kind in ("chow", "plug-in"))
    assert chow.least == plug_in.least
    np.testing.assert_array_equal(chow.answers(rows)[0], plug_in.answers(rows)[0])


def test_rare_groups_are_answered_better_on_rows_that_gave_no_threshold():
    val, test = make_split("val", 100, seed=5), make_split("test", 200, seed=6)
    chow, plug_in = rejection_figures([(val.joint, val)], val.joint, test, 0.3, groups=GROUPS).values()
    assert plug_in["right balanced"] > chow["right balanced"] + 0.02
    assert plug_in["right worst"] > chow["right worst"] + 0.02
    assert plug_in["answered"] == pytest.approx(0.7, abs=0.03)
    assert chow["answered"] == pytest.approx(0.7, abs=0.03)


def test_a_group_without_rows_is_no_number():
    val, test = make_split("val", 20), make_split("test", 20)
    without = (part.subset(np.flatnonzero(GROUP_OF[part.labels] < 2)) for part in (val, test))
    labelled, reported = without
    for figures in rejection_figures([(val.joint, labelled)], val.joint, reported, 0.2, groups=GROUPS).values():
        assert np.isnan(figures["answered few"])
        assert np.isnan(figures["right few"])
        assert 0 < figures["right worst"] <= figures["right balanced"] <= 1


def test_what_is_wrong_is_named(at_home):
    rows = ByGroup(np.ones((2, 1)), np.zeros((2, 1), int), np.ones((2, 1)), np.zeros(2, int), np.zeros(2, int))
    with pytest.raises(UsageError, match="kind= must be one of chow, plug-in, but is 'never'"):
        reject_rule(rows, "never", 0.1)
    for share in (0.0, 1.0, np.nan):
        with pytest.raises(UsageError, match="reject= must lie between 0 and 1"):
            reject_rule(rows, "chow", share)
        with pytest.raises(UsageError, match="reject= must lie between 0 and 1"):
            Experiment("features", reject=share)
    result = CliRunner().invoke(cli, ["la", "--reject", "10"])
    assert (result.exit_code, "--reject must lie between 0 and 1, but is 10" in result.output) == (2, True)


def test_the_command_reports_both_rules_on_test_only(at_home):
    asked = ["la", "--reject", "0.2"]
    text = CliRunner().invoke(cli, asked, catch_exceptions=False).output
    assert "test, answered by plug-in" in text
    assert "val, answered" not in text
    values = json.loads(CliRunner().invoke(cli, [*asked, "--json"], catch_exceptions=False).output)
    for name in ("joint", "la"):
        figures = values["results"]["test"][name]["answered_by_chow"]
        assert figures["answered"] == pytest.approx(0.8, abs=0.06)
        assert 0 < figures["right_worst"] <= figures["right_balanced"] <= 1
