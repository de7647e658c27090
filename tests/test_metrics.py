import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from ltpost import UsageError
from ltpost.data.priors import class_list, log_prior, shot_groups
from ltpost.scores.metrics import FIGURES, figures, row_weights, selection_score

COUNTS = np.array([500, 101, 100, 20, 19, 1])


def slow_figures(hits, totals, counts):
    """Means over classes, one class at a time, as the paper's Section 5.1 says."""

    def mean(classes):
        values = [hits[c] / totals[c] for c in classes if totals[c]]
        return sum(values) / len(values) if values else float("nan")

    every = range(len(counts))
    return {
        "many": mean([c for c in every if counts[c] > 100]),
        "medium": mean([c for c in every if 20 <= counts[c] <= 100]),
        "few": mean([c for c in every if counts[c] < 20]),
        "all": mean(every),
        "top1": sum(hits) / sum(totals),
    }


def test_groups_have_strict_thresholds():
    groups = shot_groups(COUNTS)
    np.testing.assert_array_equal(groups.many, [1, 1, 0, 0, 0, 0])
    np.testing.assert_array_equal(groups.medium, [0, 0, 1, 1, 0, 0])
    np.testing.assert_array_equal(groups.few, [0, 0, 0, 0, 1, 1])
    with pytest.raises(UsageError, match="few_shot= must be from 0 to many_shot= \\+ 1, but is 20 with many_shot= 10"):
        shot_groups(COUNTS, many_shot=10, few_shot=20)


@pytest.mark.parametrize("missing", [(), (5,), (4, 5)], ids=["all there", "one class absent", "no few-shot class"])
def test_figures_equal_the_slow_ones(missing):
    rng = np.random.default_rng(0)
    totals = rng.integers(1, 40, 6)
    totals[list(missing)] = 0
    hits = rng.binomial(totals, 0.6)
    ours, slow = vars(figures(hits, totals, shot_groups(COUNTS))), slow_figures(hits, totals, COUNTS)
    for name in FIGURES:
        np.testing.assert_allclose(ours[name], slow[name], rtol=1e-12)
    weights = row_weights(np.repeat(np.arange(6), totals), shot_groups(COUNTS), 6)
    correct = np.concatenate([np.arange(n) < h for n, h in zip(totals, hits, strict=True)])
    np.testing.assert_allclose(weights @ correct, [slow[name] for name in FIGURES])


def test_all_and_top1_equal_scikit_learn():
    rng = np.random.default_rng(1)
    labels = rng.choice(6, 500, p=[0.5, 0.2, 0.1, 0.1, 0.06, 0.04])
    predicted = np.where(rng.random(500) < 0.7, labels, rng.integers(0, 6, 500))
    hits, totals = np.bincount(labels[labels == predicted], minlength=6), np.bincount(labels, minlength=6)
    ours = figures(hits, totals, None)
    assert ours.all == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert ours.top1 == pytest.approx(accuracy_score(labels, predicted))
    assert np.isnan(ours.many)
    assert ours.as_dict()["many"] is None


def test_harmonic_mean_is_of_the_groups_that_there_are():
    values = {"many": np.array([0.5]), "medium": np.array([np.nan]), "few": np.array([0.25])}
    assert selection_score(values, "harmonic")[0] == pytest.approx(2 / (1 / 0.5 + 1 / 0.25))
    assert selection_score(dict.fromkeys(values, np.zeros(1)), "harmonic")[0] == 0


def test_log_prior_and_class_list():
    np.testing.assert_allclose(np.exp(log_prior(COUNTS)).sum(), 1.0)
    assert class_list(np.array([3])) == "class 3"
    assert class_list(np.arange(5), ["a", "b", "c", "d", "e"]) == "classes 0 (a), 1 (b), 2 (c) and 2 more"
