import numpy as np
import pytest
from long_tail import accuracy, cifar100lt, long_tail, permuted, with_rows
from sklearn.neighbors import NearestCentroid
from slow_reference import slow_nearest_mean

import ltpost
from ltpost.data.class_sums import class_sums
from ltpost.data.features import FeatureSet
from ltpost.data.load import load
from ltpost.errors import DataError, UsageError
from ltpost.heads import LinearHead, load_head
from ltpost.scores.predict import predict

METRICS = ltpost.nearest_class_mean.options["metric"].choices
TRAIN = long_tail(num_classes=7, num_features=9)
QUERIES = np.maximum(np.random.default_rng(5).normal(0.5, 1, (200, 9)), 0).astype(np.float32)


def nearest_class_mean(train, metric="cosine"):
    return ltpost.nearest_class_mean(train, metric=metric).head()


def test_there_are_five_metrics():
    assert METRICS == ("cosine", "euclidean", "cl2n", "l2n", "un")


@pytest.mark.parametrize("metric", METRICS)
def test_equals_the_slow_rule(metric):
    head = nearest_class_mean(TRAIN, metric)
    slow = slow_nearest_mean(TRAIN.features, TRAIN.labels, 7, QUERIES, metric)
    assert head.logits(QUERIES).argmax(1).tolist() == slow


@pytest.mark.parametrize("metric", ["l2n", "cl2n"])
def test_scores_are_minus_squared_distances(metric):
    head = nearest_class_mean(TRAIN, metric)
    moved = QUERIES[3] - head.centre
    query = moved / np.linalg.norm(moved)
    np.testing.assert_allclose(
        head.logits(QUERIES[3:4])[0], [-np.sum((query - mean) ** 2) for mean in head.means], rtol=1e-5
    )


def test_euclidean_is_sklearns_nearest_centroid():
    peer = NearestCentroid().fit(TRAIN.features, TRAIN.labels)
    assert (nearest_class_mean(TRAIN, "euclidean").logits(QUERIES).argmax(1) == peer.predict(QUERIES)).all()


def test_euclidean_and_un_are_one():
    assert nearest_class_mean(TRAIN, "euclidean").same_as(nearest_class_mean(TRAIN, "un"))


@pytest.mark.parametrize("metric", METRICS)
def test_permuted_classes_permute_the_scores(metric):
    order = np.random.default_rng(1).permutation(7)
    scores = nearest_class_mean(permuted(TRAIN, order), metric).logits(QUERIES)
    np.testing.assert_allclose(scores, nearest_class_mean(TRAIN, metric).logits(QUERIES)[:, order], atol=1e-5)


@pytest.mark.parametrize("metric", METRICS)
def test_all_views_count(metric):
    twice = with_rows(TRAIN, np.concatenate([TRAIN.features] * 2), np.concatenate([TRAIN.labels] * 2))
    np.testing.assert_allclose(
        nearest_class_mean(twice, metric).logits(QUERIES), nearest_class_mean(TRAIN, metric).logits(QUERIES), atol=1e-6
    )


def test_a_float16_file_gives_what_its_values_give_in_memory(tmp_path):
    half = long_tail(num_classes=7, num_features=9, dtype=np.float16)
    stored = load(half.save(tmp_path / "train.h5"))
    assert isinstance(stored.features.base, np.memmap)
    whole = with_rows(half, half.features.astype(np.float32), half.labels)
    assert nearest_class_mean(stored).same_as(nearest_class_mean(whole))


def test_sums_are_exact_where_float32_is_not():
    rows = np.full((200_001, 1), 1 / 3, np.float32)
    rows[0] = 2.0**24
    train = FeatureSet(rows, np.zeros(len(rows), int))
    assert class_sums(train)[0, 0] == pytest.approx(2.0**24 + 200_000 * float(np.float32(1 / 3)), rel=1e-14)


@pytest.mark.parametrize("size", [1e4, 1e6])
def test_a_large_constant_column_changes_no_decision(size):
    """‖x - m‖² in float32 as ‖x‖² - 2 x m + ‖m‖² would lose what tells the classes apart."""

    def wider(features):
        return np.c_[features, np.full(len(features), size, np.float32)]

    plain = nearest_class_mean(TRAIN, "euclidean").logits(QUERIES).argmax(1)
    train = FeatureSet(wider(TRAIN.features), TRAIN.labels, class_counts=TRAIN.class_counts)
    head = nearest_class_mean(train, "euclidean")
    rows = FeatureSet(wider(QUERIES), np.zeros(len(QUERIES), int), head=LinearHead(np.zeros((7, 10))))
    np.testing.assert_array_equal(predict(head, rows), plain)


def test_every_float16_is_added_exactly():
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    every = every[np.isfinite(every)].reshape(-1, 64)  # both signs, zeros, subnormal numbers
    labels = np.random.default_rng(0).integers(0, 3, len(every))
    expected = np.stack([every[labels == c].astype(np.float64).sum(0) for c in range(3)])
    np.testing.assert_allclose(class_sums(FeatureSet(every, labels)), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, -np.nan])
def test_a_float16_that_is_not_finite_is_found(value):
    features = np.ones((6, 4), np.float16)
    features[4, 1] = value
    with pytest.raises(DataError, match="row 4 holds"):
        class_sums(FeatureSet(features, np.array([0, 1, 0, 1, 0, 1])))


def test_one_class():
    train = long_tail(num_classes=1)
    assert nearest_class_mean(train).weight.shape == (1, 6)


def test_errors():
    with pytest.raises(UsageError, match="metric= must be one of cosine, .* but is 'l1'"):
        nearest_class_mean(TRAIN, "l1")
    with pytest.raises(DataError, match="none of class 2;"):
        nearest_class_mean(TRAIN.subset(np.flatnonzero(TRAIN.labels != 2)))
    zero = TRAIN.features.copy()
    zero[TRAIN.labels == 4] = 0
    with pytest.raises(DataError, match="mean feature of class 4 is 0, .* use euclidean"):
        nearest_class_mean(with_rows(TRAIN, zero, TRAIN.labels))
    assert np.isfinite(nearest_class_mean(with_rows(TRAIN, zero, TRAIN.labels), "cl2n").logits(QUERIES)).all()
    for bad in (np.nan, np.inf):
        broken = TRAIN.features.copy()
        broken[11, 3] = bad
        with pytest.raises(DataError, match="'features' must be finite, but row 11 holds"):
            nearest_class_mean(with_rows(TRAIN, broken, TRAIN.labels))


@pytest.mark.parametrize("metric", ["l2n", "cl2n"])
def test_what_is_not_linear_is_saved_and_says_so(metric, tmp_path):
    head = nearest_class_mean(TRAIN, metric)
    assert head.linear() is None
    back = load_head(head.save(tmp_path / "ncm.safetensors"))
    np.testing.assert_array_equal(back.logits(QUERIES), head.logits(QUERIES))


def test_family_has_one_head():
    made = ltpost.nearest_class_mean(TRAIN, metric="euclidean")
    assert (made.parameter, made.params) == (None, {})
    assert isinstance(made.head(), LinearHead)
    with pytest.raises(UsageError, match="one head and nothing to choose, but the value 0.5 was given"):
        made.head(0.5)
    with pytest.raises(UsageError, match="nothing to choose, so it has no curve"):
        made.curve(TRAIN)


@pytest.mark.parametrize(("metric", "expected"), [("cosine", 43.41), ("euclidean", 42.31), ("cl2n", 43.38)])
def test_real_features(metric, expected):
    train, _, test = cifar100lt()
    assert accuracy(nearest_class_mean(train, metric), test) == pytest.approx(expected, abs=0.05)
