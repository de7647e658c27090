import html
import inspect
import re
import subprocess
import sys

import ltpost


def test_all_names_are_there_and_described():
    for name in ltpost.__all__:
        value = getattr(ltpost, name)
        if name != "__version__":
            assert inspect.getdoc(value), name


def test_importing_ltpost_is_light():
    code = "import sys, ltpost; sys.exit(bool({'torch', 'pandas', 'scipy', 'matplotlib', 'click'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_unknown_names_are_attribute_errors():
    assert not hasattr(ltpost, "svm")


def test_the_notebook_lines_of_the_design(folder):
    val, test = ltpost.load(folder / "val.h5"), ltpost.load(folder / "test.h5")
    family = ltpost.tau_norm(val.head)
    curve = family.curve(val)
    head = family.head(curve.best().tau)
    result = ltpost.evaluate(head, test)
    assert all("<table" in shown._repr_html_() for shown in (result, val, curve, ltpost.Experiment(folder).run("la")))
    assert "Many" in str(result)
    assert result.to_frame().shape[0] == 1
    assert result.per_class.shape == (10,)


def test_the_core_never_imports_extract():
    for path in sorted(__import__("pathlib").Path(ltpost.__file__).parent.rglob("*.py")):
        if path.name not in ("demo.py", "__init__.py"):  # they load it by name when it is asked for
            assert "ltpost.extract" not in path.read_text().replace("``ltpost.extract``", "").replace(
                "ltpost.extract)", ""
            ), path


def test_objects_show_themselves_in_a_line(folder):
    experiment = ltpost.Experiment(folder)
    outcomes = ltpost.compare(experiment, ["tnorm", "ncm"])
    outcome, val = outcomes[0], experiment.chosen_on
    objects = [
        experiment,
        experiment.folder,
        experiment.groups,
        val,
        val.head,
        outcome,
        outcome.head,
        outcome.curve,
        outcome.best,
        outcome.choice,
        outcome.choice.family,
        outcome.report,
        outcome.results[0],
        outcome.report.per_class(),
        ltpost.pareto_front(experiment, outcomes),
        ltpost.diagnose(val, only=["norms"]),
        ltpost.diagnose(val, only=["norms"]).findings["norms"],
        ltpost.methods.get("tnorm"),
    ]
    for value in objects:
        text = repr(value)
        assert len(text) < 260, text
        assert "\n" not in text, text
        assert " at 0x" not in text, text


def test_notebooks_show_intervals_and_notes_and_no_tags_of_names(folder):
    experiment = ltpost.Experiment(val=ltpost.load(folder / "val.h5"))
    outcome = experiment.run("tnorm", grid=(0.0, 0.2))
    shown = outcome._repr_html_()
    assert outcome.notes
    for note in outcome.notes:
        assert html.escape(note) in shown
    assert "<p>best tau " in shown
    assert re.search(r"<td>\d+\.\d\d ±\d+\.\d</td>", outcome.report._repr_html_())
    assert "tau 5-fold cross-fitted" in shown
    names = ["<img src=x>", *(f"class {c}" for c in range(1, 10))]
    named = ltpost.Experiment(val=ltpost.FeatureSet(**split_with(names, folder)))
    per_class = named.run("tnorm").report.per_class()._repr_html_()
    assert "<img" not in per_class
    assert "&lt;img src=x&gt;" in per_class


def split_with(names, folder):
    val = ltpost.load(folder / "val.h5")
    return {"features": val.features[:], "labels": val.labels, "head": val.head, "class_counts": val.class_counts,
            "class_names": names, "split": "val"}  # fmt: skip


def test_an_outcome_is_evaluated_like_its_head(folder):
    test = ltpost.load(folder / "test.h5")
    outcome = ltpost.Experiment(folder).run("tnorm")
    result = ltpost.evaluate(outcome, test)
    assert result.figures == ltpost.evaluate(outcome.head, test).figures == outcome.results[1].figures
    assert (result.name, ltpost.evaluate(outcome, test, name="mine").name) == ("tnorm", "mine")
    assert result.detail.startswith("tnorm, bias drop")
