"""Methods that fit on val labels, discriminants beside logit adjustment, and a shift to a known class prior."""

import numpy as np
import pytest
from conftest import COUNTS, make_split
from long_tail import long_tail
from test_layers import WIDTHS, with_layers

import ltpost
from ltpost import DataError, FeatureSet, UsageError
from ltpost.data.one_after_other import one_after_other
from ltpost.data.priors import log_prior
from ltpost.data.unlabelled import UnlabelledRows
from ltpost.fit.discriminant import Discriminants, discriminant
from ltpost.fit.empirical_bayes import posterior_means
from ltpost.scores.predict import predict
from ltpost.scores.sinkhorn import shift_to_prior

C = len(COUNTS)


def scores_of(head, rows):
    """Logits without what all classes of a row share."""
    scores = head.reader(rows)(slice(None)).astype(float)
    return scores - scores.mean(axis=1, keepdims=True)


# -- empirical Bayes ---------------------------------------------------------------------------------------------------


def slow_line(logs, weights, targets):
    """a + b ln n at every ln n, by weighted least squares with plain sums."""
    s0, s1, s2 = (sum(w * x**p for w, x in zip(weights, logs, strict=True)) for p in (0, 1, 2))
    t0, t1 = (sum(w * x**p * t for w, x, t in zip(weights, logs, targets, strict=True)) for p in (0, 1))
    b = (s0 * t1 - s1 * t0) / (s0 * s2 - s1 * s1)
    a = (t0 - b * s1) / s0
    return lambda x: a + b * x


def slow_means(train_means, val_means, variance, val_counts, class_counts):
    logs = [np.log(n) for n in class_counts]
    seen = [c for c in range(len(logs)) if val_counts[c] > 0]
    m, v = train_means.mean(0), np.mean([val_means[c] for c in seen], axis=0)
    away = [mean - m for mean in train_means]
    lengths = [float(away[c] @ away[c]) for c in seen]
    slopes = [float(away[c] @ (val_means[c] - v)) / (away[c] @ away[c]) for c in seen]
    slope = slow_line([logs[c] for c in seen], lengths, slopes)
    prior = [v + max(0, slope(logs[c])) * away[c] for c in range(len(logs))]
    excess = [float(np.square(val_means[c] - prior[c]).sum()) - variance / val_counts[c] for c in seen]
    spread = slow_line([logs[c] for c in seen], [1.0] * len(seen), excess)
    result = []
    for c in range(len(logs)):
        own = max(0, spread(logs[c]))
        kept = own / (own + variance / val_counts[c]) if c in seen and own > 0 else 0
        result.append(prior[c] + kept * (val_means[c] - prior[c]) if kept else prior[c])
    return np.array(result)


def some_means(seed=0):
    random = np.random.default_rng(seed)
    train = random.normal(size=(C, 4)) * 2
    slopes = 0.4 + 0.1 * np.log(COUNTS)
    val = slopes[:, None] * train + 0.7 * random.normal(size=(C, 4)) + 1
    return train, val


def test_posterior_means_are_the_slow_ones():
    train, val = some_means()
    counts = np.array([5, 4, 0, 6, 5, 1, 5, 2, 5, 5])
    found = posterior_means(train, val, 2.0, counts, COUNTS)
    np.testing.assert_allclose(found, slow_means(train, val, 2.0, counts, COUNTS), rtol=1e-9)


def test_many_val_rows_give_their_own_means_and_none_those_of_train():
    train, val = some_means()
    found = posterior_means(train, val, 1.0, np.full(C, 10**9), COUNTS)
    np.testing.assert_allclose(found, val, atol=1e-6)
    counts = np.full(C, 10**9)
    counts[3] = 0
    without = posterior_means(train, np.where(np.arange(C)[:, None] == 3, np.nan, val), 1.0, counts, COUNTS)
    assert np.isfinite(without).all()
    assert np.abs(without[3] - val[3]).max() > 0.01


def test_memorised_means_are_pulled_in_by_what_the_other_classes_tell():
    """Val means are half as far out as those of train, without noise: the class without val rows follows."""
    train = some_means()[0]
    counts = np.full(C, 20)
    counts[7] = 0
    val = 0.5 * (train - train.mean(0))
    found = posterior_means(train, val, 1e-9, counts, COUNTS)
    away, centre = found - found[counts > 0].mean(0), train - train.mean(0)
    assert np.linalg.norm(away[7]) == pytest.approx(0.5 * np.linalg.norm(centre[7]), rel=0.2)


def test_one_shrinkage_is_that_of_all_of_them():
    random = np.random.default_rng(0)
    means, root = random.normal(size=(3, 5)), random.normal(size=(5, 5))
    for shrinkage in (0.0, 0.3, 1.0):
        one = discriminant(means, root @ root.T, shrinkage, "rows")
        all_ = Discriminants(means, root @ root.T, "rows").head(shrinkage)
        np.testing.assert_allclose(one.weight, all_.weight, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(one.bias, all_.bias, rtol=1e-4)


def slow_discriminants(train, val, rows, sources, power, signed=()):
    """EB_c of every row, with plain loops."""

    def read(part, source):
        block = part.read_layer(source, slice(None)) if source else part.features
        plain = power == 1 or source in signed
        return np.asarray(block, float) if plain else np.maximum(np.asarray(block, float), 0) ** power

    blocks, means, seen, unseen = [], [], [], []
    degrees = len(val) - C
    for source in sources:
        x, v, q = (read(part, source) for part in (train, val, rows))
        m_train = np.array([x[train.labels == c].mean(0) for c in range(C)])
        m_val = np.array([v[val.labels == c].mean(0) for c in range(C)])
        rest = v - m_val[val.labels]
        variance = float(np.square(rest).sum()) / degrees
        scale = (variance / x.shape[1]) ** -0.5
        counts = np.bincount(val.labels, minlength=C)
        means.append(slow_means(m_train * scale, m_val * scale, variance * scale**2, counts, COUNTS))
        blocks.append(q * scale)
        seen.append((x - m_train[train.labels]) * scale)
        unseen.append(rest * scale)
    q, m, t, u = (np.concatenate(parts, axis=1) for parts in (blocks, means, seen, unseen))
    s_val, s_train = u.T @ u / degrees, t.T @ t / len(t)
    share = len(s_val) / (len(s_val) + degrees)
    s = (1 - share) * s_val + share * s_train * np.trace(s_val) / np.trace(s_train)
    s = 0.7 * s + 0.3 * np.trace(s) / len(s) * np.eye(len(s))
    inverse = np.linalg.inv(s)
    return q @ inverse @ m.T - 0.5 * np.einsum("cd,de,ce->c", m, inverse, m)


@pytest.fixture(scope="module")
def splits():
    return {name: with_layers(name) for name in ("train", "val", "test")}


def adjusted(rows, tau=1.2, weight=1.0):
    return weight * (rows.logits.astype(float) - tau * log_prior(COUNTS))


def test_eb_lda_is_the_slow_one_and_one_linear_layer(splits):
    train, val, test = splits.values()
    head = ltpost.empirical_bayes_discriminant(train, val, test.joint, COUNTS, tau=1.1, weight=0.8).head()
    slow = slow_discriminants(train, val, test, [""], 1) + adjusted(test, 1.1, 0.8)
    np.testing.assert_allclose(scores_of(head, test), slow - slow.mean(1, keepdims=True), atol=2e-3)
    layer = head.linear()
    assert (layer.logits(test.features).argmax(1) == predict(head, test)).mean() > 0.99
    root = ltpost.empirical_bayes_discriminant(train, val, test.joint, COUNTS, root=True).head()
    slow = slow_discriminants(train, val, test, [""], 0.5) + adjusted(test)
    np.testing.assert_allclose(scores_of(root, test), slow - slow.mean(1, keepdims=True), atol=5e-3)
    assert root.linear() is None


def test_eb_layers_is_the_slow_one(splits):
    train, val, test = splits.values()
    head = ltpost.empirical_bayes_layers(train, val, test.joint, COUNTS, list(WIDTHS)).head()
    slow = slow_discriminants(train, val, test, ["", *WIDTHS], 0.5) + adjusted(test)
    np.testing.assert_allclose(scores_of(head, test), slow - slow.mean(1, keepdims=True), atol=2e-2)


def test_eb_layers_takes_signed_layers_as_they_are():
    train, val, test = (with_layers(split, below=2.0) for split in ("train", "val", "test"))
    head = ltpost.empirical_bayes_layers(train, val, test.joint, COUNTS, list(WIDTHS)).head()
    slow = slow_discriminants(train, val, test, ["", *WIDTHS], 0.5, signed=("late",)) + adjusted(test)
    np.testing.assert_allclose(scores_of(head, test), slow - slow.mean(1, keepdims=True), atol=2e-2)


def test_eb_layers_without_layers_is_eb_lda_of_roots(splits):
    train, val, test = splits.values()
    one = ltpost.empirical_bayes_layers(train, val, test.joint, COUNTS, []).head()
    other = ltpost.empirical_bayes_discriminant(train, val, test.joint, COUNTS, root=True).head()
    np.testing.assert_allclose(scores_of(one, test), scores_of(other, test), atol=1e-4)


def test_what_eb_refuses(splits):
    train, val, test = splits.values()
    with pytest.raises(UsageError, match=r"ridge= must lie in 0\.\.1, but is 2"):
        ltpost.empirical_bayes_discriminant(train, val, test.joint, COUNTS, ridge=2.0)
    with pytest.raises(UsageError, match="weight= and tau= must be numbers"):
        ltpost.empirical_bayes_discriminant(train, val, test.joint, COUNTS, weight=-1.0)
    with pytest.raises(DataError, match="must have two rows of at least one class to fit to"):
        ltpost.empirical_bayes_discriminant(train, val.subset(np.arange(0, 300, 30)), test.joint, COUNTS)


# -- discriminants beside logit adjustment -----------------------------------------------------------------------------


def test_lda_la_is_logit_adjustment_plus_lda(splits):
    train, test = splits["train"], splits["test"]
    head = ltpost.discriminant_adjusted(train, test.joint, COUNTS, weight=0.4, shrinkage=0.3).head(0.9)
    lda = ltpost.linear_discriminant(train, shrinkages=(0.3,)).head(0.3)
    expected = adjusted(test, 0.9) + 0.4 * lda.logits(test.features)
    np.testing.assert_allclose(scores_of(head, test), expected - expected.mean(1, keepdims=True), atol=2e-3)
    assert head.linear() is not None
    assert ltpost.discriminant_adjusted(train, test.joint, COUNTS, root=True).head(0.9).linear() is None


def test_little_lda_is_logit_adjustment(splits):
    train, test = splits["train"], splits["test"]
    for root in (False, True):
        one = ltpost.discriminant_adjusted(train, test.joint, COUNTS, weight=1e-9, root=root).head(1.0)
        np.testing.assert_array_equal(
            predict(one, test), predict(ltpost.logit_adjustment(test.joint, COUNTS).head(1.0), test)
        )
    for options in ({"weight": 0.0}, {"shrinkage": -1.0}):
        with pytest.raises(UsageError, match=f"{next(iter(options))}="):
            ltpost.discriminant_adjusted(train, test.joint, COUNTS, **options)


# -- cRT on train and val ----------------------------------------------------------------------------------------------


def test_crt_val_is_crt_of_all_rows():
    train, val = long_tail(), long_tail(most=8, seed=1)
    both = FeatureSet(
        np.concatenate([train.features, val.features]), np.concatenate([train.labels, val.labels]), head=train.head
    )
    options = {"strengths": (0.1,), "progress": False}
    one, other = ltpost.crt_train_val(train, val, **options).head(0.1), ltpost.crt(both, **options).head(0.1)
    np.testing.assert_array_equal(one.weight, other.weight)


def test_rows_one_after_the_other():
    parts = [with_layers("val")]
    parts[0].sample, parts[0].view = np.arange(300) // 2, np.arange(300) % 2
    rows = one_after_other([parts[0], with_layers("test").subset(np.arange(7, 100))], "val")
    assert rows.split == "val"
    assert len(rows) == 393
    other = with_layers("test").subset(np.arange(7, 100))
    key = np.array([392, 0, 299, 300, 3, 392])
    for read, wanted in (
        (rows.read_features, (parts[0].features, other.features)),
        (rows.read_logits, (parts[0].logits, other.logits)),
        (lambda key: rows.read_layer("late", key), [p.read_layer("late", slice(None)) for p in (parts[0], other)]),
    ):
        whole = np.concatenate([np.asarray(part) for part in wanted])
        np.testing.assert_array_equal(read(key), whole[key])
        np.testing.assert_array_equal(read(slice(290, 310)), whole[290:310])
    assert rows.sample[:300].tolist() == (np.arange(300) // 2).tolist()
    assert len(np.unique(rows.sample)) == 150 + 93
    assert rows.view is None, "not all have views"


# -- a known class prior -----------------------------------------------------------------------------------------------


def test_the_mean_prediction_becomes_the_prior():
    rows = make_split("val")
    for prior in (np.full(C, 1 / C), np.arange(1.0, C + 1) / np.arange(1, C + 1).sum()):
        shift, passes, converged = shift_to_prior(UnlabelledRows(rows), rows.joint, np.log(prior))
        assert converged
        assert passes > 1
        mean = np.zeros(C)
        for scores in rows.logits.astype(float) + shift:  # row by row
            p = np.exp(scores - scores.max())
            mean += p / p.sum() / len(rows)
        np.testing.assert_allclose(mean, prior, atol=1e-6)
        assert shift.mean() == pytest.approx(0)


def test_sinkhorn_does_not_mind_a_shift_of_its_base(tmp_path):
    """Logit adjustment with any tau differs from the joint classifier by a shift, and so gives the same head."""
    rows = make_split("test")
    saved = ltpost.logit_adjustment(rows.joint, COUNTS).head(0.7).save(tmp_path / "la.safetensors")
    target = UnlabelledRows(rows)
    one = ltpost.sinkhorn(target, rows.joint, COUNTS).head()
    other = ltpost.sinkhorn(target, rows.joint, COUNTS, base=str(saved)).head()
    np.testing.assert_allclose(scores_of(one, rows), scores_of(other, rows), atol=1e-3)
    known = ltpost.evaluate(one, rows).figures.all
    assert known > ltpost.evaluate(rows.joint, rows).figures.all
