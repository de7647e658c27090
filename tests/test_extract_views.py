"""Several views of an image, and averages over variants of it."""

import json
import math
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import nn

import ltpost
from ltpost.data.view_means import mean_of_views
from ltpost.errors import UsageError
from ltpost.extract import extract_features
from ltpost.extract.pixels.views import _random_box
from ltpost.extract.run.merge import merge_shards

Image = pytest.importorskip("PIL.Image")


class Pixels(nn.Module):
    """Its features are the pixels, 0..1, channels first."""

    def __init__(self, size):
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(size, 3)

    def forward(self, x):
        return self.fc(x.flatten(1))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    images = rng.integers(1, 256, (11, 8, 8, 3), dtype=np.uint8)  # no black, which padding is
    for split in ("train", "val"):
        np.savez(folder / f"{split}.npz", images=images, labels=np.arange(11) % 3)
    (folder / "jpegs").mkdir()
    for number in range(4):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8))
        coarse.resize((60, 40)).save(folder / "jpegs" / f"{number}.png")
    (folder / "jpegs" / "val.txt").write_text("".join(f"{number}.png {number % 3}\n" for number in range(4)))
    return folder


def test_augmented_views_of_small_images(data, tmp_path):
    path = extract_features(Pixels(192), data, "train", tmp_path, views=3, batch_size=4)
    found = ltpost.load(path)
    assert (len(found), found.num_features) == (33, 192)
    assert found.sample.tolist() == [row // 3 for row in range(33)]
    assert found.view.tolist() == [row % 3 for row in range(33)]
    assert found.labels.tolist() == [row // 3 % 3 for row in range(33)]
    assert found.class_counts.tolist() == [4, 4, 3]  # of samples, not of rows
    assert json.loads(found.attrs["views"]) == {"count": 3, "augment": "standard", "tta": "off", "seed": 0}
    original = np.load(data / "train.npz")["images"]
    seen = set()
    for row in range(33):  # each is a window of the padded image, perhaps mirrored
        view = np.rint(found.features[row].reshape(3, 8, 8).transpose(1, 2, 0) * 255).astype(np.uint8)
        padded = np.pad(original[row // 3], ((4, 4), (4, 4), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (8, 8, 3))[:, :, 0]
        plain = np.argwhere((windows == view).all((2, 3, 4)))
        mirrored = np.argwhere((windows == view[:, ::-1]).all((2, 3, 4)))
        assert len(plain) + len(mirrored) == 1
        seen.add((len(plain), *np.concatenate([plain, mirrored])[0]))
    assert len(seen) > 25
    assert {flip for flip, *_ in seen} == {0, 1}


def test_views_depend_on_the_seed_alone(data, tmp_path):
    model = Pixels(192)
    one = ltpost.load(extract_features(model, data, "train", tmp_path / "a", views=2, batch_size=7))
    other = ltpost.load(extract_features(model, data, "train", tmp_path / "b", views=2, batch_size=3))
    np.testing.assert_array_equal(one.features, other.features)
    for index in range(2):
        extract_features(model, data, "train", tmp_path / "c", views=2, batch_size=3, shard=(index, 2))
    joined = ltpost.load(merge_shards(tmp_path / "c" / "train.h5"))
    np.testing.assert_array_equal(one.features, joined.features)
    assert joined.sample.tolist() == one.sample.tolist()
    third = ltpost.load(extract_features(model, data, "train", tmp_path / "d", views=3, batch_size=3))
    np.testing.assert_array_equal(one.features[::2], third.features[::3])  # view 0 is view 0
    seeded = ltpost.load(extract_features(model, data, "train", tmp_path / "e", views=2, seed=1))
    assert not np.array_equal(one.features, seeded.features)
    plain = ltpost.load(extract_features(model, data, "train", tmp_path / "f", views=2, augment="none"))
    np.testing.assert_array_equal(plain.features[::2], plain.features[1::2])


def test_random_resized_crop(data, tmp_path):
    options = {"img_size": 16, "views": 50, "augment": "standard", "workers": 0}
    found = ltpost.load(extract_features(Pixels(768), data / "jpegs", "val", tmp_path, **options))
    assert len(np.unique(found.features[:50], axis=0)) == 50
    rng = np.random.default_rng(0)
    boxes = np.array([_random_box(500, 400, rng) for _ in range(2000)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2] <= 500).all()
    assert (boxes[:, 3] <= 400).all()
    share = width * height / 200000
    assert 0.075 < share.min() < 0.12
    assert 0.9 < share.max() <= 1
    ratio = np.log(width / height)
    assert abs(ratio).max() <= math.log(4 / 3) + 0.02


def test_flip_averages_features_and_logits(data, tmp_path):
    model = Pixels(192)
    found = ltpost.load(extract_features(model, data, "val", tmp_path, tta="flip", batch_size=4))
    x = torch.from_numpy(np.load(data / "val.npz")["images"]).permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        expected = (model(x) + model(x.flip(3))) / 2
    np.testing.assert_allclose(found.logits, expected, atol=1e-5)
    np.testing.assert_allclose(found.features, ((x + x.flip(3)) / 2).flatten(1), atol=1e-6)
    assert json.loads(found.attrs["views"])["tta"] == "flip"


def test_variants_are_rows_where_there_are_as_many_views(data, tmp_path):
    model = Pixels(192)
    found = ltpost.load(extract_features(model, data, "train", tmp_path, tta="flip", views=2, batch_size=5))
    x = torch.from_numpy(np.load(data / "train.npz")["images"]).permute(0, 3, 1, 2) / 255
    assert found.view.tolist() == [0, 1] * 11
    np.testing.assert_allclose(found.features[::2], x.flatten(1), atol=1e-6)
    np.testing.assert_allclose(found.features[1::2], x.flip(3).flatten(1), atol=1e-6)
    mean = ltpost.load(extract_features(model, data, "train", tmp_path / "mean", tta="flip"))
    np.testing.assert_allclose(mean_of_views(found).features, mean.features, atol=1e-6)


def test_five_crop_is_torchvision_s(data, tmp_path):
    transforms = pytest.importorskip("torchvision.transforms")
    model = Pixels(3 * 16 * 16)
    options = {"tta": "five-crop", "img_size": 16, "crop_pct": 0.8, "workers": 0}
    found = ltpost.load(extract_features(model, data / "jpegs", "val", tmp_path, **options))
    steps = transforms.Compose([transforms.Resize(20), transforms.FiveCrop(16)])
    for row in range(4):
        image = Image.open(data / "jpegs" / f"{row}.png").convert("RGB")
        crops = torch.stack([transforms.functional.to_tensor(crop) for crop in steps(image)])
        with torch.inference_mode():
            np.testing.assert_allclose(found.logits[row], model(crops).mean(0), atol=1e-5)


def test_unreadable_image_spoils_all_its_views_and_no_other(tmp_path):
    for number in range(3):
        Image.new("RGB", (8, 8), (number + 1, 0, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "1.png").write_bytes(b"")
    (tmp_path / "train.txt").write_text("0.png 0\n1.png 1\n2.png 2\n")
    path = extract_features(Pixels(192), tmp_path, "train", tmp_path / "f", views=2, batch_size=3, workers=0)
    with h5py.File(path) as file:
        assert file["valid"][:].tolist() == [1, 1, 0, 0, 1, 1]
        assert file["errors/row"][:].tolist() == [2, 3]
        assert [name.decode() for name in file["paths"][:]] == ["0.png", "0.png", "1.png", "1.png", "2.png", "2.png"]


def test_wrong_views(data, tmp_path):
    for options, message in (
        ({"views": 0}, "views= must be at least 1"),
        ({"augment": "strong"}, "augment= must be one of standard, none"),
        ({"tta": "ten"}, "tta= must be one of off, flip, five-crop"),
        ({"tta": "flip", "augment": "standard"}, "cannot go with augment=standard"),
        ({"tta": "five-crop"}, "needs img_size= and crop_pct="),
        ({"tta": "flip", "views": 3}, "must be 1, .* or 2, which stores each as a row, but is 3"),
    ):
        with pytest.raises(UsageError, match=message):
            extract_features(Pixels(192), data, "val", tmp_path, **options)
