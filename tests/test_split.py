"""Drawing a val split from a test split."""

import numpy as np
import pytest
from click.testing import CliRunner

from ltpost import DataError, FeatureSet, LinearHead, UsageError, load
from ltpost.cli import cli
from ltpost.data.split import draw_rows, split_file

LABELS = np.repeat(np.arange(3), [40, 10, 3])


def test_rows_are_drawn_within_classes_and_none_is_lost():
    val, test = draw_rows(LABELS, 8, seed=1)
    assert np.array_equal(np.sort(np.concatenate([val, test])), np.arange(len(LABELS)))
    assert np.bincount(LABELS[val]).tolist() == [8, 5, 1]  # at most half of a class
    assert not np.array_equal(val, draw_rows(LABELS, 8, seed=2)[0])
    assert np.array_equal(val, draw_rows(LABELS, 8, seed=1)[0])
    assert np.bincount(LABELS[draw_rows(LABELS, 0.2)[0]], minlength=3).tolist() == [8, 2, 1]


def test_views_of_a_sample_stay_together():
    sample = np.repeat(np.arange(53), 2)
    val, test = draw_rows(np.repeat(LABELS, 2), 8, sample=sample)
    assert not set(sample[val]) & set(sample[test])
    assert len(val) == 2 * 14


WHERE_FROM = {"arch": "r50", "dataset": '{"name": "images", "sha256": "0123", "rows": 53}'}


def written(folder):
    rng = np.random.default_rng(0)
    head = LinearHead(rng.normal(size=(3, 4)))
    features = rng.normal(size=(len(LABELS), 4)).astype(np.float32)
    counts = np.array([200, 30, 5])
    FeatureSet(features, LABELS, head=head, class_counts=counts, split="test", attrs=WHERE_FROM).save(
        folder / "test.h5"
    )
    train = np.repeat(np.arange(3), counts)
    FeatureSet(rng.normal(size=(235, 4)), train, class_counts=counts, split="train").save(folder / "train.h5")
    return features


def test_files_of_a_split_fit_every_command(tmp_path):
    features = written(tmp_path / "features")
    before = (tmp_path / "features" / "test.h5").read_bytes()
    val, test = split_file(tmp_path / "features" / "test.h5", val=5, seed=3)
    assert val == tmp_path / "features-split" / "val.h5"
    assert (tmp_path / "features" / "test.h5").read_bytes() == before
    parts = load(val), load(test)
    rows = draw_rows(LABELS, 5, seed=3)
    for part, numbers in zip(parts, rows, strict=True):
        assert np.array_equal(part.features, features[numbers])
        assert (part.attrs["drawn_seed"], part.attrs["arch"]) == (3, "r50")
    result = CliRunner().invoke(cli, ["compare", "--features", str(val.parent), "--heads", str(tmp_path / "heads")])
    assert result.exit_code == 0, result.output
    assert "ncm" in result.output
    assert "LEAK" not in result.output  # both were extracted from the same images, and share none of them


def test_a_file_of_the_current_folder(tmp_path, monkeypatch):
    written(tmp_path / "features")
    (tmp_path / "features" / "deep").mkdir()
    for here, name, expected in (
        ("features", "test.h5", "../features-split"),
        ("features/deep", "../test.h5", "../../features-split"),
        (".", "features/test.h5", "features-split"),
    ):
        monkeypatch.chdir(tmp_path / here)
        assert str(split_file(name, val=5)[0].parent) == expected


def test_command_and_mistakes(tmp_path):
    written(tmp_path / "features")
    file = str(tmp_path / "features" / "test.h5")
    result = CliRunner().invoke(cli, ["split", file, "--val", "5"])
    assert "val.h5: 11 rows" in result.output
    with pytest.raises(DataError, match="is the folder of test.h5"):
        split_file(file, tmp_path / "features")
    with pytest.raises(UsageError, match="val= must be a number of rows per class"):
        split_file(file, val=0)
    FeatureSet(np.eye(2), [0, 1]).save(tmp_path / "one.h5")
    with pytest.raises(DataError, match="no class has two rows"):
        split_file(tmp_path / "one.h5", tmp_path / "out")
    result = CliRunner().invoke(cli, ["split", file, "--val", "-1"])
    assert (result.exit_code, "--val must be" in result.output) == (2, True)
