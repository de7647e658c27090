"""Intervals: against slow formulas, and by simulation (a small version of ``python -m benchmarks.coverage``)."""

import numpy as np
import pytest
from scipy.stats import binomtest

from benchmarks import coverage
from ltpost.data.priors import shot_groups
from ltpost.scores.bootstrap import resamples
from ltpost.scores.confidence import PRIOR_ROWS, ClassMoments, figure_intervals, wilson
from ltpost.scores.metrics import FIGURES, figures
from ltpost.scores.paired import paired_difference

COUNTS = np.array([500, 101, 100, 20, 19, 1])
GROUPS = shot_groups(COUNTS)


def slow_interval(hits, totals, classes):
    """The interval of the mean over classes, one class at a time."""
    classes = [c for c in classes if totals[c]]
    w = 1 / len(classes)
    p = {c: hits[c] / totals[c] for c in classes}
    mean = sum(p.values()) / len(classes)
    size = 1 / sum(w * w / totals[c] for c in classes)
    if mean in (0, 1):
        return wilson(mean, size)
    rows = sum(totals[c] for c in classes)
    simple = mean * (1 - mean) / size * rows / (rows - 1)
    alone = [p[c] for c in classes if totals[c] == 1]
    variance = doubt = total = 0.0
    for c in classes:
        total += w * w / totals[c]
        if totals[c] > 1:
            variance += w * w * p[c] * (1 - p[c]) / (totals[c] - 1)
            doubt += (w * w / totals[c]) ** 2 / (totals[c] - 1)
        elif len(alone) > 1:
            variance += w * w * np.var(alone, ddof=1)
        else:
            variance += w * w * mean * (1 - mean)
    if alone:
        doubt += (len(alone) * w * w) ** 2 / max(len(alone) - 1, 0.5)
    freedom = total**2 / doubt
    both = (freedom * variance + PRIOR_ROWS * simple) / (freedom + PRIOR_ROWS)
    return wilson(mean, size * simple / both)


@pytest.mark.parametrize("least", [0, 1, 2, 20])
def test_intervals_equal_the_slow_ones(least):
    random = np.random.default_rng(least)
    for _ in range(20):
        totals = random.integers(least, least + 4, 6)
        totals[0] = max(totals[0], 2)
        hits = random.binomial(totals, random.uniform(0, 1, 6))
        ours = figure_intervals(ClassMoments.of_hits(hits, totals), GROUPS)
        for name, members in {"many": (0, 1), "medium": (2, 3), "few": (4, 5), "all": range(6)}.items():
            if totals[list(members)].sum():
                np.testing.assert_allclose(ours[name], slow_interval(hits, totals, members), atol=1e-9)
            else:
                assert np.isnan(ours[name]).all()


def test_wilson_equals_scipy():
    for hits in (0, 3, 10):
        theirs = binomtest(hits, 10).proportion_ci(method="wilson")
        np.testing.assert_allclose(wilson(hits / 10, 10), (theirs.low, theirs.high), atol=1e-12)


def test_a_class_alone_is_an_ordinary_proportion_up_to_one_row():
    totals, hits = np.array([400]), np.array([300])
    low, high = figure_intervals(ClassMoments.of_hits(hits, totals), None)["all"]
    np.testing.assert_allclose((low, high), wilson(0.75, 400), atol=1e-3)


def test_intervals_hold_the_figure_and_have_a_width_at_0_and_100_percent():
    for share in (0.0, 1.0):
        totals = np.full(6, 3)
        hits = (share * totals).astype(int)
        values = vars(figures(hits, totals, GROUPS))
        for name, (low, high) in figure_intervals(ClassMoments.of_hits(hits, totals), GROUPS).items():
            assert 0 <= low <= values[name] + 1e-12
            assert values[name] - 1e-12 <= high <= 1
            assert 0.1 < high - low < 0.5


def test_all_and_top1_agree_where_every_class_has_as_many_rows():
    totals, hits = np.full(6, 7), np.array([7, 5, 3, 2, 1, 0])
    found = figure_intervals(ClassMoments.of_hits(hits, totals), GROUPS)
    np.testing.assert_allclose(found["all"], found["top1"], rtol=1e-12)


def test_copies_of_rows_change_nothing_if_they_share_a_sample():
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), 5)
    correct = random.random(30) < 0.6
    once = figure_intervals(ClassMoments.of_rows(correct, labels, 6), GROUPS)
    sample = np.repeat(np.arange(30), 4) * 7
    copies = ClassMoments.of_rows(np.repeat(correct, 4), np.repeat(labels, 4), 6, sample)
    found = figure_intervals(copies, GROUPS)
    for name in FIGURES:
        np.testing.assert_allclose(found[name], once[name], rtol=1e-12)
    rows = figure_intervals(ClassMoments.of_rows(np.repeat(correct, 4), np.repeat(labels, 4), 6), GROUPS)
    assert rows["all"][1] - rows["all"][0] < 0.6 * (once["all"][1] - once["all"][0])


def test_difference_by_hand():
    labels = np.repeat([0, 1], 10)
    a, b = np.zeros(20, bool), np.zeros(20, bool)
    b[:6], a[15:17] = True, True
    found = paired_difference(a, b, labels, shot_groups(np.array([500, 5])))
    assert found["all"].value == pytest.approx((0.6 - 0.2) / 2)
    assert found["top1"].p == pytest.approx(binomtest(2, 8).pvalue)
    assert found["many"].p == pytest.approx(binomtest(0, 6).pvalue)
    assert "medium" not in found
    back = paired_difference(b, a, labels)["all"]
    np.testing.assert_allclose(back.interval, [-end for end in found["all"].interval[::-1]])


def test_difference_of_one_class_is_that_of_agresti_and_min():
    gain = np.repeat([1, -1, 0], [12, 5, 83])
    n, d, b_and_c = 100, 7, 17
    half = 1.959963984540054 * np.sqrt((b_and_c + 1) - d**2 / (n + 2)) / (n + 2)
    found = paired_difference(gain < 0, gain > 0, np.zeros(100, int))["all"].interval
    np.testing.assert_allclose(found, (d / (n + 2) - half, d / (n + 2) + half), atol=2e-3)


def test_no_difference_has_a_width():
    same = np.ones(12, bool)
    found = paired_difference(same, same, np.repeat(np.arange(4), 3))["all"]
    assert found.value == 0
    assert found.p == 1
    assert found.interval[0] < -0.1 < 0.1 < found.interval[1]


def test_resamples_have_the_variance_of_the_rows():
    """The variance of a class mean over resamples is the unbiased p (1 - p) / (k - 1)."""
    labels, right = np.repeat([0, 1, 2], [2, 3, 8]), np.array([1, 0, 1, 1, 0, 1, 1, 1, 0, 0, 1, 0, 1])
    times = np.array(list(resamples(labels, 3, num=20_000, seed=0)))
    for c, k in enumerate((2, 3, 8)):
        inside = labels == c
        np.testing.assert_allclose(times[:, inside].sum(axis=1), k)
        p = right[inside].mean()
        assert (times[:, inside] @ right[inside] / k).var() == pytest.approx(p * (1 - p) / (k - 1), rel=0.05)


def test_resamples_draw_views_together_and_single_classes_from_one_another():
    labels, sample = np.array([0, 0, 1, 1, 0, 0, 2]), np.array([5, 5, 8, 8, 9, 9, 3])
    times = np.array(list(resamples(labels, 4, sample, num=200, seed=0)))
    np.testing.assert_array_equal(times[:, [0, 2, 4]], times[:, [1, 3, 5]])
    np.testing.assert_array_equal(times[:, 0] + times[:, 4], 2)
    assert set(times[:, 2]) == {0, 2}
    np.testing.assert_array_equal(times[:, 2] + times[:, 6], 2)


@pytest.mark.parametrize(
    ("classes", "rows", "kind"),
    [
        (100, 2, "any accuracies"),
        (100, 3, "falling with the tail"),
        (20, 3, "near 100 %"),
        (2, 5, "all alike"),
        (20, 20, "near 0 or 100 %"),
        (20, "3 to 40", "any accuracies"),
    ],
)
def test_intervals_hold(classes, rows, kind):
    for figure, held in coverage.accuracy(1500, classes, rows, kind).items():
        assert 0.925 < held < 0.985, figure  # 3 standard errors from 94.3 to 96.7 %


def test_intervals_hold_with_views_and_would_not_without_samples():
    assert coverage.views(800) > 0.92
    assert coverage.views(800, by_sample=False) < 0.8


def test_differences_hold():
    for classes, rows in ((2, 20), (20, 3), (100, 3)):
        assert 0.925 < coverage.difference(1500, classes, rows, 0.3) < 0.985


def test_the_interval_of_tau_holds_at_the_ends_of_its_range():
    best = coverage.BEST_TAU
    assert coverage.tau(60, 5, 0.0, best + 1) > 0.83
    assert coverage.tau(60, 5, 0.0, best - 0.2) > 0.88
    assert coverage.tau(60, 5, best + 0.2, best + 2) > 0.88


def test_cross_fitted_figures_are_unbiased_and_naive_ones_are_not():
    _, fair, naive = coverage.bias(400, coverage.Population.long_tailed(), 5)
    assert abs(fair) < 0.2  # of a standard error of 0.05
    assert naive > 0.35


def test_a_row_that_misses_its_goal_is_said_to():
    met, missed = coverage.Row("all", "a", 0.95), coverage.Row("all", "b", 0.80)
    assert missed.surer(9) is missed
    again = coverage.Row("all", "c", 0.971, again=lambda draws: draws / 100).surer(96)
    assert again.held == 0.96
    assert again.remark == "96 draws, as of fewer it was 97.10"
    text = coverage.page([met, missed], [(3, 0.07, 0.01, 0.5)], (0.94, 0.68), 1000)
    assert "1 of\n2 lines" in text
    assert "| all | b | 80.0 | 93 to 97 | no |" in text
