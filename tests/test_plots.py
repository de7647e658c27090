"""ltpost.plots: what is drawn is what was measured."""

import matplotlib as mpl

mpl.use("Agg")

import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest

import ltpost
from ltpost.data.features import FeatureSet
from ltpost.errors import DataError, UsageError
from ltpost.evaluation import evaluate
from ltpost.figures import COLOURS, new_axes, save
from ltpost.heads import LinearHead
from ltpost.plots import plot_front, plot_norms
from ltpost.report.results import Report
from ltpost.scores.tabulated import GridCurve

COUNTS = np.array([500, 150, 60, 30, 12, 5])


@pytest.fixture(autouse=True)
def _no_figure_left():
    yield
    plt.close("all")


@pytest.fixture
def val():
    """Noisy one-hot features, and a head whose weights are longer for frequent classes."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), 20)
    features = np.abs(np.eye(6)[labels] + 0.6 * rng.standard_normal((120, 6))).astype(np.float32)
    head = LinearHead(np.eye(6) * COUNTS[:, None] ** 0.2)
    return FeatureSet(features, labels, head=head, class_counts=COUNTS, split="val")


def lines_by_colour(ax):
    return {line.get_color(): line for line in ax.lines if len(line.get_xdata()) > 2}


def test_an_exact_curve_is_drawn_as_measured(val):
    curve = ltpost.tau_norm(val.head).curve(val)
    ax = curve.plot()
    lines = lines_by_colour(ax)
    assert set(lines) == set(COLOURS.values())
    taus = lines[COLOURS["few"]].get_xdata()
    np.testing.assert_array_equal(lines[COLOURS["few"]].get_ydata(), [row.few for row in curve.at(taus)])
    assert f"{100 * curve.best('all', taus[0], taus[-1]).score:.1f} %" in ax.get_title(loc="left")
    assert {text.get_text() for text in ax.texts} == {"Many", "Medium", "Few", "All"}


def test_end_labels_stay_apart(val):
    ax = ltpost.tau_norm(val.head).curve(val).plot()
    heights = sorted(text.xy[1] for text in ax.texts)
    assert np.diff(heights).min() > 0.05 * np.ptp(ax.get_ylim())


def test_a_tabulated_curve_has_its_points_and_a_logarithmic_axis(val):
    correct = np.random.default_rng(1).random((4, 120)) < 0.5
    curve = GridCurve("strength", [1.0, 0.1, 0.01, 0.001], correct, val.labels, val.shot_groups(), 6)
    ax = curve.plot()
    line = lines_by_colour(ax)[COLOURS["all"]]
    np.testing.assert_array_equal(line.get_xdata(), [0.001, 0.01, 0.1, 1.0])
    np.testing.assert_allclose(line.get_ydata(), [row.all for row in curve.at([0.001, 0.01, 0.1, 1.0])])
    assert (ax.get_xscale(), line.get_marker()) == ("log", "o")


def test_unknown_groups_are_not_drawn(val):
    val.class_counts = None
    assert set(lines_by_colour(ltpost.tau_norm(val.head).curve(val).plot())) == {COLOURS["all"]}


def test_bars_have_the_figures_and_their_intervals(val):
    results = [evaluate(val.joint, val, name="joint"), evaluate(ltpost.tau_norm(val.head).head(1.0), val, name="tnorm")]
    ax = Report(results).plot()
    bars = ax.containers[0::2], ax.containers[1::2]
    for name, container in zip(COLOURS, bars[0], strict=True):
        assert [bar.get_height() for bar in container] == [getattr(result.figures, name) for result in results]
    low, high = results[0].intervals["few"]
    segment = bars[1][2].lines[2][0].get_segments()[0]
    np.testing.assert_allclose(segment[:, 1], [low, high])
    assert [label.get_text() for label in ax.get_xticklabels()] == ["joint", "τ-norm"]
    assert f"{100 * results[1].figures.few:.1f}" in {text.get_text() for text in ax.texts}


def test_an_empty_group_has_a_dash_and_other_splits_are_left_out(val):
    val.class_counts = np.full(6, 50)
    test = FeatureSet(np.asarray(val.features), val.labels, head=val.head, class_counts=val.class_counts, split="test")
    ax = Report([evaluate(val.joint, val, name="joint"), evaluate(val.joint, test, name="joint")]).plot()
    assert [text.get_text() for text in ax.texts].count("–") == 2  # many and few, of val alone
    assert ax.get_ylabel() == "accuracy on val"


def test_norms_before_and_after(val):
    heads = {"joint": val.head, "tnorm": ltpost.tau_norm(val.head).head(1.0)}
    ax = plot_norms(heads, COUNTS)
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels[0] == "joint: slope +0.20"
    assert labels[1] in ("tnorm: slope +0.00", "tnorm: slope -0.00")
    points = next(line for line in ax.lines if line.get_label().startswith("joint"))
    norms = val.head.norms()
    np.testing.assert_allclose(points.get_ydata(), norms / np.exp(np.log(norms).mean()))
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")


def test_classes_without_samples_or_weights_are_left_out(val):
    head = LinearHead(val.head.weight * (np.arange(6) != 3)[:, None])
    ax = plot_norms({"joint": head}, np.where(np.arange(6) == 0, 0, COUNTS))
    assert len(next(line for line in ax.lines if line.get_label().startswith("joint")).get_xdata()) == 4


def test_another_number_of_classes(val):
    with pytest.raises(DataError, match="head 'joint' has 6 classes, but class_counts has 3"):
        plot_norms({"joint": val.head}, COUNTS[:3])


def test_nothing_to_draw():
    with pytest.raises(DataError, match="no results"):
        Report([]).plot()


@pytest.fixture
def outcome(val):
    """What tau-normalization gives, chosen from 0.5 to 3."""
    return ltpost.Experiment(val=val).run("tnorm", grid=(0.5, 3.0))


def test_the_picture_of_an_outcome_says_what_where_and_by_which_method(outcome):
    ax = outcome.plot()
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("τ of τ-norm", "accuracy on val")
    assert ax.get_title(loc="left") == f"best τ {outcome.best.value:.3g}: All {100 * outcome.best.score:.1f} %"
    assert ax.get_xlim() == (0.5, 3.0)
    assert {(line.get_xdata()[0], line.get_xdata()[-1]) for line in lines_by_colour(ax).values()} == {(0.5, 3.0)}


def test_an_outcome_without_a_choice_is_drawn_as_bars(val):
    ax = ltpost.Experiment(val=val).run("pc-softmax").plot(width=3.3)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["joint", "PC-softmax"]


def report_of(val, count):
    """The joint classifier under the names of several methods."""
    names = [*ltpost.methods.TABLE][:count]
    return Report([evaluate(val.joint, val, name=name) for name in names])


@pytest.mark.parametrize("width", [3.3, 7])
def test_many_methods_are_dots_and_few_are_bars(val, width):
    assert len(report_of(val, 3).plot(width=width).patches) == 12
    ax = report_of(val, 20).plot(width=width)
    assert len(ax.patches) == 0
    assert [label.get_text() for label in ax.get_yticklabels()][:2] == ["τ-norm", "NCM"]
    few = next(line for line in ax.lines if line.get_color() == COLOURS["few"])
    np.testing.assert_array_equal(few.get_xdata(), [evaluate(val.joint, val).figures.few] * 20)


def fronts(count):
    """Methods that are better and better, the first one best."""
    x = np.linspace(0.7, 0.1, 20)
    return {f"{number}": (x, np.sqrt(0.6 - x * x) - 0.01 * number) for number in range(count)}


def test_a_front_names_what_is_on_it(val):
    ax = plot_front(fronts(30), fronts(1)["0"], labels=("Many", "Few"), split="val", width=7)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["0", "front of all", "29 others"]
    assert ax.get_xlabel() == "Many, accuracy on val"
    experiment = ltpost.Experiment(val=val, progress=False)
    front = ltpost.pareto_front(experiment, ltpost.compare(experiment, ["tnorm", "la"]))
    named = [text.get_text() for text in front.plot(width=3.3).get_legend().get_texts()]
    assert named == ["joint", "τ-norm", "LA", "front of all"]


def boxes_of_texts(ax):
    """The text of everything that is written in a figure to its box, after it was laid out."""
    ax.figure.draw_without_rendering()
    legend = ax.get_legend()
    texts = [ax.xaxis.label, ax.yaxis.label, ax._left_title, *ax.texts, *(legend.get_texts() if legend else [])]
    for axis in (ax.xaxis, ax.yaxis):
        low, high = sorted(axis.get_view_interval())
        texts += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    return [(text.get_text(), text.get_window_extent().padded(-0.5)) for text in texts if text.get_text()]


@pytest.mark.parametrize("width", [3.3, 7])
def test_nothing_collides(val, outcome, width):
    grid = ltpost.Experiment(val=val).run("rs")
    heads = {"joint": val.head, "τ-norm": outcome.head}
    correct = np.random.default_rng(1).random((5, 120)) < 0.5
    strengths = GridCurve("strength", [0.001, 0.003, 0.02, 0.1, 0.9], correct, val.labels, val.shot_groups(), 6)
    pictures = [
        outcome.plot(width=width),
        strengths.plot(width=width),
        grid.plot(width=width),
        *(report_of(val, count).plot(width=width) for count in (2, 4, 8, 30)),
        plot_norms(heads, COUNTS, width=width),
        *(plot_front(fronts(count), fronts(1)["0"], labels=("Many", "Few"), width=width) for count in (3, 30)),
    ]
    for ax in pictures:
        boxes, whole = boxes_of_texts(ax), ax.figure.bbox
        for number, (text, box) in enumerate(boxes):
            assert whole.x0 <= box.x0 < box.x1 <= whole.x1, (text, "is cut off")
            hit = [other for other, its in boxes[number + 1 :] if box.overlaps(its)]
            assert not hit, (text, hit)


def test_pictures_are_saved_by_their_ending(outcome, tmp_path):
    beginnings = {".pdf": b"%PDF", ".png": b"\x89PNG", ".svg": b"<?xml"}
    for ending, beginning in beginnings.items():
        path = save(outcome.plot(width=3.3), tmp_path / f"curve{ending}")
        assert path.read_bytes().startswith(beginning)
    with pytest.raises(UsageError, match=r"plot= must end in \.pdf, \.png or \.svg, but is .*curve\.gif"):
        save(outcome.plot(width=3.3), tmp_path / "curve.gif")
    assert plt.get_fignums() == []


def test_axes_are_taken_or_saved(val, tmp_path):
    _, ax = plt.subplots()
    assert ltpost.tau_norm(val.head).curve(val).plot(ax) is ax
    before = plt.get_fignums()
    ltpost.tau_norm(val.head).curve(val).plot(new_axes(4, 3)).figure.savefig(tmp_path / "curve.png")
    assert plt.get_fignums() == before
    assert plt.imread(tmp_path / "curve.png").std() > 0.01


def test_without_matplotlib(val, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(UsageError, match=r'pip install "ltpost\[demo\]"'):
        ltpost.tau_norm(val.head).curve(val).plot()
