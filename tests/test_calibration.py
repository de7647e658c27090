"""Calibration after a choice, sets of classes, and accuracy under other class priors."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from ltpost import methods
from ltpost.calibration import (
    Calibration,
    calibration_error,
    calibration_figures,
    fit_calibration,
    row_scores,
)
from ltpost.cli import cli
from ltpost.conformal import set_figures, set_rule
from ltpost.data.features import FeatureSet
from ltpost.data.priors import profile
from ltpost.errors import DataError, UsageError
from ltpost.experiment import Experiment
from ltpost.heads import RescaledHead, load_head
from ltpost.scores.predict import predict
from ltpost.scores.test_priors import accuracy_under, figures_under, named_priors, spread_under_dirichlet
from tests.conftest import COUNTS, SHARED, make_split, needs_shared_data


def posterior(head, rows, calibration=None):
    head = head if calibration is None else calibration.apply(head)
    z = head.reader(rows)(slice(None)).astype(np.float64)
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def nll(head, rows, calibration=None):
    return -np.log(posterior(head, rows, calibration)[np.arange(len(rows)), rows.labels]).mean()


def test_a_temperature_that_was_put_in_is_found():
    val = make_split("val", 200)
    fitted = fit_calibration([(val.joint, val)])
    sharper = RescaledHead(val.joint, scale=np.full(10, 3.0))
    assert fit_calibration([(sharper, val)]).temperature == pytest.approx(3 * fitted.temperature, rel=1e-3)


def test_the_temperature_is_the_best_one():
    val = make_split("val")
    fitted = fit_calibration([(val.joint, val)])
    for factor in (0.97, 1.03):
        other = Calibration("temperature", np.asarray(factor / fitted.temperature))
        assert nll(val.joint, val, other) > nll(val.joint, val, fitted)


@pytest.mark.parametrize("kind", ["bcts", "vector"])
def test_more_parameters_fit_better(kind):
    val = make_split("val")
    one, more = fit_calibration([(val.joint, val)]), fit_calibration([(val.joint, val)], kind, strength=1e-6)
    assert nll(val.joint, val, more) < nll(val.joint, val, one)


@pytest.mark.parametrize("kind", ["bcts", "vector"])
def test_a_strong_penalty_leaves_the_temperature(kind):
    val = make_split("val")
    one, more = fit_calibration([(val.joint, val)]), fit_calibration([(val.joint, val)], kind, strength=1e6)
    assert nll(val.joint, val, more) == pytest.approx(nll(val.joint, val, one), abs=1e-4)


def test_a_bias_alone_leaves_the_scale():
    val = make_split("val")
    bias, both = (fit_calibration([(val.joint, val)], kind, strength=1e-6) for kind in ("bias", "bcts"))
    assert bias.temperature == 1
    assert nll(val.joint, val) > nll(val.joint, val, bias) > nll(val.joint, val, both)
    gradient = (posterior(val.joint, val, bias) - np.eye(10)[val.labels]).mean(axis=0)
    assert np.abs(gradient).max() < 1e-4


def test_another_start_ends_at_the_same_point():
    val = make_split("val")
    for kind in ("temperature", "bcts", "vector"):
        one = fit_calibration([(val.joint, val)], kind)
        two = fit_calibration([(val.joint, val)], kind, start=fit_calibration([(val.joint, make_split("test"))], kind))
        assert nll(val.joint, val, two) == pytest.approx(nll(val.joint, val, one), abs=1e-5)


def test_balanced_weights_count_all_classes_alike():
    val = make_split("val")
    doubled = val.subset(np.concatenate([np.arange(len(val)), np.flatnonzero(val.labels == 0)]))
    one = fit_calibration([(val.joint, val)], "bcts", balanced=True)
    two = fit_calibration([(val.joint, doubled)], "bcts", balanced=True)
    assert np.allclose(one.offset, two.offset, atol=1e-3)
    assert not np.allclose(one.offset, fit_calibration([(val.joint, doubled)], "bcts").offset, atol=1e-2)


def test_row_scores_equal_the_formulas():
    val = make_split("val", 3)
    calibration = Calibration("vector", np.linspace(0.5, 1, 10), np.linspace(-1, 1, 10))
    scores = row_scores(val.joint, val, calibration)
    p, predicted = posterior(val.joint, val, calibration), predict(val.joint, val)
    for i in range(len(val)):
        y = val.labels[i]
        assert scores.nll[i] == pytest.approx(-math.log(p[i, y]), rel=1e-5)
        assert scores.brier[i] == pytest.approx(sum((p[i, c] - (c == y)) ** 2 for c in range(10)), rel=1e-5)
        assert scores.confidence[i] == pytest.approx(p[i, predicted[i]], rel=1e-5)
        assert scores.correct[i] == (predicted[i] == y)


def slow_ece(confidence, correct, weight, bins=15):
    total = 0.0
    for b in range(bins):
        inside = [i for i, c in enumerate(confidence) if b / bins < c <= (b + 1) / bins or (b == 0 and c == 0)]
        mass = sum(weight[i] for i in inside)
        if mass:
            accuracy = sum(weight[i] * correct[i] for i in inside) / mass
            mean = sum(weight[i] * confidence[i] for i in inside) / mass
            total += mass / sum(weight) * abs(accuracy - mean)
    return total


def test_calibration_error_has_right_closed_bins():
    random = np.random.default_rng(0)
    confidence, correct, weight = random.random(300), random.random(300) < 0.5, random.random(300)
    confidence[:3] = [0.2, 1.0, 0.4]
    assert calibration_error(confidence, correct, weight) == pytest.approx(slow_ece(confidence, correct, weight))
    # 0.2 is the end of the third of 15 bins, so it is not in the bin of 0.21
    assert calibration_error(np.array([0.2, 0.21]), np.array([1, 0])) == pytest.approx((0.8 + 0.21) / 2)
    assert math.isnan(calibration_error(np.array([]), np.array([])))


def test_figures_of_groups_and_balanced_classes():
    val = make_split("val")
    skewed = val.subset(np.concatenate([np.arange(len(val)), np.flatnonzero(val.labels == 0)]))
    groups = skewed.shot_groups()
    scores = row_scores(skewed.joint, skewed)
    figures = calibration_figures(scores, groups)
    few = groups.few[skewed.labels]
    assert figures["ece_few"] == pytest.approx(calibration_error(scores.confidence[few], scores.correct[few]))
    weight = 1 / np.bincount(skewed.labels)[skewed.labels]
    assert figures["ece_balanced"] == pytest.approx(slow_ece(scores.confidence, scores.correct, weight))
    assert figures["ece_balanced"] != pytest.approx(figures["ece"], abs=1e-6)
    assert math.isnan(calibration_figures(scores, None)["ece_many"])


def test_the_temperature_travels_with_the_head_and_changes_no_prediction(folder, tmp_path):
    plain, calibrated = Experiment(folder).run("la"), Experiment(folder, calibration="temperature").run("la")
    path = calibrated.save_head(tmp_path / "head.safetensors")
    loaded, test = load_head(path), make_split("test")
    saved = Calibration.of_info(loaded.info)
    assert loaded.info["temperature"] == saved.temperature > 0
    assert np.array_equal(predict(loaded, test), predict(plain.head, test))
    assert np.allclose(
        posterior(saved.apply(loaded), test), posterior(RescaledHead(loaded, np.full(10, 1 / saved.temperature)), test)
    )
    assert Calibration.of_info(plain.head.info).temperature == 1


def test_a_vector_calibration_travels_too(folder, tmp_path):
    outcome = Experiment(folder, calibration="vector").run("la")
    loaded = load_head(outcome.save_head(tmp_path / "head.safetensors"))
    saved = Calibration.of_info(loaded.info)
    assert saved.kind == "vector"
    assert saved.scale.shape == saved.offset.shape == (10,)


def test_calibration_on_val_is_cross_fitted(folder):
    """Figures on val come from temperatures that were fitted to the other folds, with heads chosen there."""
    experiment = Experiment(folder, calibration="temperature")
    outcome = experiment.run("la")
    results = {(r.split, r.name): r for r in outcome.results}
    val = experiment.chosen_on
    folds = experiment.selection.chosen_by_fold(val, outcome.choice)
    assert sorted(np.concatenate([inside for _, inside in folds])) == list(range(len(val)))
    total = 0.0
    for head, inside in folds:
        rest = val.subset(np.setdiff1d(np.arange(len(val)), inside))
        total += nll(head, val.subset(inside), fit_calibration([(head, rest)])) * len(inside)
    assert results["val", "la"].more["calibration"]["nll"] == pytest.approx(total / len(val), rel=1e-4)
    fitted = fit_calibration([(outcome.head, val)])
    test = experiment.report_set
    assert results["test", "la"].more["calibration"]["nll"] == pytest.approx(nll(outcome.head, test, fitted), rel=1e-4)
    assert (
        results["test", "joint"].more["calibration"]["nll"] < results["test", "joint"].more["calibration"]["nll before"]
    )


def test_heads_of_two_parameters_are_calibrated_by_fold(folder):
    experiment = Experiment(folder, calibration="temperature", coverage=0.9, test_priors=["backward-10"])
    outcome = experiment.run("tnorm-la", exponents=(0.0, 0.5))
    heads = [head for head, _ in experiment.selection.chosen_by_fold(experiment.chosen_on, outcome.choice)]
    assert len(heads) == 5
    row = next(result for result in outcome.results if (result.split, result.name) == ("test", "tnorm-la"))
    assert set(row.more) == {"calibration", "softmax sets", "pas sets", "interp-q sets", "test priors"}


def test_methods_that_fit_to_val_are_calibrated_by_heads_of_other_folds(folder):
    experiment, method = Experiment(folder, calibration="temperature"), methods.get("p2p-val")
    outcome = experiment.run("p2p-val")
    results = {(r.split, r.name): r for r in outcome.results}
    val = experiment.chosen_on

    def family_of(fit_to, target):
        return method(fit_to, experiment.joint, experiment.class_counts)

    by_fold = replace(experiment.selection, grid=method.grid).fitted_by_fold(val, family_of)
    parts = [(head, val.subset(inside)) for head, inside in by_fold]
    pooled = fit_calibration(parts)
    assert results["test", "p2p-val"].more["calibration"]["temperature"] == pytest.approx(pooled.temperature, rel=1e-3)
    total = sum(
        nll(head, rows, fit_calibration([part for other, part in enumerate(parts) if other != k])) * len(rows)
        for k, (head, rows) in enumerate(parts)
    )
    assert results["val", "p2p-val"].more["calibration"]["nll"] == pytest.approx(total / len(val), rel=1e-4)


def test_a_temperature_is_that_of_the_chosen_head_where_folds_choose_others(folder):
    """Heads of other strengths have logits of other sizes: a temperature for all of them suits none."""
    experiment = Experiment(folder, calibration="temperature", progress=False)
    outcome = experiment.run("crt", strengths=(3.0, 0.001), solver="convex")
    fitted = fit_calibration([(outcome.head, experiment.chosen_on)])
    assert outcome.head.info["temperature"] == pytest.approx(fitted.temperature, rel=1e-4)


def test_an_oracle_calibrates_where_it_reports(folder):
    (folder / "val.h5").unlink()
    outcome = Experiment(folder, oracle=True, calibration="temperature").run("la")
    assert outcome.results[-1].more["calibration"]["nll"] == pytest.approx(
        nll(outcome.head, make_split("test"), fit_calibration([(outcome.head, make_split("test"))])), rel=1e-4
    )


@needs_shared_data
def test_calibration_of_real_probabilities():
    data = np.load(SHARED / "netcal" / "densenet-bc-100-cifar-100.npz")
    logits, labels = np.log(data["predictions"]), data["ground_truth"]
    val = FeatureSet(labels=labels[::2], logits=logits[::2])
    test = FeatureSet(labels=labels[1::2], logits=logits[1::2])
    fitted = fit_calibration([(val.joint, val)])
    before = calibration_figures(row_scores(test.joint, test), None)
    after = calibration_figures(row_scores(test.joint, test, fitted), None)
    assert after["ece"] < 0.5 * before["ece"]
    assert after["nll"] < before["nll"]


def test_wrong_settings_are_named(folder):
    with pytest.raises(UsageError, match="calibration= must be one of temperature, bias, bcts, vector"):
        Experiment(folder, calibration="platt")
    with pytest.raises(UsageError, match="kind= must be one of temperature, bias, bcts, vector, but is 'platt'"):
        fit_calibration([(make_split("val").joint, make_split("val"))], "platt")
    with pytest.raises(UsageError, match="calibration needs at least one labelled row"):
        fit_calibration([(make_split("val").joint, make_split("val").subset(np.array([], dtype=int)))])
    with pytest.raises(UsageError, match="coverage= must lie between 0 and 1, but is 90"):
        Experiment(folder, coverage=90.0)
    with pytest.raises(UsageError, match="test_priors= must be uniform, forward-50 or backward-50"):
        Experiment(folder, test_priors=["sideways-50"])


# -- sets of classes --------------------------------------------------------------------------------------------------


def slow_rule(own, kind, labels, level, share=0.5):
    """-q per class from scores -p_y u_y, as in the paper."""

    def quantile(scores):
        place = math.ceil((len(scores) + 1) * level)
        return sorted(scores)[place - 1] if place <= len(scores) else math.inf

    overall = quantile([-v for v in own])
    if kind != "interp-q":
        return [-overall] * 10
    least = []
    for c in range(10):
        q = quantile([1 - v for v, y in zip(own, labels, strict=True) if y == c])
        q = 1.0 if q == math.inf else q
        least.append(1 - (share * q + (1 - share) * (1 + overall)))
    return least


@pytest.mark.parametrize("kind", ["softmax", "pas", "interp-q"])
def test_sets_equal_the_rules_of_the_paper(kind):
    val, test = make_split("val", 12), make_split("test", 9)
    unit = COUNTS.sum() / COUNTS if kind == "pas" else np.ones(10)
    p = posterior(val.joint, val) * unit
    least = slow_rule(p[np.arange(len(val)), val.labels], kind, val.labels, 0.9)
    rule = set_rule([(val.joint, val)], kind, 0.9, class_counts=COUNTS)
    assert np.allclose(rule.least, least, rtol=1e-5, atol=1e-7)
    figures = set_figures(test.joint, test, rule, test.shot_groups())
    inside = posterior(test.joint, test) * unit >= np.array(rule.least)
    held = inside[np.arange(len(test)), test.labels]
    assert figures["set size"] == pytest.approx(inside.sum(axis=1).mean(), abs=0.02)
    assert figures["coverage"] == pytest.approx(np.mean([held[test.labels == c].mean() for c in range(10)]), abs=0.01)
    few = test.shot_groups().few
    assert figures["set size few"] == pytest.approx(inside.sum(axis=1)[few[test.labels]].mean(), abs=0.03)


def test_sets_hold_the_right_class_as_often_as_wanted():
    val, test = make_split("val", 400, seed=7), make_split("test", 400, seed=8)
    for kind in ("softmax", "pas"):
        rule = set_rule([(val.joint, val)], kind, 0.9, class_counts=COUNTS)
        assert set_figures(test.joint, test, rule, None)["coverage"] == pytest.approx(0.9, abs=0.02)


def test_too_few_rows_give_every_class():
    val = make_split("val", 1)
    rule = set_rule([(val.joint, val)], "softmax", 0.99)
    assert set_figures(val.joint, val, rule, None)["set size"] == 10
    rule = set_rule([(val.joint, val)], "interp-q", 0.8, share=1.0)
    assert set_figures(val.joint, val, rule, None)["coverage"] == 1.0


def test_wrong_rules_are_named():
    val = make_split("val")
    with pytest.raises(UsageError, match="kind= must be one of softmax, pas, interp-q"):
        set_rule([(val.joint, val)], "aps", 0.9)
    with pytest.raises(UsageError, match="level= must lie between 0 and 1"):
        set_rule([(val.joint, val)], "softmax", 1.0)
    with pytest.raises(UsageError, match="needs class_counts="):
        set_rule([(val.joint, val)], "pas", 0.9)


# -- other class priors -----------------------------------------------------------------------------------------------


def test_accuracy_under_a_prior_is_the_mean_of_drawn_subsets():
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 400)
    correct = random.random(len(labels)) < np.linspace(0.9, 0.2, 10)[labels]
    prior = profile("backward-20", COUNTS)
    hits, totals = np.bincount(labels[correct], minlength=10), np.bincount(labels)
    drawn = []
    for _ in range(200):
        rows = np.concatenate(
            [random.choice(np.flatnonzero(labels == c), int(400 * prior[c] / prior.max())) for c in range(10)]
        )
        drawn.append(correct[rows].mean())
    assert accuracy_under(prior, hits, totals) == pytest.approx(np.mean(drawn), abs=0.01)


def test_the_uniform_prior_gives_the_mean_over_classes():
    hits, totals = np.array([3, 0, 5]), np.array([4, 0, 10])
    assert accuracy_under(np.full(3, 1 / 3), hits, totals) == pytest.approx((0.75 + 0.5) / 2)
    assert math.isnan(accuracy_under(np.full(3, 1 / 3), hits * 0, totals * 0))


def test_the_spread_of_dirichlet_priors_is_exact():
    random = np.random.default_rng(0)
    prior, hits, totals = profile("forward-5", COUNTS), random.integers(0, 50, 10), np.full(10, 50)
    drawn = random.dirichlet(30 * prior, 40_000) @ (hits / totals)
    assert spread_under_dirichlet(prior, hits, totals, 30.0) == pytest.approx(drawn.std(), rel=0.03)
    assert accuracy_under(prior, hits, totals) == pytest.approx(drawn.mean(), abs=0.003)
    figures = figures_under(named_priors(["dirichlet-forward-5"], COUNTS), hits, totals)
    assert set(figures) == {"dirichlet-forward-5", "dirichlet-forward-5 std"}


def test_priors_need_counts():
    with pytest.raises(DataError, match="there are no class_counts"):
        named_priors(["forward-50"], None)


# -- the command line -------------------------------------------------------------------------------------------------


def test_what_was_asked_for_is_in_the_table_the_json_and_the_csv(at_home):
    asked = ["--calibration", "--coverage", "0.9", "--test-prior", "forward-50,backward-50"]
    text = CliRunner().invoke(cli, ["la", *asked, "--csv", "la.csv"], catch_exceptions=False).output
    for words in ("test, calibration", "ece_balanced", "test, pas sets", "test, test priors", "backward-50"):
        assert words in text
    assert "val, pas sets" not in text
    with Path("la.csv").open() as file:
        row = next(row for row in csv.DictReader(file) if row["method"] == "la" and row["split"] == "test")
    values = json.loads(CliRunner().invoke(cli, ["la", *asked, "--json"], catch_exceptions=False).output)
    result = values["results"]["test"]["la"]
    assert float(row["calibration_nll"]) == pytest.approx(result["calibration"]["nll"], rel=1e-5)
    assert float(row["pas_sets_set_size"]) == pytest.approx(result["pas_sets"]["set_size"], rel=1e-5)
    assert float(row["test_priors_backward_50"]) == pytest.approx(result["test_priors"]["backward_50"], rel=1e-5)


def test_evaluate_uses_the_saved_temperature(at_home):
    runner = CliRunner()
    outcome = json.loads(runner.invoke(cli, ["la", "--calibration", "--json"], catch_exceptions=False).output)
    asked = ["evaluate", "--head", "heads/la.safetensors", "--calibration", "--test-prior", "backward-50", "--json"]
    values = json.loads(runner.invoke(cli, asked, catch_exceptions=False).output)["test"]
    saved, fitted = values["heads/la.safetensors"]["calibration"], outcome["results"]["test"]["la"]["calibration"]
    assert saved == pytest.approx(fitted)
    assert values["joint"]["calibration"]["temperature"] == 1
    assert values["joint"]["test_priors"]["backward_50"] < values["heads/la.safetensors"]["test_priors"]["backward_50"]


def test_compare_has_calibration_for_every_method(at_home):
    run = ["compare", "--methods", "tnorm,la", "--calibration", "vector"]
    text = CliRunner().invoke(cli, run, catch_exceptions=False).output
    table = text.split("test, calibration")[1].split("\n\n")[0]
    assert [line.split()[0] for line in table.splitlines()[2:]] == ["joint", "tnorm", "la"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--coverage", "90"], "--coverage must lie between 0 and 1, but is 90"),
        (["--test-prior", "sideways"], "--test-prior must be uniform, forward-50 or backward-50"),
    ],
)
def test_a_wrong_option_is_named_as_the_command_line_has_it(at_home, options, words):
    result = CliRunner().invoke(cli, ["la", *options])
    assert result.exit_code == 2
    assert words in result.output
