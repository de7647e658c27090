"""LDA, nearest neighbours, prototypes, generated features and AlphaNet, against slow versions of their formulas."""

import math

import numpy as np
import pytest
import torch
from long_tail import long_tail, with_rows

from ltpost import DataError, FeatureSet, LinearHead, UsageError, load_head, methods
from ltpost.data.scatter import class_scatter
from ltpost.fit.combined import combination
from ltpost.fit.generated import Generator
from ltpost.fit.loss import Loss
from ltpost.fit.prototypes import Prototypes
from ltpost.heads import ChangedHead, NeighbourHead, PrototypeHead, SummedHead
from ltpost.scores.predict import predict

TRAIN = long_tail(num_classes=6, num_features=5, most=40)
COUNTS = np.bincount(TRAIN.labels)
QUERIES = np.maximum(np.random.default_rng(5).normal(0.7, 1, (60, 5)), 0).astype(np.float32)
MEANS = np.array([TRAIN.features[TRAIN.labels == c].mean(0) for c in range(6)])


def slow_covariance(features, labels):
    """Within-class covariance, row by row."""
    result = np.zeros((features.shape[1],) * 2)
    for c in np.unique(labels):
        own = features[labels == c].astype(float)
        for x in own:
            result += np.outer(x - own.mean(0), x - own.mean(0))
    return result / len(labels)


# -- LDA --------------------------------------------------------------------------------------------------------------


def test_scatter_is_the_slow_one_in_any_blocks():
    for size in (1, 7, 1000):
        blocks = TRAIN.feature_blocks(size=size)
        found = class_scatter(blocks, TRAIN.labels, 6, 5)
        np.testing.assert_allclose(found.within / len(TRAIN), slow_covariance(TRAIN.features, TRAIN.labels), rtol=1e-6)
        np.testing.assert_allclose(found.means, MEANS, rtol=1e-5)


@pytest.mark.parametrize("recipe", ["plain", "shrunk-means"])
@pytest.mark.parametrize("shrinkage", [0.1, 1.0])
def test_lda_is_the_slow_formula(recipe, shrinkage):
    head = methods.get("lda")(TRAIN, recipe=recipe, shrinkages=(shrinkage,)).head(shrinkage)
    covariance = slow_covariance(TRAIN.features, TRAIN.labels)
    covariance = (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / 5 * np.eye(5)
    inverse, scores = np.linalg.inv(covariance), np.empty((len(QUERIES), 6))
    for c in range(6):
        pull = max(0.1, 1 + 0.1 * (math.log(COUNTS[c]) - math.log(COUNTS.max()))) if recipe == "shrunk-means" else 1
        mean = MEANS.mean(0) + pull * (MEANS[c] - MEANS.mean(0))
        for i, x in enumerate(QUERIES):
            scores[i, c] = x @ inverse @ mean - 0.5 * mean @ inverse @ mean
    np.testing.assert_allclose(head.logits(QUERIES), scores, rtol=1e-3, atol=1e-3)


def test_lda_shrunk_fully_is_the_euclidean_nearest_mean():
    lda = methods.get("lda")(TRAIN, recipe="plain", shrinkages=(1.0,)).head(1.0)
    ncm = methods.get("ncm")(TRAIN, metric="euclidean").head()
    np.testing.assert_array_equal(lda.logits(QUERIES).argmax(1), ncm.logits(QUERIES).argmax(1))


def test_gda_is_the_slow_recipe():
    head = methods.get("lda")(TRAIN, recipe="gda").head()
    norms = np.linalg.norm(TRAIN.features, axis=1, keepdims=True)
    x = TRAIN.features / np.where(norms > 0, norms, 1)
    n, means = len(x), np.array([x[TRAIN.labels == c].mean(0) for c in range(6)])
    covariance = slow_covariance(x, TRAIN.labels) * n / (n - 1)
    precision = 5 * np.linalg.pinv((n - 1) * covariance + np.trace(covariance) * np.eye(5))
    query = QUERIES / np.maximum(np.linalg.norm(QUERIES, axis=1, keepdims=True), 1e-30)
    slow = query @ precision @ means.T - 0.5 * np.einsum("cd,de,ce->c", means, precision, means) - math.log(6)
    np.testing.assert_allclose(head.logits(QUERIES), slow, rtol=1e-3, atol=1e-4)


def test_lda_messages():
    with pytest.raises(DataError, match="two rows that differ"):
        methods.get("lda")(FeatureSet(np.eye(3), [0, 1, 2]))
    for values in ((1.5,), ()):
        with pytest.raises(UsageError, match="shrinkages="):
            methods.get("lda")(TRAIN, shrinkages=values)


# -- nearest neighbours -----------------------------------------------------------------------------------------------


def slow_votes(k, balanced):
    scores = np.zeros((len(QUERIES), 6))
    unit = [x / (np.linalg.norm(x) or 1) for x in TRAIN.features.astype(float)]
    for i, q in enumerate(QUERIES.astype(float)):
        cosines = [q @ x / (np.linalg.norm(q) or 1) for x in unit]
        for j in sorted(range(len(unit)), key=lambda j: -cosines[j])[:k]:
            label = TRAIN.labels[j]
            scores[i, label] += math.exp((cosines[j] - 1) / 0.07) / (COUNTS[label] if balanced else 1)
    return scores


@pytest.mark.parametrize("k", [1, 7])
@pytest.mark.parametrize("votes", ["class-balanced", "plain"])
def test_neighbours_vote_as_the_slow_ones(k, votes):
    head = methods.get("knn")(TRAIN, votes=votes, neighbours=(20.0, float(k))).head(k)
    slow = slow_votes(k, votes == "class-balanced")
    clear = np.sort(slow, axis=1)[:, -1] > 1.05 * np.sort(slow, axis=1)[:, -2]
    assert clear.sum() > 20
    np.testing.assert_array_equal(head.logits(QUERIES).argmax(1)[clear], slow.argmax(1)[clear])


def test_neighbours_do_not_depend_on_the_blocks(monkeypatch):
    random = np.random.default_rng(0)
    rows = random.integers(-2, 3, (200, 3)).astype(np.float32)  # many ties
    head = NeighbourHead(rows, random.integers(0, 4, 200), np.ones(4), 9)
    whole = head.nearest(QUERIES[:, :3], 9)
    monkeypatch.setattr("ltpost.heads.neighbours._BLOCK_ELEMENTS", 40)
    for one, other in zip(whole, head.nearest(QUERIES[:, :3], 9), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_the_curve_of_neighbours_is_that_of_the_heads():
    family, val = methods.get("knn")(TRAIN), with_rows(TRAIN, QUERIES, np.arange(60) % 6)
    curve = family.curve(val)
    for k in curve.grid():
        np.testing.assert_array_equal(curve.correct(k), predict(family.head(k), val) == val.labels)


def test_neighbours_messages():
    for options in ({"neighbours": (0.0,)}, {"neighbours": (1.5,)}, {"temperature": 0.0}):
        with pytest.raises(UsageError, match=f"{next(iter(options))}="):
            methods.get("knn")(TRAIN, **options)
    with pytest.raises(UsageError, match="no head at k 3"):
        methods.get("knn")(TRAIN).head(3)


# -- prototypes -------------------------------------------------------------------------------------------------------


def test_prototype_scores_are_the_slow_formula():
    temperature = np.array([1.0, 2.0, 0.5, 1.0, 3.0])
    scores = PrototypeHead(MEANS, temperature).logits(QUERIES)
    for i, x in enumerate(QUERIES):
        for c in range(6):
            total = sum(((x[d] - MEANS[c, d]) / temperature[d]) ** 2 for d in range(5))
            assert scores[i, c] == pytest.approx(-0.5 * math.sqrt(total), rel=1e-4, abs=1e-5)


def test_prototype_gradients_are_those_of_autograd():
    x, labels = torch.from_numpy(QUERIES).double(), torch.arange(60) % 6
    p = torch.from_numpy(MEANS).double().requires_grad_()
    t = torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0], dtype=torch.float64, requires_grad=True)
    scores = -0.5 * (((x[:, None] - p) / t) ** 2).sum(2).sqrt()
    torch.nn.functional.cross_entropy(scores + torch.arange(6) / 3.8, labels).backward()
    loss = Loss(offset=np.arange(6) / 3.8).on(torch.device("cpu"))
    rate = 0.25
    model = Prototypes(MEANS, rate, 0.0, torch.device("cpu"))
    model.parameters[1].copy_(t.detach() / rate**0.5)
    for parameter in model.parameters:
        parameter.grad = torch.zeros_like(parameter)
    scores = model.scores(x.float())
    loss(scores, labels, 1 / 60)
    model.backward(x.float(), scores)
    torch.testing.assert_close(model.parameters[0].grad, p.grad.float(), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(model.parameters[1].grad, t.grad.float() * rate**0.5, rtol=1e-3, atol=1e-5)


def test_prototypes_without_training_are_the_euclidean_nearest_mean():
    head = methods.get("prototypes")(TRAIN, COUNTS, epochs=0).head()
    ncm = methods.get("ncm")(TRAIN, metric="euclidean").head()
    np.testing.assert_array_equal(head.logits(QUERIES).argmax(1), ncm.logits(QUERIES).argmax(1))


def test_prototypes_learn():
    def loss(head):
        scores = head.logits(TRAIN.features).astype(float) + np.log(COUNTS) / 3.8
        chosen = scores[np.arange(len(TRAIN)), TRAIN.labels] - np.log(np.exp(scores).sum(1))
        return -np.mean([chosen[TRAIN.labels == c].mean() for c in range(6)])

    make = methods.get("prototypes")
    start = make(TRAIN, COUNTS, epochs=0).head()
    learned = make(TRAIN, COUNTS, epochs=20, learning_rate=0.5, batch_size=16, progress=False).head()
    assert loss(learned) < 0.9 * loss(start)
    assert not np.allclose(learned.temperature, 1)


def test_prototype_messages():
    with pytest.raises(UsageError, match="temperature_rate="):
        methods.get("prototypes")(TRAIN, COUNTS, temperature_rate=0.0)
    with pytest.raises(UsageError, match="epochs="):
        methods.get("prototypes")(TRAIN, COUNTS, epochs=-1)


# -- TailCalib --------------------------------------------------------------------------------------------------------


def test_generated_rows_have_the_stated_mean_and_covariance():
    random = np.random.default_rng(0)
    features = np.concatenate([random.gamma(2, size=(30, 3)), [[4.0, 1.0, 2.0]]]).astype(np.float32)
    labels = np.repeat([0, 1], [30, 1])  # class 1 has one row: it borrows from class 0, the only lender
    train = FeatureSet(features, labels)
    changed = features.astype(float) ** 0.9
    means = np.array([changed[:30].mean(0), changed[30]])
    generator = Generator(train, means, np.array([30, 1]), power=0.9, neighbours=1, alpha=0.3, seed=0)
    drawn = generator.draw(1, 40_000).astype(float)
    expected = np.cov(changed[:30].T) + 0.3 + 1e-4 * np.eye(3)
    np.testing.assert_allclose(drawn.mean(0), (changed[30] + means[0]) / 2, atol=0.02)
    np.testing.assert_allclose(np.cov(drawn.T), expected, atol=0.03)


def test_two_lenders_share_their_covariances():
    random = np.random.default_rng(1)
    features = random.normal(size=(50, 2)).astype(np.float32) * np.repeat([[1.0], [3.0]], 25, axis=0)
    labels = np.repeat([0, 1], 25)
    means = np.array([features[labels == c].mean(0) for c in (0, 1)])
    train = FeatureSet(features, labels)
    generator = Generator(train, means, np.array([25, 25]), power=1.0, neighbours=2, alpha=0.0, seed=0)
    # rows are drawn around real rows: their spread, over the square of K + 1, comes on top
    own = np.cov(features[:25].T, bias=True) / 9
    expected = (np.cov(features[:25].T) + np.cov(features[25:].T)) / 2 + own
    np.testing.assert_allclose(np.cov(generator.draw(0, 60_000).T), expected, atol=0.15)


def test_nothing_topped_up_is_crt_on_powers():
    calibrated = methods.get("tailcalib")(TRAIN, rows_each=1, strengths=(0.1,), progress=False).head(0.1)
    powers = with_rows(TRAIN, TRAIN.features**0.9, TRAIN.labels)
    crt = methods.get("crt")(powers, strengths=(0.1,), progress=False).head(0.1)
    np.testing.assert_allclose(calibrated.logits(QUERIES), crt.logits(QUERIES**0.9), atol=1e-4)


def test_tailcalib_messages():
    make = methods.get("tailcalib")
    with pytest.raises(DataError, match="must not be negative"):
        make(with_rows(TRAIN, TRAIN.features - 1, TRAIN.labels))
    with pytest.raises(DataError, match="two rows"):
        make(FeatureSet(np.eye(3, dtype=np.float32), [0, 1, 2]), power=1.0)
    with pytest.raises(UsageError, match="neighbours="):
        make(TRAIN, neighbours=0)


def test_tailcalib_with_power_one_is_linear():
    head = methods.get("tailcalib")(TRAIN, power=1.0, strengths=(0.1,), progress=False).head(0.1)
    assert isinstance(head, LinearHead)


# -- AlphaNet ---------------------------------------------------------------------------------------------------------


def test_only_few_shot_classes_change():
    head = methods.get("alphanet")(TRAIN, TRAIN.head, COUNTS, below=6, progress=False).head()
    same = (head.weight == TRAIN.head.weight).all(1)
    np.testing.assert_array_equal(same, COUNTS >= 6)
    np.testing.assert_array_equal(head.bias, TRAIN.head.bias)


def test_what_is_added_is_a_combination_of_the_nearest():
    head = methods.get("alphanet")(TRAIN, TRAIN.head, COUNTS, below=6, neighbours=2, progress=False).head()
    base = np.flatnonzero(COUNTS >= 6)
    for c in np.flatnonzero(COUNTS < 6):
        nearest = base[np.argsort([np.linalg.norm(TRAIN.head.weight[c] - TRAIN.head.weight[b]) for b in base])[:2]]
        added = head.weight[c] - TRAIN.head.weight[c]
        alpha, rest, *_ = np.linalg.lstsq(TRAIN.head.weight[nearest].T, added, rcond=None)
        assert np.abs(alpha).sum() == pytest.approx(1, abs=1e-4)
        assert rest.sum() < 1e-8


def test_combination_is_the_slow_network():
    random = torch.Generator().manual_seed(0)
    shapes = [(6, 32), (32,), (32, 32), (32,), (32, 2), (2,)]
    parameters = [torch.randn(shape, generator=random) for shape in shapes]
    own, sources = torch.randn(3, 2, generator=random), torch.randn(3, 2, 2, generator=random)
    new = combination(parameters, own, sources)
    leaky = torch.nn.LeakyReLU()
    for f in range(3):
        x = torch.cat([own[f], sources[f, 0], sources[f, 1]])
        x = leaky(x @ parameters[0] + parameters[1])
        x = leaky(x @ parameters[2] + parameters[3])
        alpha = x @ parameters[4] + parameters[5]
        alpha = alpha / alpha.abs().sum()
        torch.testing.assert_close(new[f], own[f] + alpha[0] * sources[f, 0] + alpha[1] * sources[f, 1])


def test_no_few_shot_class_is_a_note():
    family = methods.get("alphanet")(TRAIN, TRAIN.head, COUNTS, below=1, progress=False)
    assert family.head().same_as(TRAIN.head)
    assert "nothing to combine" in family.notes[0]


def test_alphanet_messages():
    with pytest.raises(UsageError, match="neighbours="):
        methods.get("alphanet")(TRAIN, TRAIN.head, COUNTS, neighbours=0)


# -- saved heads ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "head",
    [
        methods.get("lda")(TRAIN, recipe="gda").head(),
        ChangedHead(LinearHead(MEANS, np.arange(6.0)), power=0.9),
        methods.get("knn")(TRAIN).head(10),
        PrototypeHead(MEANS, np.full(5, 2.0)),
        SummedHead([LinearHead(MEANS), PrototypeHead(MEANS, np.ones(5))], [1.0, 0.3]),
    ],
    ids=["gda", "power", "neighbours", "prototypes", "summed"],
)
def test_a_saved_head_is_the_same(head, tmp_path):
    head.info.update({"method": "any"})
    rows = with_rows(TRAIN, QUERIES, np.arange(60) % 6)
    loaded = load_head(head.save(tmp_path / "head.safetensors"))
    np.testing.assert_allclose(loaded.reader(rows)(slice(None)), head.reader(rows)(slice(None)), rtol=1e-6, atol=1e-7)
    assert loaded.info == {"method": "any"}
    assert loaded.linear() is None


def test_heads_that_cannot_be():
    with pytest.raises(DataError, match="power="):
        ChangedHead(LinearHead(MEANS), power=0.0)
    with pytest.raises(DataError, match="temperature"):
        PrototypeHead(MEANS, np.zeros(5))
    with pytest.raises(DataError, match="0 <= label < C = 2"):
        NeighbourHead(np.eye(3), np.array([0, 1, 2]), np.ones(2), 1)
    with pytest.raises(DataError, match="same C"):
        SummedHead([LinearHead(MEANS), LinearHead(MEANS[:3])], [1.0, 1.0])
