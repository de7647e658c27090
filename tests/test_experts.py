import numpy as np
import pytest
from conftest import COUNTS, make_split

from ltpost import DataError, Experiment, FeatureSet, LinearHead, load
from ltpost.data.experts import joined_weight, weight_of_expert
from ltpost.scores.predict import predict

RNG = np.random.default_rng(0)
HEADS = [
    LinearHead(RNG.normal(size=(10, 16)) + make_split("val").head.weight * 3, RNG.normal(size=10)) for _ in range(3)
]


def expert_sets(split):
    """Three experts that see the features through different rotations."""
    sets = []
    for e, head in enumerate(HEADS):
        one = make_split(split)
        turn = np.linalg.qr(np.random.default_rng(e).normal(size=(16, 16)))[0].astype(np.float32)
        features = one.features @ turn
        turned = LinearHead(head.weight @ turn, head.bias)
        sets.append(FeatureSet(features, one.labels, head=turned, class_counts=COUNTS, split=split, name=f"e{e}"))
    return sets


def joined_set(split):
    """Their features side by side, and the mean of their classifiers."""
    sets = expert_sets(split)
    biases = np.stack([one.head.bias for one in sets])
    return FeatureSet(
        np.concatenate([one.features for one in sets], axis=1),
        sets[0].labels,
        head=LinearHead(joined_weight([one.head.weight for one in sets]), biases.mean(0)),
        expert_bias=biases,
        class_counts=COUNTS,
        split=split,
        attrs={"experts": len(sets)},
    )


@pytest.fixture
def joined(tmp_path):
    for split in ("train", "val", "test"):
        joined_set(split).save(tmp_path / "features" / f"{split}.h5")
    return tmp_path / "features"


def test_the_joint_classifier_is_the_mean_of_the_experts(joined):
    whole, sets = load(joined / "val.h5"), expert_sets("val")
    assert whole.num_experts == 3
    mean = np.mean([expert.head.logits(expert.features) for expert in sets], axis=0)
    np.testing.assert_allclose(whole.logits, mean, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(whole.head.logits(whole.features), mean, rtol=1e-4, atol=1e-4)


def test_an_expert_is_a_feature_set_of_its_own(joined):
    whole = load(joined / "val.h5")
    for e, expected in enumerate(expert_sets("val")):
        expert = whole.expert(e)
        np.testing.assert_array_equal(expert.features, expected.features)
        np.testing.assert_allclose(expert.head.weight, expected.head.weight, rtol=1e-6)
        np.testing.assert_allclose(expert.head.bias, expected.head.bias, rtol=1e-6)
        np.testing.assert_array_equal(predict(expert.head, expert), predict(expected.head, expected))
        part = expert.subset(np.array([5, 3]))
        np.testing.assert_array_equal(np.asarray(part.features), expected.features[[5, 3]])
    with pytest.raises(DataError, match="holds experts 0 to 2, but not 3"):
        whole.expert(3)


@pytest.mark.parametrize("method", ["tnorm", "la", "ncm", "crt", "lws"])
def test_every_method_runs_on_the_mean_and_on_one_expert(joined, method):
    mean = Experiment(joined).run(method)
    one = Experiment(joined, expert=1).run(method)
    assert mean.head.weight.shape == (10, 48)
    assert one.head.weight.shape == (10, 16)
    assert "expert:1" in one.signature
    assert "expert" not in mean.signature


def test_round_trip(joined, tmp_path):
    whole = load(joined / "val.h5")
    again = load(whole.save(tmp_path / "again.h5"))
    np.testing.assert_array_equal(again.expert(2).head.bias, whole.expert(2).head.bias)


def test_errors():
    with pytest.raises(DataError, match="equally many columns for each of 5 experts, but has 16"):
        make_split("val", attrs={"experts": 5})
    with pytest.raises(DataError, match=r"must have shape \(E, C\) = \(2, 10\), but has \(3, 10\)"):
        make_split("val", attrs={"experts": 2}, expert_bias=np.zeros((3, 10)))
    with pytest.raises(DataError, match="must be the mean of 'head/expert_bias'"):
        make_split("val", attrs={"experts": 2}, expert_bias=np.full((2, 10), 9.0))


def test_the_weight_of_an_expert_is_what_was_joined():
    weights = [RNG.normal(size=(4, 3)) for _ in range(3)]
    for number, weight in enumerate(weights):
        np.testing.assert_allclose(weight_of_expert(joined_weight(weights), 3, number), weight)
