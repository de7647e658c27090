"""Methods that change the class prior, and families along two parameters."""

import math

import numpy as np
import pytest

from ltpost import methods
from ltpost.calibration import fit_calibration
from ltpost.data.features import FeatureSet
from ltpost.data.priors import log_prior, log_target_prior, profile
from ltpost.data.unlabelled import UnlabelledRows
from ltpost.errors import DataError, UsageError
from ltpost.experiment import Experiment
from ltpost.family import Family
from ltpost.heads import CausalNormHead, JointHead, LinearHead, MixedHead, PairwiseHead, RescaledHead, load_head
from ltpost.scores.posteriors import class_posteriors, mean_posterior, spread_of_logits, stationary
from ltpost.scores.predict import predict
from tests.conftest import COUNTS, make_split


def made(key, *needs, **options):
    return methods.get(key)(*needs, **options)


def logits_of(head, split):
    return head.reader(split)(slice(None)).astype(np.float64)


# -- target priors ----------------------------------------------------------------------------------------------------


def test_profiles_follow_the_order_of_the_counts():
    counts = np.array([5, 80, 20, 20])
    slow = [10 ** -(rank / 3) for rank in (3, 0, 1, 2)]
    assert np.allclose(profile("forward-10", counts), np.array(slow) / sum(slow))
    assert np.allclose(profile("backward-10", counts), profile("forward-10", counts)[[1, 0, 3, 2]])
    assert np.allclose(profile("forward-1", counts), 0.25)
    assert profile("forward-50", counts).max() / profile("forward-50", counts).min() == pytest.approx(50)


def test_target_priors_from_words_numbers_and_files(tmp_path):
    counts = np.array([6, 3, 1])
    assert np.allclose(np.exp(log_target_prior("uniform", counts)), 1 / 3)
    assert np.allclose(np.exp(log_target_prior("train", counts)), [0.6, 0.3, 0.1])
    assert np.allclose(np.exp(log_target_prior("2,1,1", counts)), [0.5, 0.25, 0.25])
    assert np.allclose(np.exp(log_target_prior("backward-4", counts)), profile("backward-4", counts))
    file = tmp_path / "prior.txt"
    file.write_text("1\n2 3\n")
    assert np.allclose(np.exp(log_target_prior(str(file), counts)), [1 / 6, 2 / 6, 3 / 6])


@pytest.mark.parametrize(
    ("prior", "error", "words"),
    [
        ("unform", UsageError, "target_prior= must be uniform, train"),
        ("0.5,0.5", UsageError, "must hold 3 numbers, one for each class, but holds 2"),
        ("1,-1,2", UsageError, "must hold positive numbers, but that of class 1 is -1"),
        ("1,a,2", UsageError, "must hold 3 numbers, but holds '1,a,2'"),
        ("forward-0.5", UsageError, "with a factor F of 1 or more"),
    ],
)
def test_a_wrong_target_prior_is_named(prior, error, words):
    with pytest.raises(error, match=words):
        log_target_prior(prior, np.array([6, 3, 1]))


def test_a_wrong_prior_file_is_named(tmp_path):
    file = tmp_path / "prior.txt"
    file.write_text("1 0 2")
    with pytest.raises(DataError, match="prior.txt must hold positive numbers, but that of class 1 is 0"):
        log_target_prior(str(file), np.array([6, 3, 1]))


# -- offsets and factors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target_prior", ["uniform", "train", "backward-20"])
def test_pc_softmax_equals_bayes_rule_row_by_row(target_prior):
    val = make_split("val")
    pi, wanted = COUNTS / COUNTS.sum(), np.exp(log_target_prior(target_prior, COUNTS))
    head = made("pc-softmax", val.joint, COUNTS, target_prior=target_prior).head()
    for row, got in zip(logits_of(val.joint, val)[:20], logits_of(head, val)[:20], strict=True):
        slow = [math.exp(z) * q / p for z, q, p in zip(row, wanted, pi, strict=True)]
        assert np.allclose(np.exp(got) / np.exp(got).sum(), np.array(slow) / sum(slow), atol=1e-5)


def test_pc_softmax_to_the_training_prior_is_the_joint_classifier():
    val = make_split("val")
    assert np.array_equal(
        predict(made("pc-softmax", val.joint, COUNTS, target_prior="train").head(), val), predict(val.joint, val)
    )


def test_prior_rebalancing_is_the_geometric_mixture_of_two_posteriors():
    val, beta = make_split("val"), 0.35
    head = made("ic", val.joint, COUNTS, target_prior="forward-3").head(beta)
    wanted = profile("forward-3", COUNTS)
    for row, got in zip(logits_of(val.joint, val)[:20], logits_of(head, val)[:20], strict=True):
        p = np.exp(row) / np.exp(row).sum()
        rebalanced = p / (COUNTS / COUNTS.sum()) * wanted
        rebalanced /= rebalanced.sum()
        slow = [a ** (1 - beta) * b**beta for a, b in zip(p, rebalanced, strict=True)]
        assert np.allclose(np.exp(got) / np.exp(got).sum(), np.array(slow) / sum(slow), atol=1e-5)


def test_prior_rebalancing_to_uniform_has_the_curve_of_logit_adjustment():
    val = make_split("val")
    values = np.linspace(0, 1, 11)
    ic, la = made("ic", val.joint, COUNTS).curve(val).at(values), made("la", val.joint, COUNTS).curve(val).at(values)
    assert ic == la


def test_rescaled_weights_keep_the_bias():
    val = make_split("val")
    head = made("rs", val.head, COUNTS).head(0.3)
    for c in range(len(COUNTS)):
        assert np.allclose(head.weight[c], val.head.weight[c] / (COUNTS[c] / COUNTS.max()) ** 0.3, rtol=1e-5)
    assert np.allclose(head.bias, val.head.bias, atol=1e-6)
    curve = made("rs", val.head, COUNTS).curve(val, grid=(0.0, 0.3))
    assert curve.at([0.0])[0].top1 == pytest.approx((predict(val.joint, val) == val.labels).mean())


def test_rescaled_weights_with_a_scaled_bias_are_multiplicative_adjustment():
    val = make_split("val")
    one, two = made("rs", val.head, COUNTS, bias="scale"), made("mla", val.joint, COUNTS)
    assert one.curve(val).at([0.0, 0.2, 0.7]) == two.curve(val).at([0.0, 0.2, 0.7])


def test_class_dependent_temperatures_multiply_logits():
    val = make_split("val")
    head = made("cdt", val.joint, COUNTS).head(0.4)
    slow = logits_of(val.joint, val) * np.array([(COUNTS.max() / n) ** 0.4 for n in COUNTS])
    assert np.allclose(logits_of(head, val), slow, atol=1e-4)


# -- priors that the model has ----------------------------------------------------------------------------------------


def test_the_effective_prior_is_the_mean_softmax():
    train, val = make_split("train"), make_split("val")
    slow = np.zeros(len(COUNTS))
    for row in logits_of(train.joint, train):
        e = [math.exp(z / 2) for z in row]
        slow += np.array(e) / sum(e) / len(train)
    assert np.allclose(mean_posterior(train, train.joint, 0.5), slow, atol=1e-6)
    head = made("p2p", train, val.joint, COUNTS, temperature=2.0).head(1.0)
    change = logits_of(head, val)[0] - logits_of(val.joint, val)[0]
    assert np.allclose(change - change[0], -(np.log(slow) - np.log(slow[0])), atol=1e-4)


def test_the_effective_prior_of_logits_that_are_the_log_prior_gives_logit_adjustment():
    logits = np.tile(np.log(COUNTS / COUNTS.sum()), (40, 1)).astype(np.float32)
    train = FeatureSet(labels=np.arange(40) % len(COUNTS), logits=logits, class_counts=COUNTS, split="val")
    joint = JointHead(len(COUNTS))
    one, two = made("p2p", train, joint, COUNTS).head(1.0), made("la", joint, COUNTS).head(1.0)
    assert np.allclose(one.offset - one.offset[0], two.offset - two.offset[0], atol=1e-5)


def test_a_temperature_of_zero_is_refused():
    val = make_split("val")
    with pytest.raises(UsageError, match="temperature= must be positive, but is 0"):
        made("p2p-val", val, val.joint, COUNTS, temperature=0.0)


def test_class_posteriors_and_their_stationary_prior():
    val = make_split("val", 7)
    sums, counts = class_posteriors(val, val.joint, val.labels)
    slow = np.zeros((len(COUNTS), len(COUNTS)))
    for row, label in zip(logits_of(val.joint, val), val.labels, strict=True):
        slow[label] += np.exp(row) / np.exp(row).sum()
    assert np.allclose(sums, slow, atol=1e-5)
    q = stationary(sums, counts)
    assert np.allclose((slow / counts[:, None]).T @ q, q, atol=1e-6)
    values, vectors = np.linalg.eig((slow / counts[:, None]).T)
    exact = np.real(vectors[:, np.argmax(np.real(values))])
    assert np.allclose(q, exact / exact.sum(), atol=1e-5)


def test_the_eigenvector_prior_bears_a_class_without_rows():
    val = make_split("val").subset(np.flatnonzero(make_split("val").labels != 3))
    head = made("eigenprior", val, val.joint).head(1.0)
    assert np.isfinite(head.offset).all()


def test_the_label_free_prior_needs_no_labels_and_equals_a_slow_version():
    val = make_split("val")
    logits, classes = logits_of(val.joint, val), len(COUNTS)
    offset = np.zeros(classes)
    for _ in range(3):
        z = logits + offset
        p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        columns = []
        for k in range(classes):
            rows = [i for i in range(len(z)) if z[i].argmax() == k and np.diff(np.sort(z[i])[-2:])[0] > 1 / classes]
            columns.append(p[rows].mean(axis=0) if rows else None)
        kept = [i for i in range(len(z)) if np.diff(np.sort(z[i])[-2:])[0] > 1 / classes]
        columns = [p[kept].mean(axis=0) if column is None else column for column in columns]
        q = np.full(classes, 1 / classes)
        for _ in range(5000):
            q = np.array(columns).T @ q
        offset = offset - np.log(q)
    family = made("eigenprior-free", UnlabelledRows(val), val.joint, rounds=3)
    got = family.head().offset
    assert np.allclose(got - got.mean(), offset - offset.mean(), atol=2e-3)
    with pytest.raises(UsageError, match="rounds= must be at least 1, but is 0"):
        made("eigenprior-free", UnlabelledRows(val), val.joint, rounds=0)


# -- votes of pairs ---------------------------------------------------------------------------------------------------


def slow_votes(z, spread):
    classes = len(z)
    rho = math.acos(-1 / (classes - 1))
    scores = []
    for c in range(classes):
        wins = 0
        for other in range(classes):
            mine = rho * spread[other] / (spread[c] + spread[other])
            theirs = rho * spread[c] / (spread[c] + spread[other])
            k_mine = math.sin(mine) + math.cos(rho) * math.sin(theirs)
            k_theirs = math.sin(theirs) + math.cos(rho) * math.sin(mine)
            wins += other != c and z[c] * k_mine > z[other] * k_theirs
        scores.append(wins / classes)
    return scores


def test_pairwise_votes_equal_the_formula():
    val = make_split("val", 3)
    spread = (COUNTS / COUNTS.max()) ** 0.4
    got = logits_of(PairwiseHead(val.joint, spread), val)
    for row, votes in zip(logits_of(val.joint, val), got, strict=True):
        assert np.allclose(votes, slow_votes(row, spread), atol=1e-6)


def test_pairwise_votes_of_equal_classes_follow_the_logits():
    val = make_split("val")
    assert np.array_equal(predict(PairwiseHead(val.joint, np.ones(len(COUNTS))), val), predict(val.joint, val))


def test_two_classes_are_told_apart_by_orthogonal_weights():
    head = PairwiseHead(JointHead(2), np.array([1.0, 0.5]))
    assert head.votes(np.array([[1.0, 0.9], [0.4, 1.0], [1.0, 0.2]])).argmax(axis=1).tolist() == [1, 1, 0]
    assert head.rho == np.pi / 2


def test_pairwise_adjustment_uses_the_length_of_class_means(tmp_path):
    train, val = make_split("train"), make_split("val")
    head = made("pairwise", train, val.head, COUNTS).head_at(0.5)
    means = [np.linalg.norm(train.features[train.labels == c].mean(axis=0)) for c in range(len(COUNTS))]
    slow = np.array([n**0.5 * m for n, m in zip(COUNTS, means, strict=True)])
    assert np.allclose(head.spread / head.spread[0], slow / slow[0], rtol=1e-4)
    assert np.array_equal(predict(load_head(head.save(tmp_path / "head")), val), predict(head, val))
    with pytest.raises(DataError, match="positive values of a"):
        PairwiseHead(val.joint, np.zeros(len(COUNTS)))


# -- CausalNorm -------------------------------------------------------------------------------------------------------


def causal_norm_head(alpha=0.0):
    random = np.random.default_rng(3)
    return CausalNormHead(random.normal(size=(10, 16)), np.abs(random.normal(size=16)), alpha)


def slow_causal_norm(x, weight, embed, alpha, parts=2, scale=16.0, gamma=1 / 32):
    size, scores = len(x) // parts, []
    for w in weight:
        total = 0.0
        for k in range(parts):
            part = slice(k * size, (k + 1) * size)
            xk, ek, wk = x[part], embed[part], w[part]
            norm_x, norm_e = math.sqrt(sum(xk**2)), math.sqrt(sum(ek**2))
            cosine = float(xk @ ek) / norm_x / norm_e
            total += (
                scale
                / parts
                * float((xk / norm_x - alpha * cosine * ek / norm_e) @ wk)
                / (math.sqrt(sum(wk**2)) + gamma)
            )
        scores.append(total)
    return scores


def test_the_causal_norm_head_equals_its_formula(tmp_path):
    val, head = make_split("val", 3), causal_norm_head(1.5)
    for x, got in zip(val.features[:].astype(np.float64), logits_of(head, val), strict=True):
        assert np.allclose(
            got, slow_causal_norm(x, head.weight.astype(float), head.embed.astype(float), 1.5), atol=1e-4
        )
    loaded = load_head(head.save(tmp_path / "head"))
    assert np.array_equal(logits_of(loaded, val), logits_of(head, val))


def test_total_direct_effect_has_an_exact_curve():
    val = make_split("val")
    family = made("tde", causal_norm_head())
    curve = family.curve(val)
    for alpha in (0.0, 0.7, 1.5, 3.0):
        right = predict(family.head(alpha), val) == val.labels
        assert curve.at([alpha])[0].top1 == pytest.approx(right.mean(), abs=1 / len(val))


def test_total_direct_effect_reads_its_classifier_beside_the_features(folder):
    with pytest.raises(DataError, match="has no causal_norm.safetensors, which total direct effect needs"):
        Experiment(folder).run("tde")
    causal_norm_head().save(folder / "causal_norm.safetensors")
    outcome = Experiment(folder).run("tde")
    assert isinstance(outcome.head, CausalNormHead)
    assert outcome.params["alpha"] == outcome.best.value
    make_split("val").head.save(folder / "causal_norm.safetensors")
    with pytest.raises(DataError, match="must hold a CausalNorm head"):
        Experiment(folder).run("tde")


def test_a_causal_norm_head_of_wrong_shape_is_refused():
    with pytest.raises(DataError, match="needs 'weight'"):
        CausalNormHead(np.ones((3, 4)), np.ones(5))
    with pytest.raises(DataError, match="do not divide into 2 parts"):
        CausalNormHead(np.ones((3, 5)), np.ones(5))


# -- mixtures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", [True, False])
def test_a_mixture_has_the_curve_of_its_heads(stored, tmp_path):
    val = make_split("val", logits=stored)
    other = LinearHead(np.random.default_rng(5).normal(size=(10, 16)))
    family = Family.mixed(val.joint, other)
    curve = family.curve(val)
    for t in np.linspace(0, 1, 21):
        head = family.head(t)
        assert curve.at([t])[0].top1 == pytest.approx((predict(head, val) == val.labels).mean(), abs=1e-9)
        slow = (1 - t) * logits_of(val.head, val) + t * logits_of(other, val)
        assert np.allclose(logits_of(head, val), slow, atol=1e-4)
    assert family.head(0.3).linear() is not None
    loaded = load_head(family.head(0.3).save(tmp_path / "head"))
    assert np.allclose(logits_of(loaded, val), logits_of(family.head(0.3), val), atol=1e-5)


def test_a_mixture_with_a_head_that_is_not_linear_is_saved_whole(tmp_path):
    val = make_split("val")
    head = MixedHead(RescaledHead(JointHead(10), offset=np.arange(10.0)), causal_norm_head(), 0.4)
    loaded = load_head(head.save(tmp_path / "head"))
    assert head.linear() is None
    assert np.array_equal(logits_of(loaded, val), logits_of(head, val))
    with pytest.raises(DataError, match="must have the same C to be mixed, but have 10 and 3"):
        MixedHead(val.joint, LinearHead(np.ones((3, 16))), 0.5)


def test_two_heads_are_brought_to_one_scale(tmp_path):
    train, val = make_split("train"), make_split("val")
    family = made("mix", train, val.head)
    assert spread_of_logits(train, family.head(0.0)) == pytest.approx(1, rel=1e-4)
    assert spread_of_logits(train, family.head(1.0)) == pytest.approx(1, rel=1e-4)
    path = made("la", val.joint, COUNTS).head(1.0).save(tmp_path / "la.safetensors")
    ends = made("mix", train, val.head, other=str(path))
    assert np.array_equal(predict(ends.head(1.0), val), predict(load_head(path), val))
    with pytest.raises(DataError, match="no such head file"):
        made("mix", train, val.head, other="nowhere.safetensors")


def test_a_zero_shot_classifier_is_added_without_its_own_prior(folder):
    with pytest.raises(DataError, match="has no zero_shot.safetensors, which generalized logit adjustment needs"):
        Experiment(folder).run("gla")
    val, skew = make_split("val"), np.linspace(3, -3, 10)
    biased = LinearHead(val.head.weight, val.head.bias + skew)
    biased.save(folder / "zero_shot.safetensors")
    outcome = Experiment(folder).run("gla")
    assert outcome.head.linear() is not None
    families = [made("gla", val, val.joint, COUNTS, other, strength=1e-5) for other in (biased, val.head)]
    for t in (0.0, 0.5, 1.0):  # a bias of the zero-shot classifier makes no difference
        one, two = (logits_of(family.head(t), val) for family in families)
        assert np.abs((one - one[:, :1]) - (two - two[:, :1])).max() < 0.05
    assert np.array_equal(predict(families[0].head(0.0), val), predict(made("pc-softmax", *_tempered(val)).head(), val))


def _tempered(val):
    return fit_calibration([(val.joint, val)]).apply(val.joint), COUNTS


# -- two parameters ---------------------------------------------------------------------------------------------------


def crossed(val, values=(0.0, 0.5, 1.0)):
    log_pi, log_norms = log_prior(COUNTS), np.log(val.head.norms())
    return Family.crossed(
        "exponent",
        values,
        lambda value: Family.affine(RescaledHead(val.head, scale=np.exp(-value * log_norms)), log_pi),
    )


def test_two_parameters_are_chosen_together():
    val = make_split("val")
    family = crossed(val)
    curve = family.curve(val)
    best = curve.best("all", 0.0, 2.0)
    tried = {
        (value, tau): (predict(family.at({"exponent": value}).head(tau), val) == val.labels).mean()
        for value in (0.0, 0.5, 1.0)
        for tau in np.linspace(0, 2, 41)
    }
    assert best.score >= max(tried.values()) - 1e-9
    assert (predict(family.head_of(best), val) == val.labels).mean() == pytest.approx(best.score, abs=1e-9)
    assert np.array_equal(curve.correct_at(best), predict(family.head_of(best), val) == val.labels)
    low, high = curve.bootstrap_best("all", 0.0, 2.0, num=20)
    assert low <= high


def test_of_equal_outer_values_the_first_is_taken():
    val = make_split("val")
    family = Family.crossed("copy", (7.0, 3.0), lambda value: Family.affine(val.joint, log_prior(COUNTS)))
    best = family.curve(val).best()
    assert best.others == {"copy": 7.0}
    assert best.value == Family.affine(val.joint, log_prior(COUNTS)).curve(val).best().value


def test_families_may_be_crossed_twice():
    val = make_split("val")
    family = Family.crossed("outer", (1.0, 2.0), lambda value: crossed(val, (0.0, value)))
    best = family.curve(val).best("all", 0.0, 2.0)
    assert set(best.others) == {"outer", "exponent"}
    assert (predict(family.head_of(best), val) == val.labels).mean() == pytest.approx(best.score, abs=1e-9)


@pytest.mark.parametrize("most", [2**27, 0])
def test_a_shared_layer_is_multiplied_once_where_its_logits_fit(monkeypatch, most):
    monkeypatch.setattr("ltpost.family._SHARED_LOGITS", most)
    stored = make_split("val")
    val = FeatureSet(np.asarray(stored.features), stored.labels, head=stored.head, class_counts=COUNTS)
    read, plain = [], FeatureSet.read_features
    monkeypatch.setattr(FeatureSet, "read_features", lambda rows, key: (read.append(plain(rows, key)), read[-1])[1])
    best = crossed(val).curve(val).best("all", 0.0, 2.0)
    assert sum(map(len, read)) == len(val) * (1 if most else 3)
    expected = crossed(stored).curve(stored).best("all", 0.0, 2.0)
    assert best.others == expected.others
    assert (best.value, best.score) == pytest.approx((expected.value, expected.score), rel=1e-5)


def test_different_layers_are_multiplied_each():
    """One that is not shared must not take the place of the others."""
    val = make_split("val", logits=False)
    heads = {0.0: val.head, 1.0: LinearHead(val.head.weight[::-1])}
    family = Family.crossed("layer", (0.0, 1.0), lambda value: Family.affine(heads[value], log_prior(COUNTS)))
    curve = family.curve(val)
    for value, head in heads.items():
        expected = Family.affine(head, log_prior(COUNTS)).curve(val)
        np.testing.assert_array_equal(curve.curves[value].low, expected.low)


def test_a_head_of_two_parameters_needs_both():
    val = make_split("val")
    with pytest.raises(UsageError, match="a head has a exponent too"):
        crossed(val).head(1.0)
    with pytest.raises(UsageError, match="name at least one value of exponent"):
        crossed(val, ())
    with pytest.raises(UsageError, match="no second parameter beside x"):
        Family.crossed("x", (1.0,), lambda value: Family.single(val.joint))


def test_both_parameters_are_in_the_signature_the_row_and_the_json(folder):
    outcome = Experiment(folder).run("tnorm-la", exponents=(0.0, 0.4, 0.8))
    best = outcome.best
    assert outcome.params["tau"] == best.value
    assert outcome.params["exponent"] == best.others["exponent"]
    assert f"exponent:{best.others['exponent']:.6g}" in outcome.signature
    row = next(result for result in outcome.results if result.name == "tnorm-la")
    assert f"exponent {best.others['exponent']:.4g}" in row.detail
    assert outcome.as_dict()["best"]["exponent"] == best.others["exponent"]
    assert outcome.curve.at([best.value])[0].all == pytest.approx(best.score)


def test_tau_normalization_with_adjustment_contains_both(folder):
    val = make_split("val")
    both = made("tnorm-la", val.head, COUNTS, bias="drop", exponents=(0.0, 0.6))
    la = made("la", RescaledHead(val.head, offset=-val.head.bias), COUNTS)
    assert both.at({"exponent": 0.0}).curve(val).at([0.0, 0.7, 1.4]) == la.curve(val).at([0.0, 0.7, 1.4])
    tnorm = made("tnorm", val.head)
    assert both.at({"exponent": 0.6}).curve(val).at([0.0]) == tnorm.curve(val).at([0.6])


def test_crt_with_adjustment_contains_crt():
    train, val = make_split("train"), make_split("val")
    both = made("crt-la", train, COUNTS, reweighting=(0.0, 1.0), strengths=(0.1, 0.01), solver="convex", progress=False)
    crt = made("crt", train, strengths=(0.1, 0.01), solver="convex", progress=False)
    head = both.at({"reweighting": 1.0, "strength": 0.01}).head(0.0)
    assert np.allclose(logits_of(head, val), logits_of(crt.head(0.01), val), atol=2e-2)
    best = both.curve(val).best("all", 0.0, 2.0)
    assert set(best.others) == {"reweighting", "strength"}
    with pytest.raises(UsageError, match="reweighting= must hold finite numbers"):
        made("crt-la", train, COUNTS, reweighting=(math.inf,))


def test_crt_with_adjustment_by_sgd_has_no_strength():
    train, val = make_split("train"), make_split("val")
    family = made("crt-la", train, COUNTS, reweighting=(0.0,), epochs=2, progress=False)
    assert family.curve(val).best("all", 0.0, 2.0).others == {"reweighting": 0.0}
