"""Tables and what they say: every class, paired comparisons, and the forms in which results leave."""

import csv
import io
import json
import re

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from conftest import COUNTS, make_split
from scipy.stats import binomtest

from ltpost import DataError, UsageError, evaluate, load
from ltpost.cli import cli
from ltpost.data.folder import FeatureFolder
from ltpost.data.priors import shot_groups
from ltpost.evaluation import evaluate_heads, result_of
from ltpost.heads import RescaledHead
from ltpost.report.paired import compared, p_text
from ltpost.report.per_class import SORTS, PerClass
from ltpost.report.results import Report, Style
from ltpost.scores.paired import holm, paired_difference, sign_test
from ltpost.tables import Table, in_latex, render, signed

NAMES = [f"{letter}_{c}" for c, letter in enumerate("jihgfedcba")]


def run(*args):
    result = CliRunner().invoke(cli, [str(arg) for arg in args], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def report():
    """The joint classifier and logit adjustment, on a test split with names."""
    test = make_split("test", class_names=NAMES)
    la = RescaledHead(test.head, offset=-np.log(COUNTS / COUNTS.sum()))
    return evaluate_heads({"la": la}, test)


# -- every class -------------------------------------------------------------------------------------------------------


def test_every_class_by_hand(report):
    joint, la = report.results
    labels = joint.rows.labels
    frame = report.per_class().to_frame().loc["test"]
    for c in (0, 5, 9):
        row, inside = frame.loc[("la", c)], labels == c
        before, after = (result.predicted[inside] == c for result in (joint, la))
        assert row["name"] == NAMES[c]
        assert row["training_samples"] == COUNTS[c]
        assert row["group"] == ("many" if COUNTS[c] > 100 else "few" if COUNTS[c] < 20 else "medium")
        assert row["accuracy"] == pytest.approx(after.mean())
        assert row["difference"] == pytest.approx(after.mean() - before.mean())
        assert (row["gained"], row["lost"]) == ((after & ~before).sum(), (before & ~after).sum())
        answers = (la.predicted == c).sum()
        assert row["precision"] == pytest.approx(after.sum() / answers)
        assert row["f1"] == pytest.approx(2 * after.sum() / (answers + inside.sum()))


@pytest.mark.parametrize("sort", SORTS)
def test_orders_of_the_classes(report, sort):
    per_class = report.per_class(sort=sort)
    gain = per_class.difference(report.results[1])
    keys = {"class": np.arange(10), "gain": -gain, "count": -COUNTS, "accuracy": -report.results[1].per_class,
            "name": np.array(NAMES)}  # fmt: skip
    ordered = keys[sort][per_class.order]
    assert (ordered[:-1] <= ordered[1:]).all()
    assert [row[0] for row in per_class.table().rows] == [str(c) for c in per_class.order]


def test_group_confusion_is_that_of_diagnose(report):
    from ltpost.diagnostics import diagnose

    test = make_split("test", class_names=NAMES)
    theirs = diagnose(test, only=["confusion"]).findings["confusion"].values
    ours = report.results[0].group_matrix
    np.testing.assert_allclose(ours[0], [theirs["many"][name] for name in ("many", "medium", "few")])
    np.testing.assert_allclose(ours.sum(axis=1), 1)


def test_errors_of_every_class(report):
    with pytest.raises(UsageError, match="per_class= must be one of class, gain"):
        report.per_class(sort="size")
    with pytest.raises(DataError, match="no results on 'val', only on test"):
        report.per_class("val")


def test_a_class_without_rows_and_no_counts():
    test = make_split("test", class_counts=None)
    result = evaluate(test.head, test.subset(np.flatnonzero(test.labels != 3)))
    records = PerClass([result]).records()
    assert records[3]["accuracy"] is None
    assert records[3]["training_samples"] is records[3]["group"] is records[3]["difference"] is None
    assert "train" not in PerClass([result]).table().headings


def test_control_characters_in_names_do_not_reach_the_terminal():
    test = make_split("test", class_names=["\x1b[31mred", *NAMES[1:]])
    assert "\x1b" not in str(evaluate_heads({}, test, per_class="class"))


def test_per_class_on_the_command_line(at_home):
    make_split("train", class_names=NAMES).save("features/train.h5")
    text = run("la", "--per-class", "gain", "--csv", "la.csv")
    assert text.count("every class") == 2
    assert NAMES[9] in text
    table = pd.read_csv("la-classes.csv")
    assert set(table["name"]) == set(NAMES)
    assert len(table) == 2 * 2 * 10
    printed = json.loads(run("compare", "--methods", "la", "--per-class", "--json"))["results"]["test"]["la"]
    assert [row["name"] for row in printed["per_class"]] == NAMES
    assert np.shape(printed["group_confusion"]) == (3, 3)
    streamed = pd.read_csv(
        io.StringIO(run("evaluate", "--head", "heads/la.safetensors", "--per-class", "--format", "csv"))
    )
    assert list(streamed["class"][:10]) == list(range(10))


def test_names_come_from_any_file_of_the_folder(folder):
    make_split("train", class_names=NAMES).save(folder / "train.h5")
    assert FeatureFolder(folder)["test"].class_names == NAMES
    (folder / "train.h5").write_bytes(b"damaged")
    assert FeatureFolder(folder)["test"].class_names is None


# -- paired ------------------------------------------------------------------------------------------------------------


def test_p_is_mcnemars_where_rows_weigh_alike_and_keeps_the_weights_where_not():
    gains = np.repeat([1.0, -1.0, 0.0], [9, 3, 20])
    assert sign_test(gains) == pytest.approx(binomtest(3, 12).pvalue)
    assert sign_test(np.zeros(5)) == 1.0
    unequal = np.array([3.0, 3.0, 1.0, 1.0, 1.0])  # all 32 patterns: |sum| >= 9 in two of them
    assert sign_test(unequal) == pytest.approx(2 / 32, abs=0.004)
    mixed = np.array([3.0, -1.0, -1.0, -1.0])  # the sum is 0, though three of four are worse
    assert sign_test(mixed) == 1.0


def test_p_of_the_mean_over_classes_is_about_that_mean():
    """One frequent class gains little in many rows, a rare one loses as much in few."""
    labels = np.repeat([0, 1], [200, 20])
    a, b = np.zeros(220, bool), np.zeros(220, bool)
    b[:20], a[200:202] = True, True
    found = paired_difference(a, b, labels)
    assert found["all"].value == pytest.approx(0)
    assert found["all"].p > 0.9
    assert found["top1"].p == pytest.approx(binomtest(2, 22).pvalue)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_comparison_with_one_and_with_the_best(report):
    joint, la = report.results
    found = compared(report.results, "la")
    assert set(found) == {"joint"}
    assert found["joint"].difference.value == pytest.approx(joint.figures.all - la.figures.all)
    best = max(report.results, key=lambda result: result.figures.few)
    assert {one.against for one in compared(report.results, "best", "few").values()} == {best.name}
    text = str(Report(report.results, against="la"))
    assert "All - la" in text
    assert "Holm" not in text  # there is one comparison
    assert p_text(0.00001) == "<.001"


def test_paired_on_the_command_line(at_home):
    printed = json.loads(run("compare", "--methods", "la,tnorm", "--paired", "la", "--select", "few", "--json"))
    paired = printed["results"]["test"]["tnorm"]["paired"]
    assert (paired["figure"], paired["against"]) == ("few", "la")
    low, high = paired["interval95"]
    assert low <= paired["difference"] <= high
    assert paired["p"] <= paired["p_holm"] <= 1
    assert "paired" not in printed["results"]["test"]["la"]
    result = CliRunner().invoke(cli, ["compare", "--methods", "la", "--paired", "crt"])
    assert result.exit_code == 2
    assert "--paired must be best or one of joint, la, but is 'crt'" in result.stderr


# -- forms -------------------------------------------------------------------------------------------------------------


def test_tables_fit_into_80_letters_and_lose_nothing(report):
    wide = Report(report.results, against="best")
    lines = str(wide).splitlines()
    assert max(len(line) for line in lines if not line.startswith("note")) <= 80
    cells = {cell for block in wide.blocks() for row in block.rows for cell in row}
    assert all(cell in str(wide) for cell in cells)
    assert len(str(Table("", ["a", "b"], [["x" * 60, "y" * 60]], left=1).text(80)).splitlines()) == 2


def test_a_table_that_is_too_wide_goes_on_below():
    table = Table("t", ["row", *(f"column {k}" for k in range(9))], [["r", *map(str, range(9))]], left=1)
    lines = table.text(40).splitlines()
    assert max(map(len, lines)) <= 40
    assert sum(line.startswith("row") for line in lines) == 3
    assert table.text(None).count("row") == 1


def test_latex_and_markdown(report):
    latex = run_blocks(report, "latex")
    assert latex.count(r"\toprule") == latex.count(r"\bottomrule") == 1
    body = latex[latex.index(r"\midrule") : latex.index(r"\bottomrule")]
    assert len({line.count("&") for line in body.splitlines()[1:]}) == 1
    best = max(report.results, key=lambda result: result.figures.few)
    assert rf"\textbf{{{100 * best.figures.few:.2f}" in latex
    assert r"$\pm$" in latex
    assert "\nLA & " in run_blocks(report, "latex", Style(labels=True))
    plain = run_blocks(report, "latex", Style(intervals=False, bold=False))
    assert r"$\pm$" not in plain
    assert "textbf" not in plain
    markdown = run_blocks(report, "markdown")
    assert re.search(r"^\| method \| Many \| Medium \| Few \| All \| Top-1 \|$", markdown, re.MULTILINE)
    assert f"**{100 * best.figures.few:.2f}" in markdown
    assert in_latex("a_b & 5 %") == r"a\_b \& 5 \%"


def run_blocks(report, form, style=None):
    return render(report.blocks(style or Style()), form)


@pytest.mark.parametrize(
    "command", [["la"], ["compare", "--methods", "la"], ["evaluate"], ["diagnose"], ["info", "features/val.h5"]]
)
def test_one_mechanism_for_all_commands(at_home, command):
    latex = run(*command, "--format", "latex")
    assert r"\toprule" in latex
    assert ("\nLA & " in latex) == ("la" in command)
    assert "| ---" in run(*command, "--format", "markdown")
    rows = list(csv.DictReader(io.StringIO(run(*command, "--format", "csv"))))
    assert rows
    assert json.loads(run(*command, "--format", "json")) == json.loads(run(*command, "--json"))
    run(*command, "--csv", "out.csv")
    assert len(list(csv.DictReader(io.StringIO((at_home / "out.csv").read_text())))) == len(rows)


def test_csv_is_rounded_and_tidy(at_home):
    rows = list(csv.DictReader(io.StringIO(run("compare", "--methods", "la,tnorm", "--format", "csv"))))
    assert [(row["split"], row["method"]) for row in rows][:3] == [("test", "joint"), ("test", "la"), ("test", "tnorm")]
    assert all(len(row["all"]) <= 8 for row in rows)
    assert float(rows[0]["all"]) == pytest.approx(
        evaluate(load("features/test.h5").joint, load("features/test.h5")).figures.all, abs=1e-6
    )


def test_quiet_verbose_and_signature(at_home):
    quiet = run("la", "-q")
    assert quiet.startswith("test: ")
    assert "head:" not in quiet
    assert "best tau" in run("la")
    assert "method:la|" not in run("la")
    assert "method:la|" in run("la", "--signature")
    assert re.search(r"^la +tau [\d.]+ +\d", run("la", "-v"), re.MULTILINE)


def test_no_minus_zero():
    assert signed(-1e-7) == "0.00"
    assert signed(-0.0004, 1) == "0.0"
    test = make_split("test").subset(np.arange(20))
    same = result_of(np.ones(20, bool), test, shot_groups(COUNTS), name="a")
    other = result_of(np.ones(20, bool), test, shot_groups(COUNTS), name="b")
    text = str(Report([same, other], against="a"))
    assert "-0.0" not in text
    assert "±0.0" not in text
