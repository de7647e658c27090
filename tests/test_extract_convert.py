"""Cached features of others become feature files, and the other way round."""

import os
import pickle
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
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


@pytest.mark.parametrize("suffix", [".npz", ".parquet", ".csv", ".h5"])
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
    if suffix not in (".parquet", ".csv"):  # tables of rows
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
        ("val.h5", "out.mat", UsageError, "OUT must end in .h5, .npz, .parquet, .csv, but is 'out.mat'"),
        ("val.mat", "out.h5", UsageError, "SOURCE must end in .h5, .pkl, .npz, .npy, .csv, .parquet"),
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


def write(frame, path):
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        pytest.importorskip("pyarrow")
        frame.to_parquet(path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_flat_tables(feature_set, tmp_path, suffix):
    columns = {f"logit_{c}": feature_set.logits[:, c] for c in reversed(range(C))}  # the number counts, not the order
    columns |= {f"f_{d}": feature_set.features[:, d] for d in range(D)} | {"label": feature_set.labels, "id": "x"}
    source = write(pd.DataFrame(columns), tmp_path / f"scores_test{suffix}")
    found = ltpost.load(convert(source, tmp_path / "test.h5"))
    np.testing.assert_allclose(found.features, feature_set.features, rtol=1e-6)
    np.testing.assert_allclose(found.logits, feature_set.logits, rtol=1e-6)
    assert (found.split, found.labels.tolist()) == ("test", feature_set.labels.tolist())
    plain = {**{key.replace("_", ""): column for key, column in columns.items()}, "p1": 0.5, "_x": 1}
    again = ltpost.load(convert(write(pd.DataFrame(plain), tmp_path / f"plain{suffix}"), tmp_path / "plain.h5"))
    np.testing.assert_array_equal(again.logits, found.logits)
    np.testing.assert_array_equal(again.features, found.features)


def test_npy_and_npy(feature_set, tmp_path):
    np.save(tmp_path / "x.npy", feature_set.features.astype(np.float64))
    np.save(tmp_path / "z.npy", feature_set.logits)
    np.save(tmp_path / "y.npy", feature_set.labels)
    (tmp_path / "y.txt").write_text("\n".join("abcä"[label] for label in feature_set.labels) + "\n")
    (tmp_path / "names.txt").write_text("a\nb\nc\nä\n")
    found = ltpost.load(convert(tmp_path / "x.npy", tmp_path / "val.h5", labels=tmp_path / "y.npy"))
    np.testing.assert_array_equal(found.features, feature_set.features)
    options = {"labels": tmp_path / "y.txt", "holds": "logits", "class_names": tmp_path / "names.txt"}
    found = ltpost.load(convert(tmp_path / "z.npy", tmp_path / "test.h5", **options))
    np.testing.assert_array_equal(found.logits, feature_set.logits)
    assert (found.labels.tolist(), found.class_names) == (feature_set.labels.tolist(), ["a", "b", "c", "ä"])
    with pytest.raises(DataError, match="must hold 'features' .* and 'labels'"):
        convert(tmp_path / "x.npy", tmp_path / "o.h5")
    (tmp_path / "y.txt").write_text("0\n1\n")
    with pytest.raises(DataError, match="'features' must have 2 rows like 'labels', but has 20"):
        convert(tmp_path / "x.npy", tmp_path / "o.h5", labels=tmp_path / "y.txt")


def test_probabilities_become_logits(feature_set, tmp_path, capsys):
    shifted = feature_set.logits - feature_set.logits.max(axis=1, keepdims=True)
    p = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
    p[0] = [1, 0, 0, 0]
    table = pd.DataFrame({**{f"p_{c}": p[:, c] for c in range(C)}, "label": feature_set.labels})
    source = write(table, tmp_path / "val.csv")
    found = ltpost.load(convert(source, tmp_path / "val.h5"))  # the columns say what they are
    np.testing.assert_allclose(np.exp(found.logits), p, atol=1e-6)
    assert "3 probabilities are 0" in capsys.readouterr().err
    write(table.rename(columns=lambda name: name.replace("p_", "logit_")), source)
    assert ltpost.load(convert(source, tmp_path / "wrong.h5")).notes
    assert "ltpost convert --probabilities" in capsys.readouterr().err
    again = ltpost.load(convert(source, tmp_path / "test.h5", probabilities=True))
    np.testing.assert_array_equal(again.logits, found.logits)
    mended = ltpost.load(convert(tmp_path / "wrong.h5", tmp_path / "mended.h5", probabilities=True))
    np.testing.assert_allclose(mended.logits, found.logits, atol=1e-4)
    for row, column, value, message in (
        (3, "p_1", -0.25, r"must lie in \[0, 1\] in every row, but row 3 has -0.25"),
        (4, "p_1", 0.999, "must sum to 1 in every row, but row 4 sums to"),
        (5, "p_0", np.nan, "column 'p_0' must be finite, but row 5 holds nan"),
    ):
        bad = table.copy()
        bad.loc[row, column] = value
        with pytest.raises(DataError, match=message):
            convert(write(bad, source), tmp_path / "o.h5")
    with pytest.raises(DataError, match="probabilities= needs columns"):
        convert(write(pd.DataFrame({"f_0": [1.0], "label": [0]}), source), tmp_path / "o.h5", probabilities=True)


def test_scores_of_one_class_of_two(tmp_path):
    p = np.array([0.2, 0.9, 0.5])
    source = write(pd.DataFrame({"probability": p, "label": [False, True, True]}), tmp_path / "val.csv")
    found = ltpost.load(convert(source, tmp_path / "val.h5"))
    np.testing.assert_allclose(found.logits, np.log(np.stack([1 - p, p], 1)), rtol=1e-6)
    np.save(tmp_path / "z.npy", p)
    np.save(tmp_path / "y.npy", [0, 1, 1])
    found = ltpost.load(convert(tmp_path / "z.npy", tmp_path / "t.h5", labels=tmp_path / "y.npy", holds="logits"))
    np.testing.assert_allclose(found.logits, np.stack([0 * p, p], 1))


def test_columns_of_any_name(tmp_path):
    p = np.array([0.2, 0.9, 0.5])
    frame = pd.DataFrame({"id": [7, 8, 9], "risk": p, "safe": 1 - p, "fraud": ["no", "yes", "no"]})
    source = write(frame, tmp_path / "val.csv")
    for column in ("risk", "safe,risk"):
        options = {"column": column, "label_column": "fraud", "probabilities": True, "class_names": ["no", "yes"]}
        found = ltpost.load(convert(source, tmp_path / "val.h5", **options))
        np.testing.assert_allclose(found.logits, np.log(np.stack([1 - p, p], 1)), rtol=1e-6)
        assert (found.labels.tolist(), found.class_names) == ([0, 1, 0], ["no", "yes"])
    for options, message in (
        ({"column": "risky"}, "column= names 'risky', but .*val.csv has the columns id, risk, safe, fraud"),
        ({"column": "risk", "label_column": "y"}, "label_column= names 'y'"),
    ):
        with pytest.raises(UsageError, match=message):
            convert(source, tmp_path / "o.h5", **options)
    np.save(tmp_path / "z.npy", p)
    with pytest.raises(UsageError, match="column= and label_column= are for tables"):
        convert(tmp_path / "z.npy", tmp_path / "o.h5", column="risk")


def test_labels_that_are_texts(tmp_path, capsys):
    """Numbered by the given names, the columns, the checkpoint, another file of the folder, or sorted."""
    scores = np.random.default_rng(0).normal(size=(4, 3))
    labels = ["cat", "ant", "cat", "bee"]

    def table(names, labels=labels):
        return write(pd.DataFrame({**dict(zip(names, scores.T, strict=True)), "label": labels}), tmp_path / "val.csv")

    numbered = ["logit_0", "logit_1", "logit_2"]
    found = ltpost.load(convert(table(numbered), tmp_path / "a" / "val.h5"))
    assert (found.labels.tolist(), found.class_names) == ([2, 0, 2, 1], ["ant", "bee", "cat"])
    assert "numbered by their sorted names (ant, bee, cat)" in capsys.readouterr().err
    assert ltpost.load(convert(table(numbered, ["bee"] * 4), tmp_path / "a" / "test.h5")).labels.tolist() == [1] * 4
    found = ltpost.load(convert(table(["logit_bee", "logit_cat", "logit_ant"]), tmp_path / "b" / "val.h5"))
    assert (found.labels.tolist(), found.class_names) == ([1, 2, 1, 0], ["bee", "cat", "ant"])
    for number, stored in enumerate(
        (["cat", "bee", "ant"], {"cat": 0, "ant": 2, "bee": 1}, {0: "cat", 1: "bee", 2: "ant"})
    ):
        torch.save({"fc.weight": torch.zeros(3, 2), "classes": stored}, tmp_path / "c.pth")
        found = ltpost.load(convert(table(numbered), tmp_path / f"c{number}.h5", ckpt=tmp_path / "c.pth"))
        assert (found.labels.tolist(), found.class_names) == ([0, 2, 0, 1], ["cat", "bee", "ant"])
    (tmp_path / "names.json").write_text('{"0": "cat", "1": "ant", "2": "bee"}')
    found = ltpost.load(convert(table(numbered), tmp_path / "d.h5", class_names=tmp_path / "names.json"))
    assert (found.labels.tolist(), found.class_names) == ([0, 1, 0, 2], ["cat", "ant", "bee"])
    np.savez(tmp_path / "digits.npz", logits=np.zeros((3, 12)), labels=np.array([b"10", b"2", b"11"]))
    digits = ltpost.load(convert(tmp_path / "digits.npz", tmp_path / "e.h5"))
    assert (digits.labels.tolist(), digits.class_names) == ([10, 2, 11], None)  # numbers, not names to be sorted
    named = convert(tmp_path / "digits.npz", tmp_path / "e.h5", class_names=["11", "10", "2", *map(str, range(20, 29))])
    assert ltpost.load(named).labels.tolist() == [1, 2, 0]
    for options, labels_, message in (
        ({"class_names": ["cat", "ant"]}, labels, "label 'bee' of row 3 is none of the 2 class names"),
        ({}, ["cat", None, "cat", "cat"], "every row must have a label, but row 1 has none"),
        ({}, [0, 1, 2.5, 0], "labels must be whole numbers"),
        ({}, [0, 1, 3, 0], "'labels' must be 0 <= label < C = 3, but row 2 is 3"),
    ):
        with pytest.raises(DataError, match=message):
            convert(table(numbered, labels_), tmp_path / "none" / "o.h5", **options)
    for text, message in (("", "holds none"), ("a\nb\na\n", "'a' is there twice")):
        (tmp_path / "names.txt").write_text(text)
        with pytest.raises(DataError, match=message):
            convert(table(numbered), tmp_path / "o.h5", class_names=tmp_path / "names.txt")


def test_tables_that_lack_something(tmp_path):
    for columns, message in (
        ({"f_0": [1.0], "f_2": [1.0], "label": [0]}, "numbered from 0 on, but 'f_1' is missing"),
        ({"f_0": ["a"], "f_1": ["b"], "label": [0]}, "column 'f_0' must hold numbers"),
        ({"logit_0": [1.0], "logit_1": [0.0]}, "must hold 'features' .* and 'labels'"),
        ({"speed": [1.0], "label": [0]}, "must hold 'features' .* but holds speed, label"),
    ):
        with pytest.raises(DataError, match=message):
            convert(write(pd.DataFrame(columns), tmp_path / "t.csv"), tmp_path / "o.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


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
