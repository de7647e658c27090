"""Model folders of transformers and data sets of datasets, made here and read from disk; skipped where absent."""

import json

import numpy as np
import pytest
import torch

import ltpost
from ltpost.errors import DataError
from ltpost.extract import extract_features
from ltpost.extract.data.forms import open_source
from ltpost.extract.export.checkpoint import export_head
from ltpost.extract.networks.auto_taps import resolved
from ltpost.extract.networks.hugging_face import _preprocess
from ltpost.heads import LinearHead

pytestmark = pytest.mark.filterwarnings("ignore")
Image = pytest.importorskip("PIL.Image")


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    pictures = []
    for split in ("train", "val"):
        for name in ("ant", "bee", "cat"):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for number in range(2):
                picture = Image.fromarray(rng.integers(0, 256, (40, 56, 3), dtype=np.uint8))
                picture.save(folder / f"{number}.png")
                pictures.append(picture)
    return tmp_path / "data", pictures[6:]


def test_transformers_folder(images, tmp_path):
    transformers = pytest.importorskip("transformers")
    data, pictures = images
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3
    )
    model = transformers.ResNetForImageClassification(config).eval()
    model.save_pretrained(tmp_path / "net")
    processor = transformers.ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.875, resample=3)
    processor.save_pretrained(tmp_path / "net")
    found = ltpost.load(extract_features(tmp_path / "net", data, "val", tmp_path / "f", workers=0))
    transform = json.loads(found.attrs["transform"])
    assert (transform["resize"], transform["crop"], transform["interpolation"]) == (36, 32, "bicubic")
    assert (found.attrs["arch"], found.attrs["head_key"]) == ("ResNetForImageClassification", "classifier.1")
    from ltpost.extract.pixels.preprocess import Preprocess

    preprocess = Preprocess(36, 32, interpolation="bicubic", mean=tuple(transform["mean"]), std=tuple(transform["std"]))
    batch = preprocess.normalise(torch.from_numpy(np.stack([preprocess.cut(picture) for picture in pictures])))
    with torch.inference_mode():
        np.testing.assert_allclose(found.logits, model(batch).logits, atol=1e-5)

    head = LinearHead(np.random.default_rng(0).normal(size=(3, 16)), np.arange(3))
    weights = tmp_path / "net" / "model.safetensors"
    export_head(head, weights, tmp_path / "new.safetensors", features=tmp_path / "f").replace(weights)
    again = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "net").eval()
    with torch.inference_mode():
        np.testing.assert_allclose(again(batch).logits, head.logits(found.features), atol=1e-4)
    (tmp_path / "net" / "config.json").write_text("{}")
    with pytest.raises(DataError, match="net: cannot be read as an image classifier of transformers"):
        extract_features(tmp_path / "net", data, "val", tmp_path / "f")


@pytest.mark.parametrize(("kind", "path"), [("ViT", "vit"), ("Dinov2", "dinov2"), ("CLIP", "vision_model")])
def test_layers_of_transformers(kind, path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "num_hidden_layers": 6, "num_attention_heads": 2, "intermediate_size": 8}
    pixels = {"image_size": 16, "patch_size": 8, **sizes}
    if kind == "CLIP":
        config = transformers.CLIPConfig(vision_config=pixels, text_config={"vocab_size": 5, **sizes})
    else:
        config = getattr(transformers, f"{kind}Config")(**pixels)
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForImageClassification")(config).eval()
    with torch.inference_mode():
        names = [tap.name for tap in resolved("auto", model, lambda: model(torch.rand(2, 3, 16, 16)))]
    assert [name.rsplit(".", 1)[1] for name in names] == [f"{i}@{p}" for i in (2, 3, 4) for p in ("cls", "mean")]
    assert all(name.startswith(f"{path}.") for name in names)


def test_preprocessor_configs(tmp_path):
    def read(**config):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
        return _preprocess(tmp_path)

    vit = read(size={"height": 224, "width": 224}, resample=2, do_normalize=True, image_mean=[0.5], image_std=[0.5])
    assert (vit.resize, vit.crop, vit.squash, vit.mean) == (224, 224, True, (0.5,))
    deit = read(size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224}, do_center_crop=True, resample=3)
    assert (deit.resize, deit.crop, deit.squash, deit.interpolation) == (256, 224, False, "bicubic")
    assert read(size=224).resize == 224
    half = read(image_mean=[0.5], image_std=[0.25], do_normalize=True, rescale_factor=1 / 127.5, rescale_offset=True)
    pixels = torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 1, 2, 1)
    np.testing.assert_allclose(half.normalise(pixels).flatten(), [(-1 - 0.5) / 0.25, (1 - 0.5) / 0.25], rtol=1e-5)
    raw = read(do_rescale=False, do_flip_channel_order=True)
    colours = torch.tensor([1, 2, 3], dtype=torch.uint8).reshape(1, 1, 1, 3)
    np.testing.assert_allclose(raw.normalise(colours).flatten(), [3, 2, 1], rtol=1e-5)
    with pytest.raises(DataError, match="only square ones are"):
        read(size={"height": 224, "width": 192})


def test_datasets_on_disk(images, tmp_path):
    datasets = pytest.importorskip("datasets")
    data, pictures = images
    labels = [0, 0, 1, 1, 2, 2]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee", "cat"])})
    part = datasets.Dataset.from_dict({"image": pictures, "label": labels}, features=features)
    datasets.DatasetDict({"train": part.select([0, 1, 2, 4]), "val": part}).save_to_disk(tmp_path / "hf")
    from torch import nn

    model = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 3))
    plain = ltpost.load(extract_features(model, data, "val", tmp_path / "a", workers=0))
    found = ltpost.load(extract_features(model, tmp_path / "hf", "val", tmp_path / "b", workers=0, batch_size=4))
    np.testing.assert_allclose(found.features, plain.features, atol=1e-6)
    assert found.class_names == ["ant", "bee", "cat"]
    assert found.class_counts.tolist() == [2, 1, 1]
    part.remove_columns("label").save_to_disk(tmp_path / "bad" / "val")
    with pytest.raises(DataError, match="must have a column of images and a column 'label'"):
        open_source(tmp_path / "bad", "val")
