import h5py
import numpy as np
import pytest
from conftest import COUNTS, make_split

from ltpost import DataError, FeatureFolder, FeatureSet, LinearHead


def save(folder, **splits):
    for name, split in splits.items():
        split.save(folder / f"{name}.h5")
    return FeatureFolder(folder)


def test_splits(folder):
    found = FeatureFolder(folder)
    assert found.splits() == ["test", "train", "val"]
    assert "val" in found
    assert "other" not in found
    assert found["val"] is found["val"]


def test_what_one_file_lacks_comes_from_another(tmp_path):
    names = [f"n{c}" for c in range(10)]
    folder = save(
        tmp_path,
        train=make_split("train", head=None, logits=False, class_counts=None),
        val=make_split("val", class_counts=None, class_names=names),
        test=make_split("test", head=None, class_counts=None, logits=False),
    )
    test = folder["test"]
    np.testing.assert_array_equal(test.class_counts, COUNTS)
    assert test.head.same_as(make_split("val").head)
    assert test.class_names == names


def test_counts_never_come_from_val_or_test_labels(tmp_path):
    folder = save(tmp_path, val=make_split("val", class_counts=None), test=make_split("test", class_counts=None))
    assert folder["val"].class_counts is None


def test_counts_of_several_views_are_of_samples(tmp_path):
    once = make_split("train", class_counts=None)
    twice = FeatureSet(
        np.concatenate([once.features, once.features]),
        np.concatenate([once.labels, once.labels]),
        sample=np.tile(np.arange(len(once)), 2),
        view=np.repeat([0, 1], len(once)),
        head=once.head,
        split="train",
    )
    folder = save(tmp_path, train=twice, val=make_split("val", class_counts=None))
    np.testing.assert_array_equal(folder["val"].class_counts, COUNTS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_counts": COUNTS + 1}, "disagree on 'class_counts'"),
        (
            {"head": LinearHead(make_split("val").head.weight * 2), "logits": None},
            "disagree on the joint classifier 'head'",
        ),
        ({"head": None, "logits": np.ones((300, 9), np.float32), "class_counts": None}, "C \\(9 and 10\\)|labels"),
    ],
)
def test_files_that_contradict_each_other(tmp_path, change, message):
    split = make_split("test")
    options = {"head": split.head, "class_counts": COUNTS, "split": "test", **change}
    features, labels = split.features, split.labels % 9
    FeatureSet(features, labels, **options).save(tmp_path / "test.h5")
    make_split("val").save(tmp_path / "val.h5")
    folder = FeatureFolder(tmp_path)
    folder["val"]
    with pytest.raises(DataError, match=message):
        folder["test"]


def test_other_feature_dimension(tmp_path):
    make_split("val", head=None, logits=False).save(tmp_path / "val.h5")
    FeatureSet(np.ones((3, 5), np.float32), np.arange(3)).save(tmp_path / "test.h5")
    with pytest.raises(DataError, match="disagree on D, the columns of 'features' \\(16 and 5\\)"):
        FeatureFolder(tmp_path)["val"]


def test_labels_beyond_the_classes_of_the_other_file(tmp_path):
    with h5py.File(tmp_path / "val.h5", "w") as file:
        file["features"], file["labels"] = np.ones((2, 16), np.float32), np.array([0, 11])
    make_split("test").save(tmp_path / "test.h5")
    with pytest.raises(DataError, match="row 1 is 11"):
        FeatureFolder(tmp_path)["val"]


def test_no_folder_and_an_empty_one(tmp_path):
    with pytest.raises(DataError, match="no such folder of feature files; run ltpost extract"):
        FeatureFolder(tmp_path / "none")
    with pytest.raises(DataError, match="holds no <split>.h5"):
        FeatureFolder(tmp_path)
