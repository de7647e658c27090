"""What a choice may maximise and must keep: exact, against brute force and scikit-learn."""

import json
import re

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import COUNTS, make_split

from ltpost import DataError, Experiment, FeatureSet, UsageError, evaluate
from ltpost.cli import cli
from ltpost.comparison import compare, pareto_front
from ltpost.data.overlap import same_rows_note
from ltpost.family import Family
from ltpost.heads import LinearHead
from ltpost.scores.crossed import CrossedCurve
from ltpost.scores.front import front_of, not_beaten
from ltpost.scores.goal import Goal, Limit, costs_of
from ltpost.scores.predict import predict
from ltpost.scores.ranking import average_precision
from ltpost.scores.tabulated import GridCurve

metrics = pytest.importorskip("sklearn.metrics")
SLOPE = np.log(COUNTS / COUNTS.sum())
COSTS = np.abs(np.subtract.outer(np.arange(10), np.arange(10))) * np.arange(1.0, 11.0)[:, None]
FIGURES = {
    "f1": lambda y, p: metrics.f1_score(y, p, average="macro", labels=np.arange(10), zero_division=0),
    "precision": lambda y, p: metrics.precision_score(y, p, average="macro", labels=np.arange(10), zero_division=0),
    "recall": lambda y, p: metrics.recall_score(y, p, average="macro", labels=np.arange(10), zero_division=0),
    "cost": lambda y, p: -COSTS[y, p].mean(),
}


@pytest.fixture(scope="module")
def val():
    return make_split("val", 12)


@pytest.fixture(scope="module")
def fraud():
    """Logits of a detector with 0.5 % of positives, of which few lie above its own threshold."""
    rng = np.random.default_rng(0)

    def split(name):
        labels = (np.arange(4000) % 200 == 0).astype(int)
        logit = rng.normal(size=4000) * 1.5 - 6 + 4 * labels
        logits = np.stack([np.zeros(4000), logit], axis=1).astype(np.float32)
        names = ["fine", "fraud"]
        return FeatureSet(
            None, labels, logits=logits, class_counts=[9950, 50], class_names=names, split=name, name=name
        )

    return {name: split(name) for name in ("val", "test")}


def family(val, kind):
    if kind == "mixed":
        return Family.mixed(val.head, LinearHead(val.head.weight[::-1].copy()), parameter="tau")
    return Family.affine(val.head, SLOPE) if kind == "affine" else Family.scaled(val.head, SLOPE)


@pytest.mark.parametrize("kind", ["affine", "scaled", "mixed"])
def test_answers_are_those_of_the_heads_at_every_value(val, kind):
    heads = family(val, kind)
    curve = heads.curve(val)
    answers = curve.answers(0.0, 1.0)
    for value in np.random.default_rng(1).random(12):
        here = answers.only((answers.low <= value) & (value <= answers.high))
        assert sorted(here.row) == list(range(len(val)))
        expected = predict(heads.head(value), val)
        found = curve.predicted(value)
        assert (found == expected).mean() > 0.99  # float32 heads may round a tie otherwise
        np.testing.assert_array_equal((found == val.labels), curve.correct(value))


@pytest.mark.parametrize("select", FIGURES)
@pytest.mark.parametrize("kind", ["affine", "scaled", "mixed"])
def test_the_best_value_beats_every_other_one_and_its_score_is_that_of_scikit_learn(val, kind, select):
    curve, goal = family(val, kind).curve(val), Goal(select, cost=COSTS)
    best = curve.best(goal, 0.0, 1.0)
    score = FIGURES[select]
    assert best.score == pytest.approx(score(val.labels, curve.predicted(best.value)), abs=1e-9)
    tried = [score(val.labels, curve.predicted(value)) for value in np.linspace(0, 1, 60)]
    assert best.score >= max(tried) - 1e-9


def test_counted_rows_are_rows_that_are_there_more_often(val):
    times = np.random.default_rng(0).integers(0, 3, len(val))
    rows = np.repeat(np.arange(len(val)), times)
    curve, repeated = (family(val, "affine").curve(part) for part in (val, val.subset(rows)))
    for select in FIGURES:
        goal = Goal(select, cost=COSTS)
        counted, copied = curve.best(goal, 0, 1, times.astype(float)), repeated.best(goal, 0, 1)
        assert counted.score == pytest.approx(copied.score, abs=1e-9)
        assert (counted.low, counted.high) == pytest.approx((copied.low, copied.high), abs=1e-6)


def test_a_table_of_heads_gives_the_same_scores(val):
    values = [0.0, 0.3, 0.9]
    heads = family(val, "affine")
    table = GridCurve.of_heads("tau", values, map(heads.head, values), val, val.shot_groups())
    scores = [FIGURES["f1"](val.labels, predict(heads.head(value), val)) for value in values]
    assert table.best("f1").score == pytest.approx(max(scores))
    assert table.best("f1").value == values[int(np.argmax(scores))]


# -- limits ------------------------------------------------------------------------------------------------------------


def test_limits_are_kept_and_the_best_within_them_is_found(val):
    curve = family(val, "affine").curve(val)
    joint = predict(val.head, val)
    goal = Goal("few", (Limit.parse("many:-4"),), joint=joint)
    best = curve.best(goal, 0, 2)
    floor = curve.at([0.0])[0].many - 0.04
    assert best.missed == 0
    assert best.figures.many >= floor - 1e-9
    inside = [row.few for row in curve.at(np.linspace(0, 2, 4001)) if row.many >= floor - 1e-9]
    assert best.score >= max(inside) - 1e-9
    assert curve.best("few", 0, 2).figures.many < floor  # so the limit matters


def test_limits_that_nothing_keeps_are_missed_least(val):
    curve = family(val, "affine").curve(val)
    best = curve.best(Goal("few", (Limit.parse("all>=99.9"),)), 0, 2)
    most = curve.plateaus(0, 2)[1][3].max()  # of All
    assert best.missed == pytest.approx(0.999 - most)
    assert best.figures.all == pytest.approx(most)


def test_limits_along_two_parameters(val):
    curves = {value: Family.affine(val.head, SLOPE * value).curve(val) for value in (0.5, 1.0)}
    crossed = CrossedCurve("rho", curves)
    limit = (Limit.parse("many>=50"),)
    best = crossed.best(Goal("few", limit), 0, 2)
    assert best.figures.many >= 0.5
    assert best.score == max(curve.best(Goal("few", limit), 0, 2).score for curve in curves.values())


def test_keep_in_an_experiment(folder):
    free, kept = (Experiment(folder, select="few", keep=keep).run("la") for keep in ((), ("many:-2",)))
    assert kept.best.value < free.best.value
    assert "keep:many:-2" in kept.signature
    impossible = Experiment(folder, select="few", keep=("many>=101",)).run("la")
    assert any("no tau from 0 to 2 keeps many>=101" in note for note in impossible.notes)
    single = Experiment(folder, keep=("few>=101",)).run("ncm")
    assert any("it does not keep few>=101" in note for note in single.notes)
    fits = Experiment(folder, select="few", keep=("many:-2",)).run("p2p-val")
    assert not any("keeps" in note for note in fits.notes)


@pytest.mark.parametrize("text", ["many", "manny:-2", "many:x", "cost:-1", "many<=3"])
def test_limits_that_are_none(text):
    with pytest.raises(UsageError, match="keep= must be such as many:-2"):
        Limit.parse(text)


def test_limits_on_a_group_that_is_empty(folder):
    make_split("val", class_counts=np.full(10, 500)).save(folder / "val.h5")
    make_split("test", class_counts=np.full(10, 500)).save(folder / "test.h5")
    (folder / "train.h5").unlink()
    with pytest.raises(DataError, match="keep= few:-2 is not defined here"):
        Experiment(folder, keep=("few:-2",)).run("tnorm")


# -- two classes -------------------------------------------------------------------------------------------------------


def best_threshold(split):
    scores = split.logits[:, 1].astype(float) - split.logits[:, 0]
    precision, recall, _ = metrics.precision_recall_curve(split.labels, scores)
    return np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12))


def test_compare_by_f1_reaches_the_best_threshold(fraud):
    outcomes = compare(Experiment(**fraud, select="f1"), ["la", "mla"])
    la = outcomes[0]
    assert la.best.score == pytest.approx(best_threshold(fraud["val"]), abs=1e-9)
    usual = Experiment(**fraud).run("la")
    on_test = [outcome.results[1].more["class 1 (fraud)"]["F1"] for outcome in (la, usual)]
    assert on_test[0] > 0.7 * best_threshold(fraud["test"])
    assert on_test[0] > 2 * on_test[1]
    assert any("no tau from 0 to 1 changes an answer" in note for note in outcomes[1].notes)
    assert any("answers every row of test as the joint" in note for note in Experiment(**fraud).run("pc-softmax",
               target_prior="train").notes)  # fmt: skip


def test_a_threshold_below_that_of_the_classifier_is_reached_too(fraud):
    """A classifier that was trained on balanced rows answers too often: the best tau is negative."""
    shifted = {}
    for name, split in fraud.items():
        logits = split.logits[:].copy()
        logits[:, 1] += 6
        shifted[name] = FeatureSet(None, split.labels, logits=logits, class_counts=[9950, 50], split=name, name=name)
    outcome = Experiment(**shifted, select="f1").run("la")
    assert outcome.best.value < 0
    assert outcome.best.score == pytest.approx(best_threshold(shifted["val"]), abs=1e-9)
    given = Experiment(**shifted, select="f1").run("la", grid=[0.0, 1.0])
    assert given.best.value >= 0


def test_figures_of_the_rare_class_are_those_of_scikit_learn(fraud):
    test = fraud["test"]
    found = evaluate(test.joint, test).more["class 1 (fraud)"]
    predicted = predict(test.joint, test)
    assert found["precision"] == pytest.approx(metrics.precision_score(test.labels, predicted))
    assert found["recall"] == pytest.approx(metrics.recall_score(test.labels, predicted))
    assert found["F1"] == pytest.approx(metrics.f1_score(test.labels, predicted))
    scores = test.logits[:, 1].astype(float)
    assert found["PR-AUC"] == pytest.approx(metrics.average_precision_score(test.labels, scores))
    tied = np.round(scores)
    assert average_precision(tied, test.labels == 1) == pytest.approx(
        metrics.average_precision_score(test.labels, tied)
    )
    assert np.isnan(average_precision(scores, np.zeros(len(scores), bool)))


def test_groups_of_two_classes(fraud):
    result = evaluate(fraud["test"].joint, fraud["test"])
    assert re.search(r"Majority +Minority +All", str(result))
    assert "Medium" not in str(result)
    assert "±0.0" not in str(result)
    assert "groups:majority/minority" in Experiment(**fraud).run("la").signature
    swapped = FeatureSet(None, [0, 1], logits=np.eye(2), class_counts=[5, 50])
    assert "class 0" in str(evaluate(swapped.joint, swapped))


def test_two_classes_without_a_leak_are_not_called_one(fraud):
    assert same_rows_note(fraud["val"], fraud["test"]) is None
    assert "share rows" in same_rows_note(fraud["val"], fraud["val"].subset(np.arange(2000)))


def test_rounded_scores_are_equal_by_chance():
    """As in a table of another program; half of a split that is in the other one is found all the same."""
    rng = np.random.default_rng(0)

    def split(name, odds):
        logits = np.stack([0 * odds, odds.round(5)], axis=1)
        return FeatureSet(None, np.zeros(len(odds), np.int64), logits=logits, split=name, name=name)

    val, test = rng.normal(size=10_000), rng.normal(size=30_000)
    assert len(np.intersect1d(val.round(5), test.round(5))) > 500
    assert same_rows_note(split("val", val), split("test", test)) is None
    test[:5000] = val[:5000]
    assert "share rows" in same_rows_note(split("val", val), split("test", test))


def test_cost_on_the_command_line(fraud, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, split in fraud.items():
        split.save(f"features/{name}.h5")
    (tmp_path / "cost.csv").write_text("0, 1\n50, 0\n")
    result = CliRunner().invoke(cli, ["la", "--select", "cost", "--cost", "cost.csv"], catch_exceptions=False)
    assert "cost 0." in result.stdout
    printed = json.loads(
        CliRunner().invoke(cli, ["evaluate", "--head", "heads/la.safetensors", "--cost", "cost.csv", "--json"]).stdout
    )
    rows = printed["test"]
    assert rows["heads/la.safetensors"]["class_1_(fraud)"]["cost"] < rows["joint"]["class_1_(fraud)"]["cost"]
    for args, message in ((["--select", "cost"], "--select cost needs a matrix of costs"),
                          (["--cost", "none.csv"], "none.csv: no such file of costs")):  # fmt: skip
        failed = CliRunner().invoke(cli, ["la", *args])
        assert failed.exit_code in (1, 2)
        assert message in failed.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2\n3", "must hold a matrix"),
        ("1,2,3", "must hold 2 x 2 costs"),
        ("a b\nc d", "must hold a matrix"),
        ("0 nan\n1 0", "be finite"),
    ],
)
def test_costs_that_are_none(tmp_path, text, message):
    (tmp_path / "cost.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        costs_of(tmp_path / "cost.txt", 2)
    np.save(tmp_path / "cost.npy", np.eye(2))
    np.testing.assert_array_equal(costs_of(tmp_path / "cost.npy", 2), np.eye(2))


# -- the front ---------------------------------------------------------------------------------------------------------


def test_the_front_is_that_of_all_plateaus(val):
    curve = family(val, "affine").curve(val)
    rows = curve.at(np.linspace(0, 2, 20_001))
    many, few = (np.array([getattr(row, name) for row in rows]) for name in ("many", "few"))
    points = front_of(curve, 0.0, 2.0)
    expected = {(many[k], few[k]) for k in not_beaten(many, few)}
    found = {(point.figures.many, point.figures.few) for point in points}
    assert all(any(a >= m - 1e-9 and b >= f - 1e-9 for a, b in found) for m, f in expected)
    for point in points:
        assert curve.at([point.value])[0].many == pytest.approx(point.figures.many)


def test_the_front_of_all_methods(folder, tmp_path):
    experiment = Experiment(folder)
    front = pareto_front(experiment, compare(experiment, ["la", "ncm", "crt"], crt={"strengths": (0.1, 0.01)}))
    x, y = (np.array([getattr(point.point.figures, name) for point in front.points]) for name in ("many", "few"))
    assert (np.diff(x) < 0).all()
    assert (np.diff(y) > 0).all()
    frame = front.to_frame()
    assert set(frame["method"]) == {"joint", "la", "ncm", "crt"}
    assert frame["on_front"].sum() == len(front.points)
    assert len(front.table().rows) <= 15
    assert front.save(tmp_path / "front.png").stat().st_size > 5000
    assert len(front.save(tmp_path / "front.csv").read_text().splitlines()) == len(frame) + 1
    with pytest.raises(UsageError, match=r"front= must end in \.csv, \.pdf, \.png or \.svg, but is .*front\.xyz"):
        front.save(tmp_path / "front.xyz")
    assert not (tmp_path / "front.xyz").exists()
