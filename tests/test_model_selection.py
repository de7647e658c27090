import numpy as np
from conftest import COUNTS, make_split

from ltpost import FeatureSet
from ltpost.model_selection import cross_fit, stratified_folds
from ltpost.scores.sweep import affine_curve
from ltpost.scores.tabulated import GridCurve

SLOPE = np.log(COUNTS / COUNTS.sum())


def test_folds_are_stratified_and_balanced():
    labels = np.repeat(np.arange(7), [30, 20, 10, 5, 3, 2, 1])
    folds = stratified_folds(np.random.default_rng(0).permutation(labels), 5, seed=1)
    assert np.ptp(np.bincount(folds)) <= 1
    folds = stratified_folds(labels, 5)
    for c in range(7):
        assert np.ptp(np.bincount(folds[labels == c], minlength=5)) <= 1


def test_views_of_a_sample_lie_in_one_fold():
    sample = np.random.default_rng(0).permutation(np.repeat(np.arange(30), 3)) * 11
    labels = (sample // 11) % 3
    folds = stratified_folds(labels, 5, seed=3, sample=sample)
    for one in np.unique(sample):
        assert len(set(folds[sample == one])) == 1
    np.testing.assert_array_equal(np.bincount(folds), 18)
    for c in range(3):
        np.testing.assert_array_equal(np.bincount(folds[labels == c]), 6)


def test_cross_fit_of_copies_chooses_as_of_single_rows():
    """With every row four times, as views of one sample, every view is judged as its row is."""
    split = make_split("val", 20)
    rows = np.repeat(np.arange(len(split)), 4)
    one = affine_curve(split, SLOPE, None)
    four = affine_curve(FeatureSet(split.features[rows], split.labels[rows], head=split.head, sample=rows), SLOPE, None)
    np.testing.assert_array_equal(cross_fit(four, "all", 0, 2).correct, cross_fit(one, "all", 0, 2).correct[rows])
    np.testing.assert_allclose(four.bootstrap_best("all", 0, 2), one.bootstrap_best("all", 0, 2), atol=1e-6)


def test_the_seed_decides_who_is_in_a_fold():
    labels = np.repeat(np.arange(7), 10)
    first, again, other = (stratified_folds(labels, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_cross_fit_chooses_without_the_rows_it_judges():
    """Against the definition: subset, choose, apply."""
    split = make_split("val", 20)
    curve = affine_curve(split, SLOPE, None)
    folds = stratified_folds(split.labels, 5, seed=2)
    expected = np.zeros(len(split), bool)
    for fold in range(5):
        rest = np.flatnonzero(folds != fold)
        value = affine_curve(split.subset(rest), SLOPE, None).best("all", 0, 2).value
        expected[folds == fold] = curve.correct(value)[folds == fold]
    np.testing.assert_array_equal(cross_fit(curve, "all", 0, 2, seed=2).correct, expected)


def test_cross_fit_is_honest_where_a_plain_choice_is_not():
    """500 candidates that guess: the best of them looks good on the rows it was chosen on, and only there."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 10)
    curve = GridCurve("strength", np.arange(500.0), rng.random((500, 100)) < 0.3, labels, None, 10)
    assert curve.best("all").score > 0.42
    assert cross_fit(curve, "all").correct.mean() < 0.38
