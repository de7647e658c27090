"""Experiments on feature sets in memory."""

import numpy as np
import pytest

import ltpost
from ltpost import DataError, Experiment, FeatureSet, LinearHead


def splits(seed=0):
    rng = np.random.default_rng(seed)
    counts = np.array([200, 60, 8])
    means = rng.normal(size=(3, 5)) * 1.5
    sets = {}
    for name, rows in (("train", counts), ("val", [30] * 3), ("test", [50] * 3)):
        labels = np.repeat(np.arange(3), rows)
        sets[name] = (means[labels] + rng.normal(size=(len(labels), 5)), labels)
    head = LinearHead(means * np.log(counts)[:, None], -np.square(means).sum(1))
    return sets, head


def test_the_same_figures_as_from_files(tmp_path):
    arrays, head = splits()
    sets = {name: FeatureSet(x.astype(np.float32), y) for name, (x, y) in arrays.items()}
    sets["val"] = FeatureSet(arrays["val"][0].astype(np.float32), arrays["val"][1], head=head)
    counts = np.bincount(arrays["train"][1])
    for name, (x, y) in arrays.items():
        FeatureSet(x.astype(np.float32), y, head=head, class_counts=counts, split=name).save(tmp_path / f"{name}.h5")
    for method in ("tnorm", "la", "ncm"):
        here, there = Experiment(**sets).run(method), Experiment(tmp_path).run(method)
        assert here.report.as_dict() == there.report.as_dict()
        assert here.params == there.params


def test_the_given_sets_are_not_changed():
    arrays, head = splits()
    val = FeatureSet(*arrays["val"])
    experiment = Experiment(train=FeatureSet(*arrays["train"], head=head), val=val)
    assert experiment.report_set.head is not None
    assert (val.head, val.class_counts, val.split) == (None, None, "")


def test_sets_that_do_not_belong_together():
    arrays, head = splits()
    other = LinearHead(head.weight[:, ::-1], head.bias)
    with pytest.raises(DataError, match="disagree on the joint classifier"):
        Experiment(val=FeatureSet(*arrays["val"], head=head), test=FeatureSet(*arrays["test"], head=other))


def test_what_is_missing_is_said():
    arrays, head = splits()
    with pytest.raises(DataError, match="no split val and no split test, only train"):
        Experiment(train=FeatureSet(*arrays["train"]))
    with pytest.raises(DataError, match="no split val to choose on"):
        Experiment(test=FeatureSet(*arrays["test"], head=head))
    with pytest.raises(DataError, match=r"has no train\.h5|no training split"):
        ltpost.compare(Experiment(val=FeatureSet(*arrays["val"], head=head)), ["ncm"])
