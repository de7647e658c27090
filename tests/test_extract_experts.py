"""From a checkpoint of several experts to the methods that combine them: extraction with two views, end to end."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from ltpost import DataError, Experiment, FeatureFolder, FeatureSet, LinearHead, load
from ltpost.extract import extract_features
from ltpost.extract.command import extract
from ltpost.extract.networks.cifar_resnet import CifarResNet

C, E = 4, 3


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """Train, val and test of a RIDE-like checkpoint whose experts share the first stages, and views of val and test."""
    place = tmp_path_factory.mktemp("ride")
    random = np.random.default_rng(0)
    labels = {"train": np.repeat(np.arange(C), [9, 5, 3, 2]), "val": np.arange(12) % C, "test": np.arange(16) % C}
    (place / "data").mkdir()
    for split, own in labels.items():
        images = random.integers(0, 256, (len(own), 32, 32, 3), dtype=np.uint8)
        images[:, :, :, 0] = np.minimum(255, 60 * own[:, None, None] + images[:, :, :, 0] // 4)
        np.savez(place / "data" / f"{split}.npz", images=images, labels=own)
    torch.manual_seed(0)
    networks = [CifarResNet(8, C).eval() for _ in range(E)]
    for stage in ("conv1", "bn1", "layer1"):
        for network in networks[1:]:
            network.get_submodule(stage).load_state_dict(networks[0].get_submodule(stage).state_dict())
    state = {}
    for number, network in enumerate(networks):
        for key, value in network.state_dict().items():
            stage, rest = key.split(".", 1)
            split = {"layer2": "layer2s", "layer3": "layer3s", "linear": "linears"}.get(stage)
            state[f"backbone.{split}.{number}.{rest}" if split else f"backbone.{key}"] = value
    torch.save({"arch": "RIDE", "epoch": 1, "state_dict": state}, place / "ride.pth")
    folder = place / "features"
    extract_features(place / "ride.pth", place / "data", "train", folder, expert="all")
    words = ["--ckpt", place / "ride.pth", "--data", place / "data", "--out", folder, "--expert", "all"]
    words += ["--split", "val,test", "--views", "2"]
    result = CliRunner().invoke(extract, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0
    assert sorted(path.name for path in folder.iterdir()) == [
        "test-views.h5", "test.h5", "train.h5", "val-views.h5", "val.h5"
    ]  # fmt: skip
    return folder


def test_plain_rows_stay_plain(features):
    """``--views 2`` changes nothing in the file of a split: the views are beside it."""
    out = features.parent / "first"
    first = load(extract_features(features.parent / "ride.pth", features.parent / "data", "val", out, expert=0))
    found = load(features / "val.h5")
    np.testing.assert_allclose(found.expert(0).features[:], first.features, atol=1e-6)
    assert (found.view, "views" in found.attrs) == (None, False)


def test_probe_of_all_experts_and_of_one(features):
    from ltpost.extract.run.probe import probe

    for expert in ("all", 1):
        report = probe(features.parent / "ride.pth", features.parent / "data", "val", 12, expert=expert)
        rows = FeatureFolder(features)["val"]
        rows = rows if expert == "all" else rows.expert(expert)
        accuracy = (rows.joint.reader(rows)(slice(None)).argmax(1) == rows.labels).mean()
        assert report.lines[0].measured.top1 == pytest.approx(accuracy)


def test_views_of_every_expert(features):
    test = FeatureFolder(features)["test"]
    assert (test.num_experts, len(test)) == (E, 16)
    views, index = test.two_views()
    assert (views.num_experts, len(views)) == (E, 32)
    np.testing.assert_array_equal(views.sample[index[:, 0]], np.arange(16))
    for number in range(E):
        assert not np.array_equal(views.expert(number).features[:][index[:, 0]], test.expert(number).features[:])
        np.testing.assert_array_equal(views.expert(number).head.weight, test.expert(number).head.weight)


@pytest.mark.parametrize("method", ["mean", "balpoe", "ace", "early-exit", "sade", "do", "tnorm"])
def test_every_method_of_experts_runs_on_it(features, method):
    outcome = Experiment(features, progress=False).run(method)
    result = next(result for result in outcome.results if result.name == method)
    assert result.totals.tolist() == [4] * C
    assert ("transductive" in result.detail) == (method in ("sade", "do"))


def test_without_views(features, tmp_path):
    for split in ("val", "test"):
        load(features / f"{split}.h5").save(tmp_path / f"{split}.h5")
    with pytest.raises(DataError, match=r"ltpost extract --split test --views 2"):
        Experiment(tmp_path).run("do")


def test_views_of_another_checkpoint_are_refused(features, tmp_path):
    for name in ("val", "test"):
        load(features / f"{name}.h5").save(tmp_path / f"{name}.h5")
    found = load(features / "test-views.h5")
    other = LinearHead(found.head.weight + 1, found.head.bias)
    FeatureSet(found.features, found.labels, head=other, sample=found.sample, view=found.view).save(
        tmp_path / "test-views.h5"
    )
    with pytest.raises(DataError, match="disagree on"):
        Experiment(tmp_path).run("do")
