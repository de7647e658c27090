"""Answers without labels: in Python, from a feature file, and from images."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from conftest import make_split
from PIL import Image

import ltpost
from ltpost import DataError, Experiment, FeatureSet, LinearHead, UsageError
from ltpost.cli import cli
from ltpost.extract import extract_features
from ltpost.extract.networks.cifar_resnet import CifarResNet
from ltpost.extract.predict import names_of_model, predict
from ltpost.predictions import predict_rows
from ltpost.scores.predict import predict as predicted_classes

NAMES = [f"class {letter}" for letter in "abcdefghij"]


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


# -- heads in Python ---------------------------------------------------------------------------------------------------


def test_predict_and_predict_proba(folder):
    test = ltpost.load(folder / "test.h5")
    for key in ("tnorm", "ncm"):
        head = Experiment(folder).run(key, **({"metric": "cosine"} if key == "ncm" else {})).head
        features = test.features[:]
        answers = predicted_classes(head, test)
        np.testing.assert_array_equal(head.predict(features), answers)
        np.testing.assert_array_equal(head.predict(test), answers)
        chances = head.predict_proba(features)
        np.testing.assert_allclose(chances.sum(axis=1), 1)
        np.testing.assert_array_equal(chances.argmax(axis=1), answers)


def test_probabilities_are_calibrated_where_a_temperature_is_saved(folder, tmp_path):
    head = Experiment(folder, calibration="temperature").run("la").head
    head.save(tmp_path / "la.safetensors")
    head = ltpost.load_head(tmp_path / "la.safetensors")
    features = ltpost.load(folder / "test.h5").features[:]
    scores = head.linear().logits(features)
    np.testing.assert_allclose(head.predict_proba(features), softmax(scores / head.info["temperature"]), rtol=1e-5)
    shifts = Experiment(folder, calibration="bcts").run("la").head
    saved = shifts.info["calibration"]
    expected = softmax(shifts.linear().logits(features) * saved["scale"] + saved["offset"])
    np.testing.assert_allclose(shifts.predict_proba(features), expected, rtol=1e-5)


def test_heads_of_logits_take_logits(folder):
    val = make_split("val")
    bare = FeatureSet(None, val.labels, logits=val.logits, class_counts=val.class_counts, split="val")
    head = Experiment(val=bare).run("la").head
    np.testing.assert_array_equal(head.predict(logits=val.logits), predicted_classes(head, bare))
    with pytest.raises(DataError, match="needs 'head/weight'"):
        head.predict(val.features)


def test_what_is_no_features_is_said():
    head = LinearHead(np.eye(3, 4))
    assert head.predict(np.empty((0, 4))).shape == (0,)
    assert head.predict_proba(np.empty((0, 4))).shape == (0, 3)
    for rows, message in ((np.zeros(4), "shape"), (np.zeros((2, 5)), r"shape \(N, 4\)"), ([["a"] * 4], "numbers"),
                          (np.full((1, 4), np.nan), "NaN"), (None, "are none")):  # fmt: skip
        with pytest.raises(DataError, match=message):
            head.predict(rows)
    with pytest.raises(DataError, match="3 columns, but have 4"):
        head.predict(logits=np.zeros((2, 4)))


# -- a feature file ----------------------------------------------------------------------------------------------------


def test_top_classes_of_a_feature_file(at_home):
    make_split("train", class_names=NAMES).save("features/train.h5")
    run = CliRunner().invoke(cli, ["la"], catch_exceptions=False)
    head, test = ltpost.load_head("heads/la.safetensors"), ltpost.load("features/test.h5")
    chances = head.predict_proba(test)
    args = ["predict", "--head", "heads/la.safetensors", "features/test.h5", "--top", "3"]
    for out in ("answers.csv", "answers.json", "answers.parquet"):
        run = CliRunner().invoke(cli, [*args, "--out", out], catch_exceptions=False)
        assert run.exit_code == 0, run.output
    table, stored = pd.read_csv("answers.csv"), pd.read_parquet("answers.parquet")
    assert list(table["class"]) == list(stored["class"]) == list(head.predict(test))
    np.testing.assert_allclose(stored["probability"], chances.max(axis=1))
    np.testing.assert_allclose(table["probability_2"], np.sort(chances, axis=1)[:, -2], rtol=1e-5)
    assert list(table["name"]) == [NAMES[c] for c in table["class"]]
    rows = json.loads((at_home / "answers.json").read_text())
    assert [one["class"] for one in rows[7]["classes"]] == list(np.argsort(-chances[7])[:3])
    shown = CliRunner().invoke(cli, args, catch_exceptions=False).stdout
    assert "and 250 more; write all of them with --out FILE" in shown
    assert json.loads(CliRunner().invoke(cli, [*args, "--json"]).stdout) == rows


def test_labels_are_not_looked_at(folder):
    test, head = ltpost.load(folder / "test.h5"), ltpost.load(folder / "test.h5").head
    other = FeatureSet(test.features[:], np.zeros(len(test), int), head=test.head)
    np.testing.assert_array_equal(predict_rows(head, test).classes, predict_rows(head, other).classes)
    assert predict_rows(head, test, top=99).classes.shape == (300, 10)


# -- images ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A checkpoint, its features, a head, and photos of which one is damaged."""
    home = tmp_path_factory.mktemp("predict")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("ant", "bee", "cat"):
            (home / "data" / split / name).mkdir(parents=True)
            for number in range(3):
                pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(home / "data" / split / name / f"{number}.png")
    (home / "photos" / "more").mkdir(parents=True)
    for number in range(5):
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(home / "photos" / "more" / f"{number}.png")
    (home / "photos" / "more" / "2.png").write_bytes(b"damaged")
    torch.manual_seed(0)
    model = CifarResNet(8, 3)
    torch.save(model.state_dict(), home / "r8.pth")
    for split in ("train", "val"):
        extract_features(home / "r8.pth", home / "data", split, home / "features", workers=0)
    Experiment(home / "features", oracle=True).run("tnorm").head.save(home / "heads" / "tnorm.safetensors")
    return home


def test_images_are_answered_as_their_features(home):
    found = predict(home / "data" / "val", home / "heads" / "tnorm.safetensors", home / "r8.pth",
                    features=home / "features", top=2, batch_size=4)  # fmt: skip
    val = ltpost.load(home / "features" / "val.h5")
    head = ltpost.load_head(home / "heads" / "tnorm.safetensors")
    assert found.names == [path.removeprefix("val/") for path in val.paths]
    np.testing.assert_array_equal(found.classes[:, 0], head.predict(val))
    np.testing.assert_allclose(found.probabilities[:, 0], head.predict_proba(val).max(axis=1), rtol=1e-4)
    assert found.class_names == ["ant", "bee", "cat"]
    own = predict(home / "data" / "val", None, home / "r8.pth", features=home / "features")
    np.testing.assert_array_equal(own.classes[:, 0], val.head.predict(val))


def test_an_image_that_cannot_be_read_is_a_row_of_its_own(home, capsys):
    found = predict(home / "photos", home / "heads" / "tnorm.safetensors", home / "r8.pth", features=None)
    assert list(found.errors) == [2]
    assert "warning: more/2.png" in capsys.readouterr().err
    assert [row for row in found.records() if row["class"] is None] == [found.records()[2]]
    assert "error" in found.as_dict()[2]
    assert "unreadable" in found.table().text()


def test_a_list_of_images_and_one_image(home, tmp_path):
    (tmp_path / "list.txt").write_text("more/1.png\nmore/0.png\n")
    options = {"head": home / "heads" / "tnorm.safetensors", "ckpt": home / "r8.pth", "features": home / "features"}
    listed = predict(tmp_path / "list.txt", root=home / "photos", **options)
    assert listed.names == ["more/1.png", "more/0.png"]
    one = predict(home / "photos" / "more" / "1.png", **options)
    np.testing.assert_array_equal(one.classes[0], listed.classes[0])
    given = predict([home / "photos" / "more" / "1.png"], **options)
    np.testing.assert_array_equal(given.classes, one.classes)


def test_mistakes(home, tmp_path):
    head, ckpt = home / "heads" / "tnorm.safetensors", home / "r8.pth"

    def message(kind, source=home / "photos", **options):
        with pytest.raises(kind) as error:
            predict(source, **{"head": head, "ckpt": ckpt, "features": None, **options})
        return str(error.value)

    assert "ckpt= is needed" in message(UsageError, ckpt=None)
    assert "no such folder, image, list" in message(UsageError, source=tmp_path / "none")
    assert "holds no images" in message(DataError, source=tmp_path)
    assert "top= and batch_size= must be at least 1" in message(UsageError, top=0)
    assert "no such file or folder" in message(UsageError, features=tmp_path / "none")
    assert "the head takes 4 for 3" in message(DataError, head=LinearHead(np.eye(3, 4)))
    torch.manual_seed(1)
    torch.save(CifarResNet(8, 3).state_dict(), tmp_path / "other.pth")
    assert "is not the checkpoint that the head was made for" in message(DataError, ckpt=tmp_path / "other.pth")
    result = CliRunner().invoke(cli, ["predict", "--out", "a.txt", str(home / "photos")])
    assert result.exit_code == 2
    assert "--out must end in .csv, .json, .parquet, but is a.txt" in result.stderr


def test_names_that_a_model_carries():
    model = torch.nn.Linear(2, 2)
    assert names_of_model(model, 2) is None
    model.config = type("Config", (), {"id2label": {0: "cat", 1: "dog"}})()
    assert names_of_model(model, 2) == ["cat", "dog"]
    model.config.id2label = {0: "LABEL_0", 1: "LABEL_1"}
    assert names_of_model(model, 2) is None
