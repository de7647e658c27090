"""Cached features of others become feature files, and the other way round."""

import os
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from click.testing import CliRunner

import ltpost
from ltpost.data.features import FeatureSet
from ltpost.errors import DataError, UsageError
from ltpost.extract.command import convert as command
from ltpost.extract.convert import convert
from ltpost.heads import LinearHead

N, D, C = 20, 6, 4


@pytest.fixture
def feature_set() -> FeatureSet:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(N, D)).astype(np.float32)
    head = LinearHead(rng.normal(size=(C, D)), rng.normal(size=C))
    return FeatureSet(
        features,
        np.arange(N) % C,
        logits=head.logits(features),
        head=head,
        class_counts=np.array([9, 5, 2, 1]),
        class_names=["a", "b", "c", "ä"],
        paths=np.array([f"{number} x.jpg" for number in range(N)], dtype=object),
        sample=np.arange(N) // 2,
        view=np.arange(N) % 2,
        split="val",
    )


@pytest.mark.parametrize("suffix", [".npz", ".parquet", ".h5"])
def test_there_and_back(feature_set, tmp_path, suffix):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    feature_set.save(tmp_path / "val.h5")
    convert(tmp_path / "val.h5", tmp_path / f"out{suffix}")
    found = ltpost.load(convert(tmp_path / f"out{suffix}", tmp_path / "back" / "val.h5"))
    np.testing.assert_array_equal(found.features, feature_set.features)
    np.testing.assert_array_equal(found.logits, feature_set.logits)
    for key in ("labels", "sample", "view", "paths"):
        assert list(getattr(found, key)) == list(getattr(feature_set, key))
    if suffix != ".parquet":  # a table of rows
        assert found.head.same_as(feature_set.head)
        assert found.class_counts.tolist() == [9, 5, 2, 1]
        assert found.class_names == ["a", "b", "c", "ä"]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted({"val.h5", f"out{suffix}", "back"})


def test_pickle_of_classifier_balancing(feature_set, tmp_path, monkeypatch):
    order = np.random.default_rng(1).permutation(N)
    feats, labels = feature_set.features[order], feature_set.labels[order]
    (tmp_path / "testfeat_all.pkl").write_bytes(
        pickle.dumps({"feats": feats, "labels": labels, "idxs": order}, protocol=4)
    )
    head = feature_set.head
    state = {"module.fc.weight": torch.from_numpy(head.weight), "module.fc.bias": torch.from_numpy(head.bias)}
    backbone = {"module.conv1.weight": torch.zeros(2, 2)}
    torch.save({"state_dict_best": {"feat_model": backbone, "classifier": state}}, tmp_path / "c.pth")
    (tmp_path / "counts.json").write_text("[9, 5, 2, 1]")
    monkeypatch.chdir(tmp_path)
    arguments = ["testfeat_all.pkl", "features/test.h5", "--ckpt", "c.pth", "--class-counts", "counts.json"]
    assert CliRunner().invoke(command, arguments, catch_exceptions=False).exit_code == 0
    found = ltpost.load("features/test.h5")
    assert found.split == "test"
    np.testing.assert_array_equal(found.features, feature_set.features)  # in the order of the list again
    np.testing.assert_array_equal(found.labels, feature_set.labels)
    np.testing.assert_allclose(found.logits, feature_set.logits, atol=1e-5)
    assert found.class_counts.tolist() == [9, 5, 2, 1]


def test_refusals(feature_set, tmp_path):
    feature_set.save(tmp_path / "val.h5")
    for source, out, kind, message in (
        ("val.h5", "out.mat", UsageError, "OUT must end in .h5, .npz, .parquet, but is 'out.mat'"),
        ("val.mat", "out.h5", UsageError, "SOURCE must end in .h5, .pkl, .npz, .parquet"),
        ("none.npz", "out.h5", DataError, "none.npz: no such file"),
    ):
        with pytest.raises(kind, match=message):
            convert(tmp_path / source, tmp_path / out)
    np.savez(tmp_path / "a.npz", data=np.zeros(3))
    with pytest.raises(DataError, match="must hold 'features' .* but holds data"):
        convert(tmp_path / "a.npz", tmp_path / "o.h5")
    (tmp_path / "a.npz").write_text("hello")
    with pytest.raises(DataError, match="cannot be read as an .npz file"):
        convert(tmp_path / "a.npz", tmp_path / "o.h5")
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"feats": LinearHead}))
    with pytest.raises(DataError, match=r"refers to ltpost\.heads\.linear\.LinearHead"):
        convert(tmp_path / "a.pkl", tmp_path / "o.h5")
    (tmp_path / "a.pkl").write_bytes(pickle.dumps([1]))
    with pytest.raises(DataError, match="must hold a dictionary with 'feats'"):
        convert(tmp_path / "a.pkl", tmp_path / "o.h5")
    torch.save({"a.weight": torch.zeros(3, D), "b.weight": torch.zeros(3, D)}, tmp_path / "c.pth")
    with pytest.raises(UsageError, match=r"is not clear; name one of a, b with head_key="):
        convert(tmp_path / "val.h5", tmp_path / "o.h5", ckpt=tmp_path / "c.pth")
    assert not (tmp_path / "o.h5").exists()


SHARED = Path(os.environ.get("LTPOST_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.mark.skipif(not (SHARED / "cifar100lt_resnet32").is_dir(), reason="no shared data")
def test_real_npz(tmp_path):
    for split, rows in (("train", 10847), ("test", 10000)):
        found = ltpost.load(convert(SHARED / "cifar100lt_resnet32" / "features.npz", tmp_path / f"{split}.h5"))
        assert (len(found), found.num_features, found.num_classes) == (rows, 64, 100)
    with h5py.File(tmp_path / "test.h5") as file:
        assert (file["logits"][:].argmax(1) == file["labels"][:]).mean() == pytest.approx(0.4047, abs=1e-4)
    views = ltpost.load(convert(SHARED / "cifar100lt_resnet32" / "views4.npz", tmp_path / "v.h5", split="train"))
    assert (len(views), views.view.max()) == (43388, 3)
