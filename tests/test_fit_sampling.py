import numpy as np
import pytest
from long_tail import long_tail
from slow_reference import slow_class_probability

from ltpost.data.tensors import few_of_each
from ltpost.errors import DataError, UsageError
from ltpost.fit.sampling import SAMPLERS, Sampler, class_probabilities, rows_per_class

COUNTS = np.array([50, 20, 7, 1])
LABELS = np.repeat(np.arange(4), COUNTS)[np.random.default_rng(0).permutation(78)]


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_probabilities_are_those_of_the_paper(sampler, progress):
    slow = [slow_class_probability(sampler, COUNTS.tolist(), c, progress) for c in range(4)]
    np.testing.assert_allclose(class_probabilities(sampler, COUNTS, progress), slow, rtol=1e-12)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_drawn_rows_follow_the_probabilities(sampler):
    size = 40_000
    rows = Sampler(LABELS, sampler, seed=1).draw(size, progress=0.5)
    expected = class_probabilities(sampler, COUNTS, 0.5)
    share = np.bincount(LABELS[rows], minlength=4) / size
    assert np.abs(share - expected).max() < 5 * np.sqrt(0.25 / size)
    per_row = np.bincount(rows, minlength=len(LABELS)) / size  # every row of a class is equally likely
    assert np.abs(per_row - (expected / COUNTS)[LABELS]).max() < 5 * np.sqrt(expected.max() / size)


def test_few_of_each_class_are_spread_and_stand_for_all():
    rows, times = few_of_each(LABELS, most=7)
    np.testing.assert_array_equal(np.bincount(LABELS[rows]), [7, 7, 7, 1])
    np.testing.assert_allclose(np.bincount(LABELS[rows], times), COUNTS)
    place = np.searchsorted(np.flatnonzero(LABELS == 0), rows[LABELS[rows] == 0])
    assert set(np.diff(place)) == {7, 8}  # of 50 rows


def test_few_of_each_may_be_all():
    rows, times = few_of_each(LABELS, most=50)
    np.testing.assert_array_equal(rows, np.arange(78))
    assert (times == 1).all()


def test_instance_sampling_visits_every_row_once():
    assert sorted(Sampler(LABELS, "instance", seed=0).draw(len(LABELS))) == list(range(len(LABELS)))


def test_progressive_goes_from_instance_to_class_balanced():
    np.testing.assert_allclose(
        class_probabilities("progressive", COUNTS, 0.0), class_probabilities("instance", COUNTS), rtol=1e-12
    )
    np.testing.assert_allclose(
        class_probabilities("progressive", COUNTS, 1.0), class_probabilities("class-balanced", COUNTS), rtol=1e-12
    )


def test_seed_decides():
    first, same, other = (Sampler(LABELS, "class-balanced", seed).draw(30) for seed in (3, 3, 4))
    assert (first == same).all()
    assert (first != other).any()


def test_unknown_sampler():
    with pytest.raises(UsageError, match="sampler= must be one of instance, .* but is 'even'"):
        class_probabilities("even", COUNTS)


def test_absent_classes_are_named():
    train = long_tail(class_names=["ant", "bee", "cat", "dog", "eel"])
    rows = np.flatnonzero(~np.isin(train.labels, [1, 3]))
    with pytest.raises(DataError, match=r"at least one row of each of the 5 classes.*classes 1 \(bee\), 3 \(dog\)"):
        rows_per_class(train.subset(rows))
