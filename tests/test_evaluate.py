"""What ``evaluate`` says of heads and rows, in Python and on the command line."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import COUNTS, make_split

from ltpost import Experiment, FeatureSet, LinearHead, evaluate, load, load_head
from ltpost.cli import cli
from ltpost.evaluation import description, evaluate_heads
from ltpost.report.results import Report
from ltpost.tables import percent


def run(*args):
    result = CliRunner().invoke(cli, args, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def row_of(text, name):
    return next(line for line in text.splitlines() if line.startswith(name))


def test_a_chosen_head_says_so_on_the_rows_of_the_choice(at_home):
    run("tnorm")
    text = run("evaluate", "--head", "heads/tnorm.safetensors", "--split", "val")
    assert row_of(text, "tnorm  ")
    row = row_of(text, "  tnorm: heads/tnorm.safetensors: ")
    tau = load_head("heads/tnorm.safetensors").info["params"]["tau"]
    assert f"tnorm, bias drop, norms expert, tau {tau:.4g}, select all, chosen on these rows" in row
    assert "figures here are too good; ltpost tnorm reports cross-fitted figures of them" in text
    elsewhere = run("evaluate", "--head", "heads/tnorm.safetensors")
    assert "test:" in elsewhere
    assert "chosen on these rows" not in elsewhere
    assert "note" not in elsewhere


def test_rows_of_the_choice_under_another_name_are_a_leak(at_home, folder):
    run("la")
    assert "LEAK" not in run("evaluate", "--head", "heads/la.safetensors")
    val = load(folder / "val.h5")
    FeatureSet(val.features[:], val.labels, head=val.head, class_counts=COUNTS, split="test").save(folder / "test.h5")
    text = run("evaluate", "--head", "heads/la.safetensors")
    assert "note: LEAK: features/test.h5 and features/val.h5 share rows: 300 of 300" in text
    (folder / "val.h5").write_text("not HDF5")
    text = run("evaluate", "--head", "heads/la.safetensors", "--split", "test")
    assert "note: the split val was not compared with the others: features/val.h5: is not an HDF5 file" in text


def test_json_has_the_notes_and_keeps_its_keys(at_home):
    run("la", "--oracle")
    found = json.loads(run("evaluate", "--head", "heads/la.safetensors", "--json"))["test"]["heads/la.safetensors"]
    assert "choose la again without the oracle" in found["notes"][0]
    assert set(found["interval95"]) == {"many", "medium", "few", "all", "top1"}


def test_a_fitted_head_says_so_on_train(folder):
    experiment = Experiment(folder)
    head = experiment.run("ncm").head
    assert evaluate(head, experiment.train).detail == "fitted to these rows"
    assert "use rows that it has not seen" in evaluate(head, experiment.train).notes[0]
    assert "fitted to" not in evaluate(head, load(folder / "val.h5")).detail
    assert evaluate_heads({}, experiment.train).results[0].detail == "fitted to these rows"


def test_a_head_of_unknown_origin_has_no_description():
    assert description(make_split("val").head) == ""


def test_without_test_val_is_evaluated(at_home, folder):
    (folder / "test.h5").unlink()
    assert run("evaluate").startswith("val: ")
    (folder / "val.h5").unlink()
    result = CliRunner().invoke(cli, ["evaluate"])
    assert result.exit_code == 1
    assert "test.h5" in result.output


@pytest.mark.parametrize("command", ["tnorm", "la", "ncm", "evaluate", "diagnose", "report"])
def test_one_class(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    head = LinearHead(np.ones((1, 4), np.float32))
    for number, split in enumerate(("train", "val", "test")):
        one = FeatureSet(rows + number, np.zeros(9, int), head=head, class_counts=np.array([9]), split=split)
        one.save(tmp_path / "features" / f"{split}.h5")
    result = CliRunner().invoke(cli, [command], catch_exceptions=False)
    assert result.exit_code == 0, result.output


def test_one_row_per_class_is_said_to():
    result = evaluate(make_split("val").head, make_split("val", 1))
    assert "10 classes have one sample in val" in result.notes[0]
    assert "10 classes have one sample" in str(result)
    assert result.as_dict()["notes"] == result.notes
    assert evaluate(make_split("val").head, make_split("val", 2)).notes == []
    views = make_split("val", 3, sample=np.repeat(np.arange(10), 3))
    assert "10 classes have one sample" in evaluate(views.head, views).notes[0]


def test_views_of_a_sample_count_once_in_the_interval():
    split = make_split("val", 10)
    rows = np.repeat(np.arange(len(split)), 4)
    views = FeatureSet(split.features[rows], split.labels[rows], class_counts=COUNTS, sample=rows)
    once, four = evaluate(split.head, split), evaluate(split.head, views)
    assert four.figures.all == pytest.approx(once.figures.all)
    np.testing.assert_allclose(four.intervals["all"], once.intervals["all"])


def test_print_reaches_to_the_farther_end_and_agrees_where_figures_are_equal():
    split = make_split("val", 7)
    result = evaluate(split.head, split)
    *_, every, top1 = str(result).splitlines()[2].split("  ")
    assert every.strip() == top1.strip()
    perfect = FeatureSet(labels=np.repeat(np.arange(10), 3), logits=np.eye(10)[np.repeat(np.arange(10), 3)])
    low, high = evaluate(perfect.joint, perfect).intervals["all"]
    assert high == 1
    assert f"100.00 ±{100 * (1 - low):.1f}" in str(Report([evaluate(perfect.joint, perfect)]))


def test_percent_has_no_minus_zero():
    assert percent(-0.0) == percent(-1e-9) == "0.00"
    assert percent(-0.01) == "-1.00"
    assert percent(0.1 + 0.2) == percent(0.3)
