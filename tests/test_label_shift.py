"""Estimating the class prior of unlabelled rows."""

import math

import numpy as np
import pytest

from ltpost import methods
from ltpost.calibration import fit_calibration
from ltpost.data.features import FeatureSet
from ltpost.data.priors import log_prior
from ltpost.data.unlabelled import UnlabelledRows
from ltpost.errors import DataError, UsageError
from ltpost.experiment import Experiment
from ltpost.heads import JointHead, RescaledHead
from ltpost.methods.black_box_shift import solve_prior
from ltpost.methods.label_shift_map import rule
from ltpost.methods.regularized_shift import solve_weights
from ltpost.model_selection import Selection
from ltpost.scores.label_shift import confusion, maximum_likelihood, mean_prediction
from ltpost.scores.predict import predict
from tests.conftest import COUNTS, SHARED, make_split, needs_shared_data


def rows_of(logits, labels=None):
    labels = np.zeros(len(logits), dtype=int) if labels is None else labels
    return FeatureSet(labels=labels, logits=np.asarray(logits, dtype=np.float32))


def estimate(logits, log_source, **options):
    rows = rows_of(logits)
    return maximum_likelihood(UnlabelledRows(rows), rows.joint, log_source, **options)


def drawn(prior, source, num=4000, seed=0, sharpness=2.0):
    """Rows of classes drawn from ``prior``, with the true log posterior under ``source`` as logits."""
    random = np.random.default_rng(seed)
    labels = random.choice(len(prior), num, p=prior)
    evidence = random.normal(size=(num, len(prior)))
    evidence[np.arange(num), labels] += sharpness
    # p(x | c) ∝ exp(sharpness · x_c) for unit normal noise
    return rows_of(sharpness * evidence + np.log(source), labels)


def slow_em(logits, source, steps):
    prior = list(source)
    for _ in range(steps):
        total = [0.0] * len(prior)
        for row in logits:
            e = [math.exp(z) * q / s for z, q, s in zip(row, prior, source, strict=True)]
            total = [t + v / sum(e) for t, v in zip(total, e, strict=True)]
        prior = [t / len(logits) for t in total]
    return np.array(prior)


SOURCE = np.array([0.6, 0.3, 0.1])
TRUE = np.array([0.1, 0.3, 0.6])


def test_em_ends_where_the_slow_one_ends():
    logits = drawn(TRUE, SOURCE, 200).logits[:].astype(float)
    log_q, _, converged = estimate(logits, np.log(SOURCE), tolerance=1e-10)
    assert converged
    assert np.allclose(np.exp(log_q), slow_em(logits, SOURCE, 2000), atol=1e-7)


def test_em_finds_the_prior_of_rows_whose_posteriors_are_right():
    log_q, _, _ = estimate(drawn(TRUE, SOURCE, 20_000).logits[:], np.log(SOURCE))
    assert np.abs(np.exp(log_q) - TRUE).sum() < 0.03


def test_em_does_not_change_a_prior_that_is_right_already():
    log_q, _, _ = estimate(drawn(SOURCE, SOURCE, 20_000).logits[:], np.log(SOURCE))
    assert np.abs(np.exp(log_q) - SOURCE).sum() < 0.03


def test_two_hundred_equal_priors_do_not_underflow():
    """QuaPy's product of 200 priors of 1/200 is 0, and it then changes them all."""
    assert np.prod(np.full(200, 1 / 200)) == 0.0
    uniform = np.full(200, 1 / 200)
    log_q, _, converged = estimate(drawn(uniform, uniform, 20_000, sharpness=4.0).logits[:], np.log(uniform))
    assert converged
    assert np.exp(log_q).sum() == pytest.approx(1)
    assert np.abs(np.exp(log_q) - uniform).sum() < 0.2


def test_tail_priors_of_a_thousand_classes_stay_as_they_are():
    """Rows that say nothing beyond the prior leave it; adding 1e-4 to each would triple the rarest ones."""
    counts = np.geomspace(1280, 5, 1000)
    log_pi = np.log(counts / counts.sum())
    assert np.exp(log_pi).min() < 5e-5
    log_q, _, _ = estimate(np.tile(log_pi, (50, 1)), log_pi)
    assert np.allclose(log_q, log_pi, atol=1e-5)


def test_a_class_that_no_row_can_be_of_vanishes_without_a_nan():
    logits = np.tile([0.0, 0.0, -2000.0], (30, 1))
    log_q, _, _ = estimate(logits, np.log(np.full(3, 1 / 3)))
    assert np.allclose(np.exp(log_q), [0.5, 0.5, 0.0])
    assert np.isfinite(log_q).all()


def test_em_says_when_it_gave_up():
    assert estimate(drawn(TRUE, SOURCE, 300).logits[:], np.log(SOURCE), tolerance=0.0, most=7)[2] is False


@needs_shared_data
def test_em_on_real_probabilities_has_the_likelihood_of_an_optimum():
    """At the maximum, the mean of p_c / Σ q p is 1 where q_c > 0 and at most 1 elsewhere (Kuhn and Tucker)."""
    data = np.load(SHARED / "netcal" / "wideresnet-16-4-cifar-100.npz")
    keep = np.random.default_rng(0).random(10_000) < 10.0 ** (-data["ground_truth"] / 99)
    p = data["predictions"][keep].astype(np.float64)
    log_q, _, converged = estimate(np.log(p), np.full(100, -np.log(100)), tolerance=1e-9)
    q = np.exp(log_q)
    ratios = (p / (p @ q)[:, None]).mean(axis=0)
    assert converged
    assert np.allclose(ratios[q > 1e-4], 1, atol=1e-4)
    assert (ratios <= 1 + 1e-4).all()
    true = np.bincount(data["ground_truth"][keep], minlength=100) / keep.sum()
    assert np.abs(q - true).sum() < 0.5 * np.abs(0.01 - true).sum()


# -- methods ----------------------------------------------------------------------------------------------------------


def made(key, *needs, **options):
    return methods.get(key)(*needs, **options).head()


def test_em_adjusts_to_the_prior_that_it_finds():
    val = make_split("val")
    head = made("em", UnlabelledRows(val), val.joint, COUNTS)
    log_pi = log_prior(COUNTS)
    log_q, _, _ = maximum_likelihood(UnlabelledRows(val), val.joint, log_pi, uniform_share=1 / (len(val) + 1))
    assert np.allclose(head.offset, log_q - log_pi)


@pytest.mark.parametrize("key", ["em", "map-em"])
def test_no_class_vanishes(key):
    rows = rows_of(np.tile([0.0, 0.0, -50.0], (30, 1)))
    options = {"trust": 1.0} if key == "map-em" else {}
    head = made(key, UnlabelledRows(rows), rows.joint, np.array([5, 5, 5]), **options)
    assert np.exp(head.offset - head.offset.max())[2] == pytest.approx(1 / 3 / 31 / (15.0 + 1 / 3) * 31, rel=0.05)


def test_em_runs_on_calibrated_posteriors_where_it_says_so():
    val, test = make_split("val"), make_split("test")
    head = made("em-bcts", val, UnlabelledRows(test), val.joint, COUNTS)
    adjusted = RescaledHead(val.joint, offset=-log_prior(COUNTS))
    calibrated = fit_calibration([(adjusted, val)], "bcts", balanced=True, strength=1e-2).apply(adjusted)
    uniform = np.full(10, -np.log(10))
    right, _, _ = maximum_likelihood(UnlabelledRows(test), calibrated, uniform, uniform_share=1 / (len(test) + 1))
    wrong, _, _ = maximum_likelihood(UnlabelledRows(test), adjusted, uniform)
    found = head.offset - calibrated.offset
    assert np.allclose(found, right, atol=1e-6)
    assert not np.allclose(found, wrong, atol=1e-2)


def test_map_em_with_full_trust_is_em():
    val = make_split("val")
    one, two = (
        made("map-em", UnlabelledRows(val), val.joint, COUNTS, trust=1.0),
        made("em", UnlabelledRows(val), val.joint, COUNTS),
    )
    assert np.allclose(one.offset, two.offset)


def test_map_em_is_a_fixed_point_of_its_step():
    logits, trust = drawn(TRUE, SOURCE, 300).logits[:].astype(float), 0.6
    log_q, _, _ = estimate(logits, np.log(SOURCE), uniform_share=1 - trust, tolerance=1e-11)
    e = np.exp(logits) * np.exp(log_q) / SOURCE
    step = trust * (e / e.sum(axis=1, keepdims=True)).mean(axis=0) + (1 - trust) / 3
    assert np.allclose(step, np.exp(log_q), atol=1e-9)


def test_the_trust_of_map_em_by_its_formula():
    pi, q = SOURCE, TRUE
    u = [1 / 3] * 3

    def kl(a, b):
        return sum(x * math.log(x / y) for x, y in zip(a, b, strict=True))

    def g(k, v):
        return v * k / (1 + v * k)

    v0 = (1 / (1 - 0.2) - 1) / 0.5
    s = 1 - g(kl(pi, u), v0)
    v1 = (1 / (1 - s) - 1) / 0.5
    slow = 0.9 * g(kl(q, u), v1) + 0.1 * (1 - g(kl(q, pi), v1))
    assert rule(np.log(pi), np.log(q)) == pytest.approx(slow)
    assert 0 < rule(np.log(np.array(u)), np.log(q)) <= 1


def test_confusion_and_mean_predictions_count_rows():
    val = make_split("val", 4)
    z = val.logits[:].astype(float)
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    for kind, values in (("hard", np.eye(10)[z.argmax(axis=1)]), ("soft", p)):
        table, there = confusion(val, val.joint, kind)
        assert there.all()
        for c in range(10):
            assert np.allclose(table[:, c], values[val.labels == c].mean(axis=0), atol=1e-6)
        assert np.allclose(mean_prediction(UnlabelledRows(val), val.joint, kind), values.mean(axis=0), atol=1e-6)


@pytest.mark.parametrize("predictions", ["hard", "soft"])
def test_moments_of_the_rows_themselves_give_their_own_prior(predictions):
    val = make_split("val")
    skewed = val.subset(np.flatnonzero((val.labels != 2) | (np.arange(len(val)) % 3 == 0)))
    head = made("bbse", val, UnlabelledRows(skewed), val.joint, COUNTS, predictions=predictions)
    shares = np.bincount(skewed.labels, minlength=10) / len(skewed)
    q = np.exp(head.offset + log_prior(COUNTS))
    assert np.abs(q - shares).sum() < 0.15
    assert np.abs(q - shares).sum() < np.abs(0.1 - shares).sum() * 2


def test_a_ridge_pulls_to_the_uniform_prior():
    table, mean = np.array([[0.9, 0.2], [0.1, 0.8]]), np.array([0.8, 0.2])
    there = np.array([True, True])
    (exact, _), (pulled, _) = solve_prior(table, mean, there, 0.0), solve_prior(table, mean, there, 100.0)
    assert np.allclose(table @ exact, mean)
    assert np.allclose(pulled, 0.5, atol=0.01)
    pull = 0.3 * np.linalg.norm(table, 2) ** 2
    slow = np.linalg.solve(table.T @ table + pull * np.eye(2), table.T @ mean + pull * 0.5)
    assert np.allclose(solve_prior(table, mean, there, 0.3)[0], slow / slow.sum())
    assert solve_prior(np.array([[0.9, 0.0], [0.1, 0.0]]), np.array([0.9, 0.1]), np.array([True, False]), 0.0)[0][1] > 0


def test_a_confusion_that_is_nearly_singular_is_noted():
    val = make_split("val")
    alike = np.asarray(val.logits[:])[:, [0, 1, 2, 3, 4, 5, 6, 7, 8, 8]] + np.eye(10)[9] * 1e-3
    rows = rows_of(alike, val.labels)
    family = methods.get("bbse")(rows, UnlabelledRows(rows), rows.joint, COUNTS, predictions="soft")
    assert "K is nearly singular" in family.notes[1]
    assert len(methods.get("bbse")(rows, UnlabelledRows(rows), rows.joint, COUNTS, ridge=0.1).notes) == 1


def test_the_prior_of_the_reported_rows_is_in_the_notes(folder):
    outcome = Experiment(folder).run("em")
    test = make_split("test")
    family = methods.get("em")(UnlabelledRows(test), test.joint, COUNTS)
    assert outcome.notes[0] == family.notes[0]
    assert outcome.notes[0].startswith("class prior found: many ")


def test_rlls_solves_its_problem():
    random = np.random.default_rng(0)
    table = np.eye(4) / 4 + 0.02 * random.random((4, 4))
    change, penalty = 0.1 * random.normal(size=4), 0.01
    theta = solve_weights(table, change, penalty)

    def value(t):
        return np.linalg.norm(table @ t - change) + penalty * np.linalg.norm(t)

    assert (theta >= -1).all()
    for _ in range(300):
        other = np.maximum(theta + random.normal(scale=0.02, size=4), -1)
        assert value(other) >= value(theta) - 1e-9


def test_rlls_with_a_strong_penalty_keeps_the_uniform_prior():
    val = make_split("val")
    head = made("rlls", val, UnlabelledRows(val.subset(np.arange(60))), val.joint, COUNTS, alpha=100.0)
    pc = made("pc-softmax", val.joint, COUNTS)
    assert np.allclose(head.offset - head.offset[0], pc.offset - pc.offset[0], atol=1e-4)


def test_wrong_options_are_named():
    val = make_split("val")
    rows = UnlabelledRows(val)
    with pytest.raises(UsageError, match="ridge= must be 0 or more, but is -1"):
        made("bbse", val, rows, val.joint, COUNTS, ridge=-1.0)
    with pytest.raises(UsageError, match="alpha= must be 0 or more and delta= between 0 and 1"):
        made("rlls", val, rows, val.joint, COUNTS, delta=1.0)
    with pytest.raises(UsageError, match="trust= must be above 0 and at most 1, but is 0"):
        made("map-em", rows, val.joint, COUNTS, trust=0.0)
    with pytest.raises(DataError, match="has no rows, so their class prior cannot be estimated"):
        made("em", UnlabelledRows(val.subset(np.array([], dtype=int))), val.joint, COUNTS)


def test_every_method_runs_where_only_logits_are_stored(tmp_path):
    for split in ("val", "test"):
        source = make_split(split)
        FeatureSet(labels=source.labels, logits=source.logits, class_counts=COUNTS, split=split).save(
            tmp_path / f"{split}.h5"
        )
    experiment = Experiment(tmp_path)
    for key in ("em", "em-bcts", "map-em", "bbse", "rlls", "eigenprior-free"):
        outcome = experiment.run(key)
        assert "transductive" in outcome.results[1].detail
        assert isinstance(outcome.head.base, JointHead)


def test_a_fold_is_judged_by_a_prior_that_is_estimated_on_the_fold():
    """The rows of a fold are the target of what was fitted to the other folds."""
    seen = []

    def family_of(fit_to, target):
        seen.append((len(fit_to), len(target), np.array_equal(fit_to.labels, target.labels)))
        return methods.get("bbse")(fit_to, UnlabelledRows(target), fit_to.joint, COUNTS)

    val = make_split("val")
    Selection().cross_fit_fitted(val, family_of)
    assert [(fit, target) for fit, target, _ in seen] == [(240, 60)] * 5


@pytest.mark.parametrize("key", ["em", "map-em"])
def test_shifts_help_on_shifted_rows(key):
    """Rows in the reverse of the training prior: adjusting to the prior that is found beats the uniform one."""
    rows, counts = drawn(TRUE, SOURCE, 10_000, sharpness=1.0), 1000 * SOURCE
    found, uniform = made(key, UnlabelledRows(rows), rows.joint, counts), made("pc-softmax", rows.joint, counts)
    assert (predict(found, rows) == rows.labels).mean() > (predict(uniform, rows) == rows.labels).mean() + 0.03
