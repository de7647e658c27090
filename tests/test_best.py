"""The ladder: what is tried, what is kept, and that nothing of test is seen before the end."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import COUNTS
from test_layers import with_layers

import ltpost
from ltpost import DataError, Experiment, FeatureSet, LinearHead, UsageError, best, load_head
from ltpost.cli import cli
from ltpost.data.layers import Layer
from ltpost.data.rows import Rows
from ltpost.data.view_means import first_view, has_plain_views, mean_of_views
from ltpost.ladder import ladder as ladder_module
from ltpost.ladder.candidates import mean_of, of_method
from ltpost.ladder.climb import Judge, climb, honest, standard_error
from ltpost.scores.paired import paired_difference
from ltpost.scores.posteriors import spread_of_logits

SINGLES = ("la", "ncm")  # quick ones


def two_views(split, noise=0.6):
    """Rows that show every sample twice, in a scattered order."""
    one = with_layers(split)
    random = np.random.default_rng(len(split))
    order = random.permutation(2 * len(one))
    sample = order // 2

    def seen(values):
        values = np.asarray(values, dtype=np.float32)[sample]
        return np.maximum(values + noise * random.normal(size=values.shape), 0).astype(np.float32)

    layers = {name: Layer(Rows(seen(layer.rows[:])), layer.attrs) for name, layer in one.layers.items()}
    known = {"head": one.head, "class_counts": COUNTS, "split": split}
    return FeatureSet(seen(one.features), one.labels[sample], sample=sample, view=order % 2, layers=layers, **known)


@pytest.fixture(scope="module")
def splits():
    return {name: with_layers(name) for name in ("train", "val", "test")}


def experiment(splits, **options):
    return Experiment(**splits, progress=False, **options)


@pytest.fixture(scope="module")
def climbed(splits):
    return best(experiment(splits), fit_on_val=True, transductive=True, singles=SINGLES)


# -- decisions ---------------------------------------------------------------------------------------------------------


def judged(rows=4000, seed=0):
    """A judge, and rows that are right with a given probability beyond those of ``before``."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 10, rows)
    return Judge(labels, 10, None, None), random


def better(before, share, random):
    return before | (random.random(len(before)) < share)


def test_a_gain_beyond_noise_is_kept_and_noise_is_not():
    judge, random = judged()
    foot = random.random(4000) < 0.5
    swapped = foot.copy()  # as good, but right on other rows
    swapped[random.permutation(np.flatnonzero(foot))[:200]] = False
    swapped[random.permutation(np.flatnonzero(~foot))[:200]] = True
    richer = better(foot, 0.1, random)
    assert climb(judge, foot, [[swapped], [richer], [richer], []]) == [False, True, False, False]
    assert climb(judge, None, [[swapped]]) == [True], "without a joint classifier the first rung is kept"


def test_noise_is_seldom_kept():
    """Rungs that differ from the foot at random are kept about once in twenty times."""
    kept = 0
    for seed in range(200):
        judge, random = judged(300, seed)
        foot = random.random(300) < 0.5
        other = np.where(random.random(300) < 0.2, random.random(300) < 0.5, foot)
        kept += climb(judge, foot, [[other]])[0]
    assert 2 <= kept <= 22


def test_the_score_is_the_mean_over_classes():
    judge, random = judged(200)
    correct = random.random(200) < 0.4
    rows = np.flatnonzero(random.random(200) < 0.7)
    slow = np.mean([np.mean([correct[i] for i in rows if judge.labels[i] == c]) for c in range(10)])
    assert judge.score(correct, rows) == pytest.approx(slow)


def test_near_best_are_those_within_one_standard_error():
    judge, random = judged(1000)
    candidates = [random.random(1000) < 0.5]
    candidates += [
        np.where(random.random(1000) < 0.3, random.random(1000) < share, candidates[0])
        for share in (0.3, 0.45, 0.5, 0.52)
    ]
    top = max(range(5), key=lambda k: judge.score(candidates[k]))
    expected = []
    for k in range(5):
        lead = paired_difference(candidates[k], candidates[top], judge.labels, num_classes=10, level=0.9)["all"]
        half = (lead.interval[1] - lead.interval[0]) / 2
        if k == top or lead.value < half / 1.6449:
            expected.append(k)
    assert judge.near_best(candidates) == expected
    assert 1 < len(expected) < 5


def test_standard_error_is_about_the_root_of_disagreement():
    judge, random = judged(4000)
    foot = random.random(4000) < 0.5
    other = np.where(random.random(4000) < 0.2, ~foot, foot)
    assert standard_error(judge.gain(foot, other)) == pytest.approx((0.2 / 4000) ** 0.5, rel=0.1)


def test_honest_rows_are_judged_by_what_is_decided_without_them():
    """Of many candidates that guess, the best looks good only on the rows that it was chosen on."""
    judge = Judge(np.arange(150) % 3, 3, None, None)
    folds = [np.arange(start, 150, 5) for start in range(5)]
    looks, holds = [], []
    for seed in range(20):
        random = np.random.default_rng(seed)
        guesses = [random.random(150) < 1 / 3 for _ in range(30)]
        looks.append(judge.score(guesses[judge.best(guesses)]))
        holds.append(judge.score(honest(folds, lambda rows, of=guesses: of[judge.best(of, rows)], 150)))
    assert np.mean(looks) > 0.40
    assert np.mean(holds) == pytest.approx(1 / 3, abs=0.025)


def test_honest_equals_the_slow_loop():
    judge, random = judged(60)
    candidates = [random.random(60) < share for share in (0.4, 0.5, 0.5)]
    fold = random.integers(0, 4, 60)
    found = honest(
        [np.flatnonzero(fold == k) for k in range(4)], lambda rows: candidates[judge.best(candidates, rows)], 60
    )
    for row in range(60):
        others = np.flatnonzero(fold != fold[row])
        scores = [judge.score(one, others) for one in candidates]
        assert found[row] == candidates[int(np.argmax(scores))][row]


# -- the ladder --------------------------------------------------------------------------------------------------------


def test_the_ladder_finds_the_layers_and_reports_them(climbed, splits):
    names = [step.name for step in climbed.steps]
    assert names[:5] == ["single methods", "tau-norm x la", "last-layer LDA", "mixed heads", "earlier layers"]
    assert names[5:] == ["fits on val", "known prior"]
    assert any(step.kept for step in climbed.steps)
    table = {(row.split, row.name): row for row in climbed.results}
    for name, winner in (("best", climbed.overall), ("best linear", climbed.linear)):
        assert table["test", name].figures.all > table["test", "joint"].figures.all
        assert ltpost.evaluate(winner.head, splits["test"]).figures == table["test", name].figures
        assert "cross-fitted" in table["val", name].detail
        assert table["val", name].figures.all == pytest.approx(winner.expected)
        assert winner.gain.interval[0] < winner.gain.value < winner.gain.interval[1]
    assert climbed.linear.head.linear() is not None
    shown = str(climbed)
    for words in ("expected on unseen rows", "best linear layer", "gain, 90 % interval", "kept"):
        assert words in shown
    assert json.dumps(climbed.as_dict(), allow_nan=False, default=lambda value: value.item())


def test_steps_are_paired_gains_over_what_was_kept(climbed, splits):
    """The gains that are printed, anew from the candidates themselves."""
    labels = splits["val"].labels
    before = splits["val"].logits.argmax(1) == labels
    for step in climbed.steps:
        if step.best is None:
            continue
        after = step.best.correct
        gain = np.mean([after[labels == c].mean() - before[labels == c].mean() for c in range(len(COUNTS))])
        assert step.gain.value == pytest.approx(gain)
        assert step.score == pytest.approx(np.mean([after[labels == c].mean() for c in range(len(COUNTS))]))
        assert step.kept == (step.gain.interval[0] > 0)
        before = after if step.kept else before


def test_every_fold_is_judged_by_a_head_that_was_fitted_without_it(splits):
    val = splits["val"]
    one = of_method(experiment({**splits, "test": val}), "eb-lda")
    seen = np.zeros(len(val), int)
    for head, inside in one.by_fold:
        seen[inside] += 1
        rest = val.subset(np.setdiff1d(np.arange(len(val)), inside))
        again = ltpost.empirical_bayes_discriminant(splits["train"], rest, val.joint, COUNTS).head()
        np.testing.assert_allclose(head.linear().weight, again.linear().weight, atol=1e-4)
    assert (seen == 1).all()
    assert one.fits_on_val
    assert "fits on val" in one.label


def test_no_label_of_test_is_read_before_everything_is_decided(splits, monkeypatch):
    """Nor do other labels change anything but the figures on test."""
    decided = []

    class Sealed(FeatureSet):
        @property
        def labels(self):
            assert decided, "a label of test was read"
            return self.__dict__["labels"]

        @labels.setter
        def labels(self, values):
            self.__dict__["labels"] = values

    random, reported = np.random.default_rng(0), ladder_module._reported
    heads = []
    for sealed in (False, True):
        test = with_layers("test")
        run = experiment({**splits, "test": test})
        rows = run.report_set
        if sealed:
            rows.labels = random.permutation(rows.labels)
            rows.__class__ = Sealed
            monkeypatch.setattr(ladder_module, "_reported", lambda *args: decided.append(1) or reported(*args))
        found = best(run, fit_on_val=True, transductive=True, singles=SINGLES)
        heads.append([found.overall.head.state()[1], found.linear.head.state()[1]])
        heads[-1].append([(step.score, step.kept) for step in found.steps])
    assert decided == [1]
    for one, other in zip(heads[0][:2], heads[1][:2], strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
    assert heads[0][2] == heads[1][2]


def test_few_val_rows_are_not_fitted_to(splits):
    val = splits["val"].subset(np.flatnonzero(np.arange(300) % 30 < 12))
    found = best(experiment({**splits, "val": val}), fit_on_val=True, singles=("la",))
    (step,) = [step for step in found.steps if step.name == "fits on val"]
    assert step.candidates
    assert not step.kept
    assert not found.linear.candidate.fits_on_val
    assert any("val has 120 rows of 10 classes" in note for note in found.notes)
    assert "not kept" in str(found)


def test_only_linear(splits):
    found = best(experiment(splits), only="linear", fit_on_val=True, singles=SINGLES)
    assert found.overall is None
    assert all(one.is_linear for step in found.steps for one in step.candidates)
    assert not {"earlier layers", "mean of views"} & {step.name for step in found.steps}
    assert isinstance(found.linear.head.linear(), LinearHead)


def test_a_budget_that_is_spent(splits):
    found = best(experiment(splits), budget=0, singles=("la", "tnorm"))
    assert [one.name for step in found.steps for one in step.candidates] == ["la"]
    assert "tnorm: not tried, the budget of 0 s was spent" in found.notes
    assert found.linear.candidate.name == "la"


def test_what_cannot_be_tried_is_said(splits):
    bare = {name: part for name, part in splits.items() if name != "train"}
    found = best(experiment(bare), singles=("tnorm", "ncm"))
    assert "ncm: not tried, it needs train features" in found.notes
    assert [one.name for one in found.steps[0].candidates] == ["tnorm"]
    alone = Experiment(val=FeatureSet(splits["val"].features, splits["val"].labels), progress=False)
    with pytest.raises(DataError, match="there is nothing to climb"):
        best(alone, singles=("tnorm",))


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        ({"oracle": True}, {}, "best chooses on val only; leave oracle= out"),
        ({"select": "harmonic"}, {}, "select= must be one of many, medium, few, all, top1 for paired gains"),
        ({}, {"only": "cosine"}, "only= must be linear, but is 'cosine'"),
    ],
)
def test_what_best_refuses(splits, settings, options, message):
    with pytest.raises(UsageError, match=message):
        best(experiment(splits, **settings), **options)


def test_val_alone_is_enough(splits):
    found = best(experiment({name: splits[name] for name in ("train", "val")}), singles=("la",))
    assert {row.split for row in found.results} == {"val"}


# -- mixing and views --------------------------------------------------------------------------------------------------


def test_a_mean_of_linear_heads_is_one_layer(splits):
    run = experiment(splits)
    pool = [of_method(run, key) for key in ("la", "ncm", "tnorm")]
    mean = mean_of(run, pool, lambda rows: [0, 1])
    assert mean.is_linear
    assert mean.name == "mean of la, ncm"
    test, val = splits["test"], splits["val"]
    slow = 0
    for one in pool[:2]:
        scores = one.head.linear().logits(test.features).astype(float)
        slow = slow + (scores - scores.mean(1, keepdims=True)) / spread_of_logits(val, one.head) / 2
    found = mean.head.logits(test.features)
    np.testing.assert_allclose(found - found.mean(1, keepdims=True), slow, atol=1e-4)
    alone = mean_of(run, pool, lambda rows: [2])
    assert alone.name == "tnorm"
    np.testing.assert_array_equal(alone.correct, pool[2].correct)


@pytest.fixture(scope="module")
def viewed():
    return {name: two_views(name) for name in ("train", "val", "test")}


def test_views_are_a_rung(viewed, tmp_path):
    found = best(experiment(viewed), singles=("la",))
    (step,) = [step for step in found.steps if step.name == "mean of views"]
    assert step.kept, "two noisy views are better than one"
    assert found.overall.candidate.both_views
    assert not found.linear.candidate.both_views, "export writes a head for one view"
    table = {row.name: row for row in found.results if row.split == "test"}
    assert table["best"].totals.sum() == table["joint"].totals.sum() == 300
    found.save(tmp_path)
    saved = load_head(tmp_path / "best.safetensors")
    assert saved.info["views"] == "mean"
    for rows in (viewed["test"], mean_of_views(viewed["test"])):
        assert ltpost.evaluate(saved, rows).figures == table["best"].figures


def test_the_first_views_are_those_of_the_least_number(viewed):
    rows = viewed["val"]
    one = first_view(rows)
    assert len(one) == 300
    assert (one.view == 0).all()
    assert one.sample.tolist() == sorted(one.sample.tolist())
    np.testing.assert_array_equal(one.labels, mean_of_views(rows).labels)


def test_augmented_views_are_no_rung(viewed):
    assert has_plain_views(viewed["val"])
    augmented = two_views("val")
    augmented.attrs["views"] = json.dumps({"count": 2, "augment": "standard", "tta": "off", "seed": 0})
    assert not has_plain_views(augmented)
    assert not has_plain_views(with_layers("val"))
    assert not has_plain_views(viewed["val"].subset(np.arange(599)))


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_command_prints_and_saves_both_heads(splits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, part in splits.items():
        part.save(tmp_path / "features" / f"{name}.h5")
    result = CliRunner().invoke(cli, ["best", "--json", "--csv", "best.csv"], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    printed = json.loads(result.stdout)
    assert [rung["rung"] for rung in printed["rungs"]][-1] == "earlier layers"
    assert set(printed["heads"]) == {"best", "best-linear"}
    for name, path in printed["heads"].items():
        figures = ltpost.evaluate(load_head(path), splits["test"]).figures
        assert figures.as_dict()["all"] == printed["results"]["test"][name.replace("-", " ")]["all"]
    assert (tmp_path / "best.csv").read_text().count("best linear") == 2
    refused = CliRunner().invoke(cli, ["best", "--select", "harmonic"])
    assert refused.exit_code == 2
    assert "--select must be one of" in refused.output


# -- the benchmark -----------------------------------------------------------------------------------------------------


def test_gains_are_means_over_the_splits_in_which_a_row_is_tested():
    from benchmarks.best import standard_error

    labels = np.array([0, 0, 0, 1, 1, -1])  # sample 5 is not there
    nan = np.nan
    gains = [np.array([1.0, nan, 0, 0, 1, nan]), np.array([0.0, 1, nan, nan, 1, nan])]
    value, error = standard_error(gains, labels)
    rows = {0: [0.5, 1.0, 0.0], 1: [0.0, 1.0]}
    assert value == pytest.approx(100 * np.mean([np.mean(rows[0]), np.mean(rows[1])]))
    variance = np.var(rows[0], ddof=1) / 3 + np.var(rows[1], ddof=1) / 2
    assert error == pytest.approx(100 * variance**0.5 / 2)


def test_the_benchmark_splits_val_and_test_together(splits, tmp_path):
    from benchmarks.best import rows_to_split

    splits["test"].save(tmp_path / "test.h5")
    assert len(rows_to_split(tmp_path)) == 300
    splits["val"].save(tmp_path / "val.h5")
    both = rows_to_split(tmp_path)
    assert len(both) == 600
    assert list(both.layers) == list(splits["val"].layers)
    splits["val"].save(tmp_path / "all_test.h5")
    assert len(rows_to_split(tmp_path)) == 300
