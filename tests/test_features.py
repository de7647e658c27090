import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
from conftest import COUNTS, make_split
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ltpost import DataError, FeatureSet, LinearHead, RescaledHead, load
from ltpost.data.write import create_file
from ltpost.heads.blocks import score_blocks


def by_hand(path, **changes):
    """Write a good file with some datasets replaced, or removed (None)."""
    split = make_split("val", 4)
    datasets = {
        "features": split.features,
        "labels": split.labels,
        "logits": np.asarray(split.logits),
        "head/weight": split.head.weight,
        "head/bias": split.head.bias,
        "class_counts": COUNTS,
        **changes,
    }
    with h5py.File(path, "w") as file:
        for name, value in datasets.items():
            if value is not None:
                file[name] = value
    return path


def changed(array, where, value):
    array = np.array(array)
    array[where] = value
    return array


# -- reading ----------------------------------------------------------------------------------------------------------


def test_three_lines_of_h5py_load(tmp_path):
    with h5py.File(tmp_path / "mine.h5", "w") as file:
        file["features"] = np.ones((3, 2), np.float32)
        file["labels"] = np.array([0, 1, 1])
    split = load(tmp_path / "mine.h5")
    assert (len(split), split.num_features, split.num_classes) == (3, 2, 2)
    assert split.head is None
    assert split.class_counts is None
    assert split.split == "mine"


def test_round_trip_of_everything(tmp_path):
    split = make_split(
        "val",
        4,
        class_names=[f"klasse {c} é" for c in range(10)],
        paths=[f"a b/{i}.jpg" for i in range(40)],
        sample=np.arange(40) // 2,
        view=np.arange(40) % 2,
        attrs={"arch": "resnet32", "checkpoint_sha256": "ab" * 32},
    )
    back = load(split.save(tmp_path / "val.h5"))
    np.testing.assert_array_equal(back.features, split.features)
    np.testing.assert_array_equal(back.logits, split.logits)
    for key in ("labels", "class_counts", "sample", "view"):
        np.testing.assert_array_equal(getattr(back, key), getattr(split, key))
    assert back.head.same_as(split.head)
    assert back.paths == split.paths
    assert back.class_names == split.class_names
    assert back.attrs["arch"] == "resnet32"
    assert back.attrs["state"] == "complete"
    assert not list(tmp_path.glob("*.partial"))


@given(
    features=hnp.arrays(
        np.float16, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.floats(-9, 9, width=16)
    )
)
@settings(max_examples=30, deadline=None)
def test_any_matrix_comes_back_bit_for_bit(tmp_path_factory, features):
    path = tmp_path_factory.mktemp("round") / "x.h5"
    back = load(FeatureSet(features, np.zeros(len(features), int)).save(path))
    assert back.features.dtype == np.float16
    np.testing.assert_array_equal(back.features, features)


def test_nothing_big_is_read_on_loading(tmp_path):
    """A sparse file of 40 GB: loading it must touch a few rows at most."""
    path = tmp_path / "huge.h5"
    with h5py.File(path, "w") as file:
        create = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        create.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        create.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        space = h5py.h5s.create_simple((5_000_000, 2048))
        h5py.h5d.create(file.id, b"features", h5py.h5t.IEEE_F32LE, space, create)
        file["labels"] = np.zeros(5_000_000, np.int64)
    split = load(path)
    assert split.features.shape == (5_000_000, 2048)
    assert not np.asarray(split.features[4_999_999]).any()


def test_contiguous_data_is_mapped_and_chunked_data_is_read(tmp_path):
    plain, chunked = tmp_path / "plain.h5", tmp_path / "chunked.h5"
    by_hand(plain)
    with h5py.File(plain) as source, h5py.File(chunked, "w") as file:
        for name in ("features", "logits"):
            file.create_dataset(name, data=source[name][()], chunks=(7, 4), compression="gzip")
        for name in ("labels", "head/weight", "head/bias", "class_counts"):
            file[name] = source[name][()]
    one, other = load(plain), load(chunked)
    assert isinstance(one.features, np.ndarray)
    rows = np.array([9, 3, 3, 0])
    np.testing.assert_array_equal(one.features[rows], other.features[rows])
    np.testing.assert_array_equal(np.asarray(other.features), one.features)
    np.testing.assert_array_equal(
        np.concatenate([z for _, z in score_blocks(one.joint, one, size=7)]),
        np.concatenate([z for _, z in score_blocks(other.joint, other, size=9)]),
    )


def test_chunked_files_survive_a_fork(tmp_path):
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file.create_dataset("features", data=np.arange(20, dtype=np.float32).reshape(10, 2), chunks=(2, 2))
        file["labels"] = np.zeros(10, int)
    code = (
        "import os, sys, numpy as np, ltpost\n"
        f"s = ltpost.load({str(tmp_path / 'c.h5')!r}); s.features[0:2]\n"
        "pid = os.fork()\n"
        "total = float(np.asarray(s.features).sum())\n"
        "if pid == 0: os._exit(0 if total == 190 else 1)\n"
        "status = os.waitpid(pid, 0)[1]\n"
        "sys.exit(1 if status or total != 190 else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_logits_are_recomputed_when_absent():
    split = make_split("val", logits=False)
    expected = split.features @ split.head.weight.T + split.head.bias
    np.testing.assert_allclose(split.logits, expected, rtol=1e-6)


def test_unreadable_rows_are_left_out_and_counted(tmp_path):
    whole = make_split("val", 4)
    features, logits = changed(whole.features, 5, np.nan), changed(whole.logits, 5, np.nan)
    valid = changed(np.ones(40, np.uint8), 5, 0)
    split = load(by_hand(tmp_path / "v.h5", features=features, logits=logits, valid=valid))
    assert (len(split), split.num_invalid) == (39, 1)
    np.testing.assert_array_equal(split.labels, np.delete(whole.labels, 5))
    np.testing.assert_array_equal(np.asarray(split.features), np.delete(whole.features, 5, axis=0))
    for part, z in score_blocks(split.joint, split, size=7):
        np.testing.assert_array_equal(z, np.delete(whole.logits, 5, axis=0)[part])


def test_score_blocks_of_a_rescaled_head_use_the_stored_logits():
    split = make_split("val", 4)
    scale, offset = np.linspace(0.5, 2, 10), np.linspace(-1, 1, 10)
    head = RescaledHead(split.head, scale, offset)
    plain = LinearHead(head.weight, head.bias)
    stored = np.concatenate([z for _, z in score_blocks(head, split)])
    np.testing.assert_allclose(stored, plain.logits(split.features), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(stored, split.logits * scale + offset, rtol=1e-6, atol=1e-6)


def test_subset_is_lazy_and_composes():
    split = make_split("val", 4)
    rows = np.array([3, 1, 1, 30])
    part = split.subset(rows).subset(np.array([1, 3]))
    np.testing.assert_array_equal(np.asarray(part.features), split.features[[1, 30]])
    np.testing.assert_array_equal(part.labels, split.labels[[1, 30]])


def test_no_rows(tmp_path):
    empty = FeatureSet(np.zeros((0, 4), np.float32), np.zeros(0, int), head=LinearHead(np.ones((3, 4))))
    back = load(empty.save(tmp_path / "empty.h5"))
    assert (len(back), back.num_classes) == (0, 3)
    assert list(score_blocks(back.joint, back)) == []


# -- every rule of the format, broken one by one ----------------------------------------------------------------------

GOOD = make_split("val", 4)
BROKEN = {
    "no labels": ({"labels": None}, "'labels' (N,) is required"),
    "neither features nor logits": (
        {"features": None, "logits": None},
        "'features' (N, D) or 'logits' (N, C) is required",
    ),
    "labels of another length": (
        {"labels": GOOD.labels[:-1]},
        "'features' must have 39 rows like 'labels', but has 40",
    ),
    "labels not 1-D": ({"labels": GOOD.labels[:, None]}, "'labels' must have shape (N,), but has (40, 1)"),
    "labels not integer": ({"labels": GOOD.labels + 0.5}, "'labels' must hold integers, but holds float64"),
    "label too large": (
        {"labels": changed(GOOD.labels, 7, 10)},
        "'labels' must be 0 <= label < C = 10, but row 7 is 10",
    ),
    "label negative": ({"labels": changed(GOOD.labels, [7, 8], -1)}, "but row 7 is -1 (and 1 more)"),
    "features not 2-D": ({"features": np.ones(40, np.float32)}, "'features' must have shape (N, D), but has (40,)"),
    "features of integers": ({"features": np.ones((40, 16), int)}, "'features' must be floating point, but is int64"),
    "logits of another length": ({"logits": np.ones((3, 10), np.float32)}, "'logits' must have 40 rows"),
    "logits of another C": (
        {"logits": np.ones((40, 9), np.float32)},
        "the number of classes C must be one, but differs",
    ),
    "head of another D": ({"head/weight": np.ones((10, 5), np.float32)}, "'head/weight' must have D = 16 columns"),
    "head not 2-D": ({"head/weight": np.ones(10, np.float32)}, "head weight must have shape (C, D)"),
    "head with NaN": ({"head/weight": changed(GOOD.head.weight, 3, np.nan)}, "'head/weight' must be finite"),
    "head of integers": ({"head/weight": np.ones((10, 16), int)}, "'head/weight' must be floating point"),
    "bias of another C": ({"head/bias": np.ones(9, np.float32)}, "head bias must have shape (10,)"),
    "bias alone": ({"head/weight": None}, "has 'head/bias' but no 'head/weight'"),
    "head of another checkpoint": ({"head/weight": GOOD.head.weight[::-1]}, "must reproduce 'logits', but row"),
    "counts of another C": ({"class_counts": COUNTS[:9]}, "the number of classes C must be one, but differs"),
    "negative count": (
        {"class_counts": changed(COUNTS, 4, -1)},
        "'class_counts' must not be negative, but class 4 has -1",
    ),
    "fractional counts": ({"class_counts": COUNTS / 2}, "'class_counts' must hold integers"),
    "NaN feature": (
        {"features": changed(GOOD.features, 39, np.nan)},
        "'features' must be finite, but row 39 holds NaN",
    ),
    "infinite logit": (
        {"logits": changed(GOOD.logits, (0, 3), np.inf)},
        "'logits' must be finite, but row 0 holds infinity",
    ),
    "names of another C": ({"class_names": ["a", "b"]}, "the number of classes C must be one, but differs"),
    "paths of another length": ({"paths": ["a"]}, "'paths' must have 40 rows like 'labels', but has 1"),
    "valid of another length": ({"valid": np.ones(3, np.uint8)}, "'valid' must have 40 rows"),
    "a group for a dataset": ({"logits": None, "logits/x": np.ones(3)}, "'logits' must be a dataset, but is a group"),
}


@pytest.mark.parametrize(("changes", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_rule_is_one_sentence_that_names_the_file(tmp_path, changes, message):
    path = by_hand(tmp_path / "bad.h5", **changes)
    with pytest.raises(DataError) as caught:
        load(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_nan_that_no_spot_check_saw_is_found_when_it_is_used():
    features = np.ones((5000, 3), np.float32)
    features[4321] = np.nan
    split = FeatureSet(features, np.zeros(5000, int), name="val.h5")
    with pytest.raises(DataError, match=r"val\.h5: 'features' must be finite, but row 4321 holds NaN; mark such rows"):
        list(split.feature_blocks())


def test_large_finite_values_are_not_taken_for_infinity():
    split = FeatureSet(np.full((4, 3), 3e38, np.float32), np.zeros(4, int))
    assert len(list(split.feature_blocks())) == 1


def test_train_counts_must_count_the_samples(tmp_path):
    train = make_split("train")
    train.save(tmp_path / "train.h5")
    with h5py.File(tmp_path / "train.h5", "r+") as file:
        file["class_counts"][2] = 151
    with pytest.raises(DataError, match="class 2 has 150 and the count is 151"):
        load(tmp_path / "train.h5")
    views = make_split("train", sample=np.arange(COUNTS.sum()))
    np.testing.assert_array_equal(views.count_samples(), COUNTS)


def test_files_that_are_none(tmp_path):
    text = tmp_path / "text.h5"
    text.write_text("tau many medium few\n")
    with pytest.raises(DataError, match="text.h5: is not an HDF5 file"):
        load(text)
    whole = by_hand(tmp_path / "whole.h5").read_bytes()
    (tmp_path / "cut.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cut.h5: is truncated"):
        load(tmp_path / "cut.h5")
    with pytest.raises(DataError, match="no such feature file; .* has cut.h5, text.h5, whole.h5"):
        load(tmp_path / "val.h5")
    with pytest.raises(DataError, match="no such feature file; write one with ltpost extract"):
        load(tmp_path / "nowhere" / "val.h5")
    (tmp_path / "p").mkdir()
    create_file(tmp_path / "p" / "val.h5.partial", np.zeros(3, int), {"features": ((3, 2), np.float32)})
    with pytest.raises(DataError, match=r"only an unfinished val\.h5\.partial; run the same"):
        load(tmp_path / "p" / "val.h5")


@pytest.mark.parametrize(
    ("attrs", "message"),
    [
        ({"format": "something"}, "attribute 'format' must be 'ltpost-features', but is 'something'"),
        ({"format_version": 99}, "has format_version 99, and this ltpost .* upgrade with pip install -U ltpost"),
        ({"state": "partial"}, "attribute 'state' is 'partial', the extraction did not finish"),
    ],
)
def test_attributes(tmp_path, attrs, message):
    path = by_hand(tmp_path / "x.h5")
    with h5py.File(path, "r+") as file:
        file.attrs.update(attrs)
    with pytest.raises(DataError, match=message):
        load(path)


# -- writing ----------------------------------------------------------------------------------------------------------


def test_a_failed_save_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = make_split("val", 4).save(tmp_path / "val.h5")
    before = path.read_bytes()
    bad = make_split("val", 5)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("ltpost.output.settle", fail)
    with pytest.raises(DataError, match=r"val\.h5: cannot be written \(disk full\)"):
        bad.save(path)
    assert path.read_bytes() == before
    assert [left.name for left in tmp_path.iterdir()] == ["val.h5"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(DataError, match="cannot be written"):
        make_split("val", 4).save(tmp_path / "val.h5")


def test_output_below_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        make_split("val", 4).save(tmp_path / "file" / "val.h5")


def test_class_names_of_any_kind(tmp_path):
    for names in (["a", "b"], [b"a", b"b"], np.array(["a", "b"]), np.array([b"a", b"b"]), ("a", "b")):
        given = FeatureSet(np.eye(2), [0, 1], class_names=names)
        assert given.class_names == load(given.save(tmp_path / "val.h5")).class_names == ["a", "b"]
