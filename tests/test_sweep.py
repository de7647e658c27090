from fractions import Fraction

import numpy as np
import pytest
from conftest import COUNTS, make_split
from hypothesis import given, settings
from hypothesis import strategies as st

from ltpost import DataError, FeatureSet, LinearHead, UsageError
from ltpost.data.priors import shot_groups
from ltpost.heads import RescaledHead
from ltpost.heads.blocks import score_blocks
from ltpost.scores.exact import ExactCurve
from ltpost.scores.intervals import Slopes, affine_interval, quick_interval, scaled_interval
from ltpost.scores.metrics import FIGURES
from ltpost.scores.predict import predict
from ltpost.scores.sweep import affine_curve, mixing_curve, scaled_curve
from ltpost.scores.tabulated import GridCurve

# -- slow references: one row, one class, one comparison at a time ----------------------------------------------------


def slow_affine_winner(scores, slope, t):
    """argmax_c a_c - t b_c in exact arithmetic, the lowest class of a tie."""
    best, winner = None, None
    for c, (a, b) in enumerate(zip(scores, slope, strict=True)):
        value = Fraction(float(a)) - Fraction(t) * Fraction(float(b))
        if best is None or value > best:
            best, winner = value, c
    return winner


def slow_scaled_winner(scores, base, power):
    """argmax_c z_c / base_c^power for whole powers, in exact arithmetic."""
    best, winner = None, None
    for c, (z, n) in enumerate(zip(scores, base, strict=True)):
        value = Fraction(float(z)) / Fraction(float(n)) ** power
        if best is None or value > best:
            best, winner = value, c
    return winner


def one_label(interval, scores, label, slope):
    """Rows (n, C) of one class."""
    low, high = interval(scores[None], np.array([label]), slope)
    return low[0], high[0]


halves = st.integers(-6, 6).map(lambda k: k / 2)


@given(
    scores=st.lists(st.lists(halves, min_size=4, max_size=4), min_size=1, max_size=6),
    slope=st.lists(halves, min_size=4, max_size=4),
    label=st.integers(0, 3),
)
@settings(max_examples=300, deadline=None)
def test_affine_interval_is_exact_with_ties(scores, slope, label):
    scores, slope = np.array(scores), np.array(slope)
    low, high = one_label(affine_interval, scores, label, slope)
    for t in [Fraction(k, 4) for k in range(-30, 31)]:
        for row in range(len(scores)):
            right = slow_affine_winner(scores[row], slope, t) == label
            assert (low[row] <= float(t) <= high[row]) == right, (scores[row], slope, label, t)


@given(
    scores=st.lists(st.lists(halves, min_size=4, max_size=4), min_size=2, max_size=6),
    slope=st.lists(halves, min_size=4, max_size=4),
    data=st.data(),
)
@settings(max_examples=100, deadline=None)
def test_blocks_of_classes_equal_rows_of_one_class(scores, slope, data):
    labels = np.array([data.draw(st.integers(0, 3)) for _ in scores])
    scores, slope = np.stack([scores, np.round(scores)], axis=1), np.array(slope)  # (k, 2, C), with zeros
    for interval in (affine_interval, scaled_interval):
        low, high = interval(scores, labels, slope)
        for k, label in enumerate(labels):
            expected = one_label(interval, scores[k], label, slope)
            np.testing.assert_array_equal((low[k], high[k]), expected)


@given(
    scores=st.lists(st.lists(st.integers(-4, 4).map(float), min_size=4, max_size=4), min_size=1, max_size=6),
    base=st.lists(st.sampled_from([0.5, 1.0, 2.0, 4.0]), min_size=4, max_size=4),
    label=st.integers(0, 3),
)
@settings(max_examples=300, deadline=None)
def test_scaled_interval_is_exact_with_ties_zeros_and_negative_scores(scores, base, label):
    # logarithms in base 2 of these norms, and of scores that are powers of 2, are exact; other scores never tie
    scores, base = np.array(scores), np.array(base)
    low, high = one_label(scaled_interval, scores, label, np.log(base))
    for power in range(-5, 6):
        for row in range(len(scores)):
            right = slow_scaled_winner(scores[row], base, power) == label
            near_end = min(abs(low[row] - power), abs(high[row] - power)) < 1e-12  # log rounds: a tie may go either way
            assert near_end or (low[row] <= power <= high[row]) == right, (scores[row], base, label, power)


# scores and slopes at which float32 may be wrong: ties, near ties, what is not positive, what over- or underflows
AWKWARD_SCORES = [0.0, 1.0, 1.0 + 2**-23, -1.0, 1e-45, -1e-45, 1e-38, 1e30, 3e38, -3e38]
AWKWARD_SLOPES = [0.0, 1.0, 1.0 + 1e-15, 1.0 + 1e-9, 1.0 + 1e-5, 1e-36, 1e30, -1e36]
WILD_SLOPES = [1e-300, 1e-40, 1e39, 1e300, -1e-45]
awkward_score = st.one_of(st.sampled_from(AWKWARD_SCORES), st.floats(-8, 8, width=32))
awkward_slope = st.one_of(
    st.sampled_from(AWKWARD_SLOPES),
    st.floats(-3, 3),  # the smallest of which differ by less than float32 can hold
)
wild_slope = st.one_of(awkward_slope, st.sampled_from(WILD_SLOPES))


def assert_quick_interval_equals_float64(scores, labels, slope, scaled):
    low, high = quick_interval(scores, labels, Slopes(slope), scaled=scaled)
    expected_low, expected_high = (scaled_interval if scaled else affine_interval)(scores, labels, slope)
    if scaled and np.ptp(slope) > 0:
        reach = 587 / float(np.ptp(slope))
        for ends in (low, expected_low):
            ends[ends < -reach] = -np.inf
        for ends in (high, expected_high):
            ends[ends > reach] = np.inf
    np.testing.assert_array_equal(low, expected_low, err_msg=f"{scores!r} {labels} {slope!r} {scaled}")
    np.testing.assert_array_equal(high, expected_high, err_msg=f"{scores!r} {labels} {slope!r} {scaled}")


@given(data=st.data(), scaled=st.booleans(), num_classes=st.integers(1, 7))
@settings(max_examples=150, deadline=None)
def test_quick_interval_equals_float64(data, scaled, num_classes):
    classes = st.lists(awkward_score, min_size=num_classes, max_size=num_classes)
    scores = np.array(data.draw(st.lists(classes, min_size=4, max_size=4)), np.float32).reshape(2, 2, num_classes)
    some_slope = data.draw(st.sampled_from([awkward_slope, wild_slope]))
    slope = np.array(data.draw(st.lists(some_slope, min_size=num_classes, max_size=num_classes)))
    labels = np.array(data.draw(st.lists(st.integers(0, num_classes - 1), min_size=2, max_size=2)))
    assert_quick_interval_equals_float64(scores, labels, slope, scaled)


@pytest.mark.parametrize("seed", range(8))
def test_quick_interval_equals_float64_on_thousands_of_awkward_rows(seed):
    """The same values, drawn by numpy, which is a hundred times as fast."""
    rng = np.random.default_rng(seed)

    def drawn(special, low, high, shape):
        return np.where(rng.random(shape) < 0.5, rng.choice(special, shape), rng.uniform(low, high, shape))

    for _ in range(250):
        num_classes, num_labels = rng.integers(1, 8), rng.integers(1, 4)
        scores = drawn(AWKWARD_SCORES, -8, 8, (num_labels, 5, num_classes)).astype(np.float32)
        special = AWKWARD_SLOPES if rng.random() < 0.5 else [*AWKWARD_SLOPES, *WILD_SLOPES]
        slope = drawn(special, -3, 3, num_classes)
        labels = rng.integers(0, num_classes, num_labels)
        assert_quick_interval_equals_float64(scores, labels, slope, scaled=bool(rng.random() < 0.5))


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("spread", [1.0, 1e-3, 1e-7], ids=["apart", "close", "as close as float32 can tell"])
def test_quick_interval_equals_float64_on_rows_like_real_ones(scaled, spread):
    rng = np.random.default_rng(7)
    scores = rng.normal(2, 3, size=(20, 30, 200)).astype(np.float32)
    scores[..., :20] = scores[..., :1] + spread * 1e-4 * scores[..., :20]  # near ties
    labels, slope = rng.choice(200, 20, replace=False), spread * rng.normal(size=200)
    slope[50:60] = slope[50]
    quick = np.stack(quick_interval(scores, labels, Slopes(slope), scaled=scaled))
    plain = np.stack((scaled_interval if scaled else affine_interval)(scores, labels, slope))
    within = np.abs(plain) < 587 / float(np.ptp(slope)) if scaled else np.ones(plain.shape, dtype=bool)
    np.testing.assert_array_equal(quick[within], plain[within])
    assert within.mean() > 0.2


def argmax_at(z, slope, labels, t):
    return (z.astype(np.float64) - t * slope).argmax(axis=1) == labels


def test_affine_curve_equals_argmax_at_hundreds_of_values():
    split = make_split("val", 40, seed=5)
    slope = np.log(COUNTS / COUNTS.sum())
    curve = affine_curve(split, slope, None)
    for t in np.random.default_rng(0).uniform(-3, 5, 300):
        np.testing.assert_array_equal(curve.correct(t), argmax_at(split.logits, slope, split.labels, t))


@pytest.mark.parametrize("shift", [0.0, -3.0, -100.0], ids=["mixed", "mostly negative", "all negative"])
def test_scaled_curve_equals_argmax_at_hundreds_of_values(shift):
    split = make_split("val", 40, seed=6)
    z = split.logits + np.float32(shift)
    split = FeatureSet(labels=split.labels, logits=z)
    slope = np.random.default_rng(1).normal(size=len(COUNTS))
    curve = scaled_curve(split, slope, None)
    ever_right = 0
    for t in np.random.default_rng(0).uniform(-3, 3, 300):
        right = (z.astype(np.float64) * np.exp(-t * slope)).argmax(axis=1) == split.labels
        np.testing.assert_array_equal(curve.correct(t), right)
        ever_right += right.sum()
    assert ever_right > 0


@pytest.mark.parametrize("elements", [10, 200, 2**17])
@pytest.mark.parametrize("logits", [True, False], ids=["stored logits", "from features"])
def test_rows_in_any_order_in_blocks_of_any_size(monkeypatch, elements, logits):
    train = make_split("train", logits=logits)  # classes of 3 to 400 rows
    slope = np.log(COUNTS / COUNTS.sum())
    whole = affine_curve(train, slope, None)
    shuffled = np.random.default_rng(0).permutation(len(train))
    monkeypatch.setattr("ltpost.scores.on_cpu._BLOCK_ELEMENTS", elements)
    monkeypatch.setattr("ltpost.data.matrices.BLOCK_ELEMENTS", 3 * elements)
    part = affine_curve(train.subset(shuffled), slope, None)
    np.testing.assert_allclose(part.low, whole.low[shuffled], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(part.high, whole.high[shuffled], rtol=1e-3, atol=1e-4)
    for t in (0.0, 0.7, 1.3):
        right = np.concatenate([(z - t * slope).argmax(1) for _, z in score_blocks(train.joint, train)]) == train.labels
        np.testing.assert_array_equal(whole.correct(t), right)


def test_from_features_equals_from_stored_logits():
    with_logits, without = make_split("val"), make_split("val", logits=False)
    slope = np.log(COUNTS / COUNTS.sum())
    one, other = affine_curve(with_logits, slope, None), affine_curve(without, slope, None)
    np.testing.assert_allclose(one.low, other.low, rtol=1e-5)
    assert not without.has_logits


@pytest.mark.parametrize("curve", [affine_curve, scaled_curve])
@pytest.mark.parametrize("shift", [0.0, -3.0, -100.0], ids=["mixed", "mostly negative", "all negative"])
def test_torch_sweep_equals_numpy(curve, shift):
    split = make_split("val", 20)
    z = np.round(split.logits + np.float32(shift), 1)  # rounded: with ties, and zeros
    split = FeatureSet(labels=split.labels, logits=z)
    slope = np.round(np.random.default_rng(1).normal(size=len(COUNTS)), 1)
    ours, torchs = curve(split, slope, None), curve(split, slope, None, device="cpu:0")
    np.testing.assert_allclose(torchs.low, ours.low, rtol=1e-12)
    np.testing.assert_allclose(torchs.high, ours.high, rtol=1e-12)
    ever = ours.low <= ours.high
    np.testing.assert_array_equal(ever, torchs.low <= torchs.high)
    assert ever.any()


def test_a_sweep_leaves_the_logits_alone():
    split = make_split("val", 5)
    before = np.array(split.logits)
    affine_curve(split, np.arange(10.0), None)
    scaled_curve(split, np.arange(10.0), None)
    np.testing.assert_array_equal(split.logits, before)


def test_torch_predictions_equal_numpy():
    for split in (make_split("val"), make_split("val", logits=False)):
        for head in (
            split.head,
            RescaledHead(split.head, np.linspace(0.5, 2, 10)),
            LinearHead(split.head.weight[:, ::-1]),
        ):
            np.testing.assert_array_equal(predict(head, split, "cpu:0"), predict(head, split))


def test_mixing_curve_equals_argmax():
    one, other = make_split("val", 20), make_split("val", 20, bias=False)
    head = LinearHead(np.random.default_rng(0).normal(size=(10, 16)))
    curve = mixing_curve(one, one.head, head, None, other=other)
    z, z_other = one.logits.astype(float), head.logits(other.features).astype(float)
    for t in np.random.default_rng(1).uniform(-1, 2, 200):
        right = ((1 - t) * z + t * z_other).argmax(1) == one.labels
        np.testing.assert_array_equal(curve.correct(t), right)
    with pytest.raises(DataError, match="must hold the same rows"):
        mixing_curve(one, one.head, head, None, other=make_split("val", 21))


# -- the curve --------------------------------------------------------------------------------------------------------


def toy_curve():
    """Two classes; right on [0, 2], [1, 3], [1, 1.5] (class 0) and everywhere (class 1), never."""
    low = np.array([0.0, 1.0, 1.0, -np.inf, np.inf])
    high = np.array([2.0, 3.0, 1.5, np.inf, -np.inf])
    labels = np.array([0, 0, 0, 1, 1])
    return ExactCurve("tau", low, high, labels, shot_groups(np.array([500, 5])), 2)


def test_figures_of_a_curve_by_hand():
    rows = toy_curve().at([-1, 0, 1, 1.5, 1.6, 2, 2.5, 4])
    assert [round(row.many * 3) for row in rows] == [0, 1, 3, 3, 2, 2, 1, 0]
    assert all(row.few == 0.5 for row in rows)
    assert all(np.isnan(row.medium) for row in rows)
    assert rows[2].all == pytest.approx(0.75)
    assert rows[2].top1 == pytest.approx(4 / 5)


def test_best_plateau_by_hand():
    best = toy_curve().best("all")
    assert (best.low, best.high) == pytest.approx((1.0, 1.5))
    assert best.value == best.tau == pytest.approx(1.25)
    assert best.score == pytest.approx(0.75)
    inside = toy_curve().best("all", 1.7, 10)
    assert (inside.low, inside.high) == pytest.approx((1.7, 2.0))
    everywhere = toy_curve().best("few")
    assert (everywhere.low, everywhere.high) == (-np.inf, np.inf)
    assert np.isfinite(everywhere.value)


def test_best_agrees_with_a_fine_scan():
    curve = affine_curve(make_split("val", 25), np.log(COUNTS / COUNTS.sum()), shot_groups(COUNTS))
    values = np.array([[getattr(row, name) for name in FIGURES] for row in curve.at(np.linspace(0, 2, 20_001))])
    for select in ("all", "many", "medium", "few", "top1", "harmonic"):
        with np.errstate(divide="ignore"):
            score = 3 / (1 / values[:, :3]).sum(axis=1) if select == "harmonic" else values[:, FIGURES.index(select)]
        best = curve.best(select, 0, 2)
        sizes = 25 * np.array([4, 3, 3])  # rows of many, medium and few
        share = {"many": 1 / sizes[0], "medium": 1 / sizes[1], "few": 1 / sizes[2], "harmonic": (1 / sizes).sum() / 9}
        top = score.max()
        error = (top * (1 - top) * share.get(select, 1 / 250)) ** 0.5
        near = np.linspace(0, 2, 20_001)[score >= top - 0.5 * error - 1e-9]
        assert best.score >= top - 0.5 * error - 1e-9
        assert (best.low, best.high) == pytest.approx((near[0], near[-1]), abs=2e-4)
        middle = (near[0] + near[-1]) / 2
        assert abs(best.value - middle) <= np.abs(near - middle).min() + 0.02, "the near-best value next to the middle"
        at_best = curve.at([best.value])[0]
        achieved = getattr(at_best, select, None) or 3 / sum(1 / getattr(at_best, name) for name in FIGURES[:3])
        assert achieved == pytest.approx(best.score)


def test_the_middle_of_the_near_best_is_taken_and_not_the_top():
    """100 rows are right from 0 to 10, one more from 0.2 to 0.3 only: that one is noise."""
    low, high = np.zeros(101), np.full(101, 10.0)
    low[0], high[0] = 0.2, 0.3
    never = np.full(60, np.inf)
    labels = np.zeros(161, int)
    best = ExactCurve("tau", np.append(low, never), np.append(high, -never), labels, None, 1).best("all", 0, 20)
    assert (best.low, best.high) == pytest.approx((0, 10))
    assert best.value == pytest.approx(5)
    assert best.score == pytest.approx(100 / 161)


def test_between_near_best_values_may_lie_worse_ones():
    """Two peaks: the middle between them is in a valley, and the near-best value next to it is taken."""
    low = np.concatenate([np.full(60, 0.0), np.full(60, 7.0), np.full(30, np.inf)])
    high = np.concatenate([np.full(60, 3.0), np.full(60, 10.0), np.full(30, -np.inf)])
    best = ExactCurve("tau", low, high, np.zeros(150, int), None, 1).best("all", 0, 20)
    assert (best.low, best.high) == pytest.approx((0, 10))
    assert best.score == pytest.approx(60 / 150)
    assert not 3 < best.value < 7


def test_a_tied_point_is_not_chosen_over_a_plateau():
    # two rows meet in one point, t = 1, where both are right; a plateau of positive width is preferred
    low, high = np.array([0.0, 1.0]), np.array([1.0, 3.0])
    curve = ExactCurve("tau", low, high, np.array([0, 0]), None, 1)
    assert curve.at([1.0])[0].all == 1.0
    best = curve.best("all")
    assert best.score == 0.5
    assert best.high - best.low == pytest.approx(3.0)


def test_bootstrap_interval_covers_the_choice_and_shrinks_with_rows():
    slope = np.log(COUNTS / COUNTS.sum())
    widths = []
    for rows in (10, 400):
        curve = affine_curve(make_split("val", rows), slope, None)
        low, high = curve.bootstrap_best("all", 0, 3, seed=1)
        assert low <= curve.best("all", 0, 3).value <= high
        widths.append(high - low)
    assert widths[1] < widths[0]


def test_multiplicity_equals_repeated_rows():
    split = make_split("val", 12)
    slope = np.log(COUNTS / COUNTS.sum())
    times = np.random.default_rng(0).integers(0, 3, len(split))
    weighted = affine_curve(split, slope, None).best("top1", 0, 2, multiplicity=times.astype(float))
    repeated = affine_curve(split.subset(np.repeat(np.arange(len(split)), times)), slope, None).best("top1", 0, 2)
    assert weighted.score == pytest.approx(repeated.score)
    assert weighted.value == pytest.approx(repeated.value)


def test_grid_curve():
    labels = np.array([0, 0, 1])
    correct = np.array([[True, False, True], [True, True, False], [True, True, True], [True, True, True]])
    curve = GridCurve("strength", [1.0, 0.1, 0.01, 0.001], correct, labels, None, 2)
    assert curve.best("all").value == 0.01, "the first of equals, in the order given"
    assert [row.all for row in curve.at([1.0, 0.1])] == [(1 / 2 + 1) / 2, (1 + 0) / 2]  # the mean over two classes
    assert curve.best("all", 0.05, 2).value == 1.0
    assert curve.best("all", 0.05, 0.5).value == 0.1
    assert curve.at([0.1])[0].all == pytest.approx(0.5)
    assert curve.to_frame().index.name == "strength"
    with pytest.raises(UsageError, match=r"strength 5 is not in the grid 1, 0\.1"):
        curve.correct(5)
    with pytest.raises(UsageError, match="no value of strength"):
        curve.best("all", 7, 8)


def test_selecting_by_an_empty_group_says_so():
    with pytest.raises(DataError, match="select= medium is not defined here"):
        toy_curve().best("medium")


def test_one_class():
    split = FeatureSet(np.ones((3, 2), np.float32), np.zeros(3, int), head=LinearHead(np.ones((1, 2))))
    curve = affine_curve(split, np.zeros(1), None)
    assert curve.at([0.0, 1.0])[1].all == 1.0
    assert curve.best("all", 0, 2).value == 1.0


def test_frame_and_html():
    curve = toy_curve()
    frame = curve.to_frame([0, 1])
    assert list(frame.columns) == list(FIGURES)
    assert frame.loc[1.0, "many"] == pytest.approx(1.0)
    assert "<table" in curve._repr_html_()
