import json

import numpy as np
import pytest
from conftest import SHARED, make_split, needs_shared_data

from ltpost import (
    DataError,
    Experiment,
    FeatureFolder,
    FeatureSet,
    LinearHead,
    UsageError,
    compare,
    evaluate,
    load_head,
    methods,
)
from ltpost.comparison import compare_report
from ltpost.scores.metrics import FIGURES

METHODS = methods.DEFAULT


def test_chosen_on_val_reported_on_test(folder):
    experiment = Experiment(folder)
    outcome = experiment.run("tnorm")
    val, test = experiment.folder["val"], experiment.folder["test"]
    assert outcome.selected_on == "val"
    assert [(row.split, row.name) for row in outcome.results] == [
        ("test", "joint"), ("test", "tnorm"), ("val", "joint"), ("val", "tnorm")
    ]  # fmt: skip
    assert outcome.best.value == outcome.curve.best("all", 0, 2).value
    assert len(outcome.curve.labels) == len(val)
    assert outcome.results[1].figures == evaluate(outcome.head, test).figures
    assert "cross-fitted" in outcome.results[3].detail


def test_val_only_is_cross_fitted_and_says_so(folder):
    (folder / "test.h5").unlink()
    outcome = Experiment(folder).run("la")
    assert [(row.split, row.name) for row in outcome.results] == [("val", "joint"), ("val", "la")]
    assert "5-fold cross-fitted" in str(outcome)
    assert outcome.selected_on == "val"
    chosen_on_itself = outcome.curve.best("all", 0, 2).score
    assert outcome.results[1].figures.all <= chosen_on_itself


def test_test_only_needs_oracle_and_says_so(folder):
    (folder / "val.h5").unlink()
    with pytest.raises(DataError, match=r"there is no split val to choose on; .* pass oracle=True"):
        Experiment(folder)
    outcome = Experiment(folder, oracle=True).run("tnorm")
    assert outcome.selected_on == "test (oracle)"
    assert "oracle: chosen on test" in str(outcome)
    assert "on:test (oracle)" in outcome.signature
    assert outcome.results[1].figures.all == pytest.approx(outcome.best.score, abs=1e-6)


def test_oracle_with_val_at_hand_reports_test_alone(folder):
    outcome = Experiment(folder, oracle=True).run("la")
    assert {row.split for row in outcome.results} == {"test"}


@pytest.mark.parametrize("select", ["all", "many", "medium", "few", "top1", "harmonic"])
def test_select(folder, select):
    outcome = Experiment(folder, select=select).run("tnorm")
    others = outcome.curve.at(np.linspace(0, 2, 500))
    if select != "harmonic":
        rows = {"many": 120, "medium": 90, "few": 90}.get(select, 300)
        near = 0.5 * (0.25 / rows) ** 0.5  # half a standard error, at most
        assert outcome.best.score >= max(getattr(row, select) for row in others) - near
    assert f"select:{select}" in outcome.signature


def test_a_curve_that_still_rises_is_noted(folder):
    outcome = Experiment(folder, select="few").run("tnorm", grid=(0.0, 0.1))
    note = next(note for note in outcome.notes if "still rises" in note)
    free = outcome.curve.best("few")
    assert "at tau 0.1" in note
    assert f"tau {free.value:.3f}" in note
    assert outcome.best.value <= 0.1
    assert not Experiment(folder, select="few").run("tnorm", grid=(0.0, 9.0)).notes
    assert not Experiment(folder, select="many").run("tnorm", grid=(0.0, 2.0)).notes, "never a negative tau"


def test_a_best_strength_at_an_end_of_the_path_is_noted(folder):
    experiment = Experiment(folder, select="many")
    values = experiment.run("crt", strengths=(1e-3, 1e-1, 1.0))
    ends = values.best.value in (1e-3, 1.0)
    assert any("at an end of the values tried" in note for note in values.notes) == ends
    assert any(
        "at an end of the values tried" in note for note in experiment.run("crt", strengths=(9.0, 5.0, 3.0)).notes
    )


def test_json_has_the_promised_shape(folder):
    experiment = Experiment(folder)
    for method, parameter in (("tnorm", "tau"), ("la", "tau"), ("crt", "strength"), ("ncm", None)):
        value = json.loads(json.dumps(experiment.run(method).as_dict(), allow_nan=False, default=lambda x: x.item()))
        keys = {"method", "params", "selected_on", "curve", "best", "results", "signature"}
        assert keys <= set(value)
        assert value["method"] == method
        assert set(value["results"]["test"]) == {"joint", method}
        assert set(FIGURES) <= set(value["results"]["test"]["joint"])
        assert all(0 <= value["results"]["test"]["joint"][name] <= 1 for name in FIGURES)
        if parameter:
            assert {parameter, "low", "high", "all"} <= set(value["best"])
            assert set(value["curve"][0]) == {parameter, *FIGURES}
        else:
            assert value["curve"] == []
            assert value["best"] is None


def test_an_empty_group_is_null_in_json_and_a_dash_in_text(tmp_path):
    counts = np.full(10, 500)
    for split in ("val", "test"):
        make_split(split, class_counts=counts).save(tmp_path / f"{split}.h5")
    outcome = Experiment(tmp_path).run("tnorm")
    assert outcome.as_dict()["results"]["test"]["tnorm"]["few"] is None
    assert "–" in str(outcome)
    with pytest.raises(DataError, match="select= few is not defined here"):
        Experiment(tmp_path, select="few").run("tnorm")


def test_thresholds(folder):
    groups = Experiment(folder, many_shot=350, few_shot=4).groups
    assert groups.many.sum() == 1
    assert groups.few.sum() == 1


def test_the_choice_is_made_by_the_groups_of_the_thresholds(folder):
    experiment = Experiment(folder, select="few", many_shot=350, few_shot=120)
    outcome = experiment.run("tnorm")
    assert outcome.curve.groups is experiment.groups
    usual = Experiment(folder, select="few").run("tnorm")
    assert outcome.best.score != usual.best.score
    few = outcome.choice.family.head(outcome.best.value)
    figures = evaluate(few, experiment.folder["val"], experiment.groups).figures
    assert figures.few == pytest.approx(outcome.best.score, abs=0.005)


def test_the_seed_is_that_of_the_bootstrap_of_the_folds_and_of_sgd(folder):
    first, same, other = (Experiment(folder, seed=seed).run("crt", solver="sgd", epochs=1) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.head.weight, same.head.weight)
    assert not np.array_equal(first.head.weight, other.head.weight)
    choices = [Experiment(folder, seed=seed).run("la") for seed in range(4)]
    assert len({choice.best.interval for choice in choices}) > 1
    assert len({tuple(choice.results[-1].hits) for choice in choices}) > 1, "val is cross-fitted by other folds"
    assert len({choice.best.value for choice in choices}) == 1


def test_classes_absent_from_a_split(tmp_path):
    for split in ("val", "test"):
        whole = make_split(split)
        whole.subset(np.flatnonzero((whole.labels != 3) & (whole.labels != 9))).save(tmp_path / f"{split}.h5")
    outcome = Experiment(tmp_path).run("tnorm")
    assert outcome.as_dict()["results"]["test"]["joint"]["classes_without_rows"] == [3, 9]
    assert "8 of 10 classes" in str(outcome)
    assert outcome.results[0].figures.all == pytest.approx(outcome.results[0].figures.top1)


def test_methods_that_need_something_say_what(tmp_path):
    split = make_split("val")
    FeatureSet(labels=split.labels, logits=split.logits, split="val").save(tmp_path / "val.h5")
    experiment = Experiment(tmp_path)
    for method, message in {
        "tnorm": "has no 'head/weight'",
        "la": "has no 'class_counts'",
        "mla": "has no 'class_counts'",
        "ncm": "has no train.h5",
        "crt": "has no train.h5",
        "lws": "has no train.h5",
    }.items():
        with pytest.raises(DataError, match=message):
            experiment.run(method)
    with pytest.raises(UsageError, match="must be one of tnorm, ncm, lws, crt, la, mla, .*, but is 'svm'"):
        experiment.run("svm")


def test_features_without_a_head_still_give_ncm_and_crt(tmp_path):
    for split in ("train", "val", "test"):
        make_split(split, head=None, logits=False, class_counts=None).save(tmp_path / f"{split}.h5")
    experiment = Experiment(tmp_path)
    for method in ("ncm", "crt"):
        outcome = experiment.run(method)
        assert [row.name for row in outcome.results] == [method, method]
        assert outcome.results[0].figures.all > 0.5


def test_empty_splits(tmp_path):
    make_split("val").subset(np.arange(0)).save(tmp_path / "val.h5")
    with pytest.raises(DataError, match="has no readable rows"):
        Experiment(tmp_path).run("tnorm")


def test_compare_is_one_table_of_every_method(folder):
    outcomes = compare(Experiment(folder))
    report = compare_report(outcomes)
    assert [row.name for row in report.results if row.split == "test"] == ["joint", *METHODS]
    frame = report.to_frame()
    assert frame.loc[("test", "tnorm"), "few"] > frame.loc[("test", "joint"), "few"]
    assert str(report).count("joint") == 2


# -- what a caller may get wrong ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("la", {"foo": 1}, "^foo= is no option of la; it has none$"),
        ("tnorm", {"foo": 1}, "^foo= is no option of tnorm; it has bias and norms$"),
        ("tnorm", {"bias": "none"}, "^bias= must be one of drop, scale, keep, but is 'none'$"),
        ("crt", {"epoch": 1}, "^epoch= is no option of crt; it has solver, strengths, .* epochs and precision$"),
        ("ncm", {"grid": (0.0, 1.0)}, "^grid= is no option of ncm; it has metric$"),
        ("crt", {"grid": (0.0, 1.0)}, "^grid= is no option of crt; it has solver, strengths"),
        ("tnrom", {}, "^the method must be one of tnorm, ncm, .* but is 'tnrom'; did you mean tnorm\\?$"),
    ],
)
def test_an_option_that_does_not_exist_is_a_usage_error_that_lists_what_does(folder, method, options, message):
    with pytest.raises(UsageError, match=message):
        Experiment(folder).run(method, **options)


def test_options_for_a_method_that_does_not_run_are_a_usage_error(folder):
    experiment = Experiment(folder)
    with pytest.raises(UsageError, match=r"^tnrom= gives options for 'tnrom', .* did you mean tnorm\?$"):
        compare(experiment, ["tnorm"], tnrom={"bias": "keep"})
    with pytest.raises(UsageError, match=r"not among the methods that are run; these are tnorm and la$"):
        compare(experiment, ["tnorm", "la"], crt={"solver": "sgd"})
    with pytest.raises(UsageError, match="^bais= is no option of tnorm"):
        compare(experiment, ["tnorm"], tnorm={"bais": "keep"})


def test_compare_gives_each_method_its_options(folder):
    outcomes = compare(Experiment(folder), ["tnorm", "ncm"], tnorm={"bias": "scale"}, ncm={"metric": "cl2n"})
    assert [outcome.params.get("bias", outcome.params.get("metric")) for outcome in outcomes] == ["scale", "cl2n"]


def test_a_method_that_is_not_linear_is_compared_and_saved(folder, tmp_path):
    outcomes = compare(Experiment(folder), ["la", "ncm"], ncm={"metric": "cl2n"})
    test = FeatureFolder(folder)["test"]
    for outcome in outcomes:
        saved = load_head(outcome.save_head(tmp_path / f"{outcome.method}.safetensors"))
        assert evaluate(saved, test).figures == outcome.results[1].figures
    assert [row.name for row in compare_report(outcomes).results if row.split == "test"] == ["joint", "la", "ncm"]


def test_a_method_is_an_object_too(folder):
    experiment = Experiment(folder)
    by_key, by_object = experiment.run("la"), experiment.run(methods.get("la"))
    assert by_key.signature == by_object.signature
    assert by_key.results[1].figures == by_object.results[1].figures


def test_every_option_of_a_fit_is_in_the_signature(folder):
    """Two different heads never have equal signatures."""
    experiment = Experiment(folder)
    plain = experiment.run("crt").signature
    for options, shown in (
        ({"tolerance": 0.3}, "tolerance:0.3"),
        ({"strengths": (1.0, 0.5)}, "strengths:1,0.5"),
        ({"sampler": "square-root"}, "sampler:square-root"),
        ({"solver": "sgd", "epochs": 1, "learning_rate": 0.5}, "learning_rate:0.5"),
        ({"solver": "sgd", "epochs": 1, "precision": "bfloat16"}, "precision:bfloat16"),
    ):
        signature = experiment.run("crt", **options).signature
        assert signature != plain
        assert f"|{shown}|" in signature
    assert "|strengths:1,0.3,0.1,0.03,0.01,0.003,0.001|" in plain
    assert "|tolerance:0.0001|" in plain


@pytest.mark.parametrize(
    ("method", "options"),
    [("tnorm", {}), ("tnorm", {"bias": "keep"}), ("la", {}), ("crt", {}), ("lws", {}), ("ncm", {})],
)
def test_the_device_is_used_wherever_scores_are_computed(folder, fake_device, method, options):
    """Curves, exact ones and those of several heads, fits and figures."""
    plain = Experiment(folder).run(method, **options)
    assert set(fake_device) <= {"cpu"}
    fake_device.clear()
    outcome = Experiment(folder, device="fake").run(method, **options)
    assert set(fake_device) == {"fake"}
    # an exact curve takes one pass, and its head is checked against it in another
    per_curve = 0 if plain.curve is None else len(plain.grid) if plain.curve.is_tabulated else 2
    fits = method in ("crt", "lws")
    reported = [row for row in outcome.results if "cross-fitted" not in row.detail]
    assert len(fake_device) == per_curve + fits + len(reported)
    for mine, other in zip(outcome.results, plain.results, strict=True):
        assert mine.figures.all == pytest.approx(other.figures.all, abs=0.004)


# -- real features -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """CIFAR-100-LT by the shared data's convention: val = the first 20 test rows of each class."""
    folder = tmp_path_factory.mktemp("real")
    data = np.load(SHARED / "cifar100lt_resnet32" / "features.npz")
    head, labels = LinearHead(data["weight"], data["bias"]), data["y_test"]
    first = np.concatenate([np.flatnonzero(labels == c)[:20] for c in range(100)])
    rest = np.setdiff1d(np.arange(len(labels)), first)
    shared = {"head": head, "class_counts": data["class_counts"]}
    for split, rows in (("val", np.sort(first)), ("test", rest)):
        features, logits = data["feat_test"][rows], data["logits_test"][rows]
        FeatureSet(features, labels[rows], logits=logits, split=split, **shared).save(folder / f"{split}.h5")
    FeatureSet(data["feat_train"], data["y_train"], split="train", **shared).save(folder / "train.h5")
    return Experiment(folder)


def figures_of(outcome, row=1):
    return [round(100 * getattr(outcome.results[row].figures, name), 2) for name in ("many", "medium", "few", "all")]


@needs_shared_data
def test_real_figures_are_those_of_the_shared_readme(real):
    tnorm = real.run("tnorm", grid=(0.851, 0.851))  # there the middle of the highest plateau is chosen
    assert figures_of(tnorm, 0) == [68.04, 38.29, 11.42, 40.64]
    assert figures_of(tnorm) == [61.00, 41.79, 27.62, 44.26]
    chosen = real.run("tnorm")
    assert chosen.best.low < 0.851 < chosen.best.high
    assert figures_of(real.run("ncm")) == [62.25, 43.14, 21.75, 43.41]
    assert figures_of(real.run("ncm", metric="euclidean")) == [63.00, 40.43, 20.38, 42.31]
    assert figures_of(real.run("crt"))[3] == pytest.approx(42.94, abs=0.15)
    at_one = evaluate(real.run("la", grid=(1.0, 1.0)).head, real.report_set)
    assert 100 * at_one.figures.all == pytest.approx(44.17, abs=0.01)


@needs_shared_data
def test_real_ranking(real):
    all_figures = {outcome.method: figures_of(outcome) for outcome in compare(real)}
    joint = figures_of(real.run("ncm"), 0)
    assert all(figures[3] > joint[3] + 1 for figures in all_figures.values())
    assert all(figures[2] > joint[2] + 4 for figures in all_figures.values())
    assert min(all_figures["tnorm"][3], all_figures["la"][3]) > max(all_figures["crt"][3], all_figures["lws"][3])
