"""Feature sets for tests of the fitted heads: made up, or the shared CIFAR-100-LT ones."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

import ltpost
from ltpost.data.features import FeatureSet
from ltpost.data.tensors import training_features, training_logits
from ltpost.fit.loss import Loss
from ltpost.fit.regression import Regression
from ltpost.fit.rescaling import Rescaling
from ltpost.fit.sampling import row_weights, rows_per_class
from ltpost.heads import LinearHead

SHARED = Path(os.environ.get("LTPOST_SHARED_DATA", Path(__file__).parents[1] / "../shared/data"))


def long_tail(num_classes=5, num_features=6, most=60, seed=0, dtype=np.float32, **kwargs):
    """Post-ReLU-like features of Gaussian classes, ``most`` rows of class 0 down to 2 of the last, and a joint head."""
    random = np.random.default_rng(seed)
    counts = np.geomspace(most, 2, num_classes).round().astype(int) if num_classes > 1 else np.array([most])
    labels = random.permutation(np.repeat(np.arange(num_classes), counts))
    means = random.normal(0, 1.2, (num_classes, num_features))
    features = np.maximum(means[labels] + random.normal(0, 1, (len(labels), num_features)), 0)
    head = LinearHead(random.normal(0, 1, (num_classes, num_features)), random.normal(0, 1, num_classes))
    return FeatureSet(features.astype(dtype), labels, **{"head": head, "class_counts": counts, **kwargs})


def with_rows(train, features, labels):
    """The same feature set with other rows."""
    return FeatureSet(features, labels, head=train.head, class_counts=train.class_counts)


def permuted(train, order):
    """Class c renamed to where ``order`` has c."""
    head = LinearHead(train.head.weight[order], train.head.bias[order])
    return FeatureSet(train.features, np.argsort(order)[train.labels], head=head)


def cifar100lt(views=1):
    """Train, val and test of the shared CIFAR-100-LT features."""
    folder = SHARED / "cifar100lt_resnet32"
    if not folder.is_dir():
        pytest.skip("needs the shared CIFAR-100-LT features (LTPOST_SHARED_DATA)")
    data = np.load(folder / "features.npz")
    known = {"head": LinearHead(data["weight"], data["bias"]), "class_counts": data["class_counts"]}
    train = FeatureSet(data["feat_train"], data["y_train"], **known)
    if views == 4:
        more = np.load(folder / "views4.npz")
        train = FeatureSet(more["features"], more["labels"], sample=more["sample"], view=more["view"], **known)
    labels = data["y_test"]
    rank = np.zeros(len(labels), int)
    for c in range(100):
        rank[labels == c] = np.arange((labels == c).sum())
    test = FeatureSet(data["feat_test"], labels, **known)
    return train, test.subset(np.flatnonzero(rank < 20)), test.subset(np.flatnonzero(rank >= 20))


def along(family):
    """The heads of a family that is known at some strengths, from strong to weak."""
    return [family.head(strength) for strength in family.params["strengths"]]


def crt_path(train, **options):
    """Heads of convex cRT."""
    return along(ltpost.crt(train, progress=False, **options))


def crt(train, strength=0.1, **options):
    """One of them."""
    return crt_path(train, strengths=(strength,), **options)[0]


def crt_sgd(train, **options):
    """The head of cRT by SGD."""
    return ltpost.crt(train, solver="sgd", progress=False, **options).head()


def lws_path(train, **options):
    """Heads of convex LWS."""
    return along(ltpost.lws(train, train.joint, solver="convex", progress=False, **options))


def lws_sgd(train, **options):
    """The head of LWS by SGD."""
    return ltpost.lws(train, train.joint, solver="sgd", progress=False, **options).head()


def lws(train, solver="sgd", strength=0.1, **options):
    """A head of LWS by either solver."""
    return lws_sgd(train, **options) if solver == "sgd" else lws_path(train, strengths=(strength,), **options)[0]


def regression(train):
    """The problem that convex cRT solves."""
    features = training_features(train, torch.device("cpu"))
    return Regression(features, *_labels_and_weights(train), train.num_classes, Loss().on(torch.device("cpu")))


def rescaling(train, shift_unit=None):
    """The problem that convex LWS solves; with ``shift_unit`` (C,) a shift per class too."""
    cpu = torch.device("cpu")
    labels_and_weights = _labels_and_weights(train)
    return Rescaling(training_logits(train, cpu), *labels_and_weights, train.joint, Loss().on(cpu), shift_unit)


def _labels_and_weights(train):
    weights = row_weights(train.labels, rows_per_class(train))
    return torch.from_numpy(train.labels), torch.from_numpy(weights).float()


def same(one, other):
    """Whether two linear heads are equal bit for bit."""
    return one.linear().same_as(other.linear())


def accuracy(head, split):
    """Mean per-class accuracy in %."""
    guesses = head.logits(split.features[:]).argmax(1)
    return 100 * np.mean([np.mean(guesses[split.labels == c] == c) for c in range(split.num_classes)])
