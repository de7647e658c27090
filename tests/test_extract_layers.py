"""Extraction with layers: pooled outputs of inner modules beside the features, whatever happens to the run."""

import json

import h5py
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d

import ltpost
from ltpost.errors import DataError, UsageError
from ltpost.extract import extract_features
from ltpost.extract.command import extract
from ltpost.extract.convert import convert
from ltpost.extract.networks.auto_taps import resolved
from ltpost.extract.networks.cifar_resnet import CifarResNet
from ltpost.extract.networks.taps import Tap, Taps, parse_taps
from ltpost.extract.run import writer
from ltpost.extract.run.merge import merge_shards

N, SIDE = 23, 16


class Staged(nn.Module):
    """Two stages of blocks and one of tokens are tapped; it can be made to fail at an image."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.stage1 = nn.Sequential(Residual(4), Residual(4))
        self.down = nn.Conv2d(4, 8, 2, stride=2)
        self.stage2 = nn.Sequential(Residual(8), Residual(8), Residual(8))
        self.fc = nn.Linear(8, 3)
        self.seen, self.fails_at = 0, None

    def forward(self, x):
        if self.fails_at is not None and self.seen + len(x) > self.fails_at:
            raise KeyboardInterrupt
        self.seen += len(x)
        return self.fc(self.stage2(self.down(self.stage1(self.stem(x)))).mean((2, 3)))


class Residual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return torch.relu(x + self.conv(x))


class Tokens(nn.Module):
    """A transformer in small: patches by a convolution, ``prefix`` tokens before them."""

    def __init__(self, prefix=1, depth=6):
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.first = nn.Parameter(torch.randn(1, prefix, 8))
        self.layers = nn.ModuleList(Mixer() for _ in range(depth))
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        x = self.patches(x).flatten(2).mT
        x = torch.cat([self.first.expand(len(x), -1, -1), x], dim=1)
        for layer in self.layers:
            (x,) = layer(x)  # a tuple, as those of transformers
        return self.fc(x[:, 0])


class Mixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x):
        return (x + torch.tanh(self.inner(x)) + x.mean(1, keepdim=True),)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    images = np.random.default_rng(0).integers(0, 256, (N, SIDE, SIDE, 3), dtype=np.uint8)
    for split in ("train", "val"):
        np.savez(folder / f"{split}.npz", images=images, labels=np.arange(N) % 3)
    return folder


@pytest.fixture(scope="module")
def images(data):
    return torch.from_numpy(np.load(data / "val.npz")["images"]).permute(0, 3, 1, 2).float() / 255


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    return extract_features(Staged(), data, "val", tmp_path_factory.mktemp("whole"), layers="auto", batch_size=4)


def contents(path):
    """Every dataset of a feature file, and where its layers come from."""
    found = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: found.__setitem__(name, item[()].tobytes()) if isinstance(item, h5py.Dataset) else None
        )
        found["attrs"] = [(name, dict(layer.attrs)) for name, layer in file["layers"].items()]
        found["taps"] = file.attrs["layers"], file.attrs["layers_dtype"]
    return found


# -- what is stored ---------------------------------------------------------------------------------------------------


def test_layers_are_what_the_modules_give(images, whole, data, tmp_path):
    found, model = ltpost.load(whole), Staged()
    with torch.inference_mode():
        first = model.stage1(model.stem(images))
        one = model.stage2[0](model.down(first))
        expected = {"stage1@4": (first, 4), "stage2.0@4": (one, 4), "stage2.1@4": (model.stage2[1](one), 4)}
        logits = model(images)
    assert found.attrs["layers"] == ",".join(expected)
    for name, (maps, side) in expected.items():
        assert found.layers[name].dtype == np.float16
        assert found.layers[name].attrs == {"module": name.partition("@")[0], "pooling": "average 4x4"}
        stored = found.read_layer(name, slice(None))
        np.testing.assert_allclose(stored, adaptive_avg_pool2d(maps, side).flatten(1), atol=2e-3)
        np.testing.assert_array_equal(stored[:, 16], adaptive_avg_pool2d(maps, side)[:, 1, 0, 0].numpy().astype("f2"))
    np.testing.assert_allclose(found.logits, logits, atol=1e-5)
    plain = ltpost.load(extract_features(Staged(), data, "val", tmp_path, batch_size=4))
    np.testing.assert_array_equal(found.features, plain.features)
    assert not plain.layers


def test_images_pass_through_the_network_once(data, tmp_path, capsys):
    model = Staged()
    extract_features(model, data, "val", tmp_path, layers="stage1@1", layers_dtype="float32")
    assert model.seen == N + 2  # the shape of what the modules give is read off one image and its mirror image
    told = capsys.readouterr().err
    assert (
        "layers stage1@1 (4): 4 more numbers a row, float32, from the same forward pass; val.h5 takes 0.0 MiB" in told
    )
    assert ltpost.load(tmp_path / "val.h5").layers["stage1@1"].dtype == np.float32


@pytest.mark.parametrize(("prefix", "names"), [(1, ("cls", "mean")), (5, ("cls", "mean")), (0, ("mean",))])
def test_class_token_and_mean_token(prefix, names, data, images, tmp_path):
    model = Tokens(prefix)
    found = ltpost.load(extract_features(model, data, "val", tmp_path, layers="auto", batch_size=5))
    assert list(found.layers) == [f"layers.{number}@{name}" for number in (2, 3, 4) for name in names]
    with torch.inference_mode():
        x = torch.cat([model.first.expand(N, -1, -1), model.patches(images).flatten(2).mT], dim=1)
        for layer in model.layers[:3]:
            (x,) = layer(x)
    expected = {"cls": x[:, 0], "mean": x[:, prefix:].mean(1)}
    for name in names:
        np.testing.assert_allclose(found.read_layer(f"layers.2@{name}", slice(None)), expected[name], atol=1e-2)


@pytest.mark.parametrize("split", ["val", "train"])
def test_flip_averages_layers(split, data, images, tmp_path):
    found = ltpost.load(extract_features(Staged(), data, split, tmp_path, layers="stage2.0@2", tta="flip"))
    with torch.inference_mode():
        taps = Taps(model := Staged(), [Tap("stage2.0", "2")])
        both = []
        for shown in (images, images.flip(3)):
            with taps.kept(N) as layers:
                model(shown)
            both.append(layers["stage2.0@2"].clone())
    np.testing.assert_allclose(found.read_layer("stage2.0@2", slice(None)), (both[0] + both[1]) / 2, atol=2e-3)
    assert json.loads(found.attrs["views"])["tta"] == "flip"


def test_views_have_layers_of_their_own(data, tmp_path):
    found = ltpost.load(extract_features(Staged(), data, "train", tmp_path, views=2, layers="stage1@1"))
    layer = found.read_layer("stage1@1", slice(None))
    assert layer.shape == (2 * N, 4)
    assert (layer[::2] != layer[1::2]).any()


def test_layers_are_those_of_the_network_in_bfloat16(data, whole, tmp_path):
    found = ltpost.load(extract_features(Staged(), data, "val", tmp_path, layers="stage1@1", amp="bf16"))
    exact = ltpost.load(whole).read_layer("stage1@4", slice(None)).astype(np.float32).reshape(N, 4, 16).mean(2)
    np.testing.assert_allclose(found.read_layer("stage1@1", slice(None)), exact, rtol=0.03, atol=0.01)


# -- whatever happens to the run --------------------------------------------------------------------------------------


def test_an_interrupted_run_goes_on_with_its_layers(data, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "_FLUSH_SECONDS", 0.0)
    model = Staged()
    model.fails_at = 2 * 2 + 9  # two looks at two images, then two batches
    with pytest.raises(KeyboardInterrupt):
        extract_features(model, data, "val", tmp_path, layers="auto", batch_size=4)
    model.fails_at, model.seen = None, 0
    for other in ({"layers": "stage1"}, {"layers": None}, {"layers": "auto", "layers_dtype": "float32"}):
        with pytest.raises(DataError, match=r"another extraction \((layers|layers, layers_dtype|layers_dtype) differ"):
            extract_features(model, data, "val", tmp_path, batch_size=4, **other)
    model.seen = 0
    path = extract_features(model, data, "val", tmp_path, layers="auto", batch_size=4)
    assert 4 < model.seen < N
    assert contents(path) == contents(whole)


def test_shards_are_joined_with_their_layers(data, whole, tmp_path):
    for index in range(3):
        extract_features(Staged(), data, "val", tmp_path, layers="auto", batch_size=4, shard=(index, 3))
    assert contents(merge_shards(tmp_path / "val.h5")) == contents(whole)


def test_rows_that_cannot_be_read_are_left_out(tmp_path):
    image = pytest.importorskip("PIL.Image")
    for number in range(3):
        image.new("RGB", (SIDE, SIDE), (number, 90, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "0.png").write_bytes(b"")  # the first one, which a look at the shapes would take
    (tmp_path / "val.txt").write_text("0.png 0\n1.png 1\n2.png 2\n")
    path = extract_features(Staged(), tmp_path, "val", tmp_path / "f", layers="stage1@1", workers=0)
    with h5py.File(path) as file:
        assert np.isnan(file["layers/stage1@1"][0]).all()
    assert ltpost.load(path).read_layer("stage1@1", slice(None)).shape == (2, 4)


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_layers_are_converted_there_and_back(suffix, whole, tmp_path):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    back = ltpost.load(convert(convert(whole, tmp_path / f"val{suffix}"), tmp_path / "val.h5", class_counts=None))
    for name, layer in ltpost.load(whole).layers.items():
        np.testing.assert_array_equal(back.read_layer(name, slice(None)), layer.rows[:])


def test_files_of_a_folder_agree_on_where_layers_come_from(whole, tmp_path):
    one, other = ltpost.load(whole), ltpost.load(whole)
    other.layers["stage1@4"].attrs["pooling"] = "class token"
    with pytest.raises(
        DataError, match=r"disagree on the pooling of 'layers/stage1@4' \(average 4x4 and class token\)"
    ):
        one.adopt(other)


# -- what auto finds --------------------------------------------------------------------------------------------------

CIFAR = ["layer2@4", "layer3.0@2", "layer3.2@2"]


def auto(model, side=32):
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return [tap.name for tap in resolved("auto", model.eval(), lambda: model(images))]


def test_auto_on_the_cifar_resnet_that_it_was_measured_on():
    assert auto(CifarResNet(32, 10)) == CIFAR


@pytest.mark.parametrize(
    ("name", "options", "taps"),
    [
        ("resnet50", {}, ["layer3@1", "layer4.0@1", "layer4.1@1"]),
        ("convnext_tiny", {}, ["features.5@1", "features.7.0@1", "features.7.1@1"]),
        ("efficientnet_b0", {}, ["features.5@2", "features.6.0@1", "features.6.2@1"]),
    ],
)
def test_auto_on_torchvision(name, options, taps):
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    assert auto(torchvision.models.get_model(name, weights=None, num_classes=3, **options), 64) == taps


@pytest.mark.parametrize(
    ("name", "options", "side", "taps"),
    [
        ("vit_tiny_patch16_224", {"img_size": 32}, 32, [f"blocks.{i}@{p}" for i in (5, 7, 9) for p in ("cls", "mean")]),
        ("vit_small_patch14_reg4_dinov2", {"img_size": 28, "depth": 3}, 28, ["blocks.1@cls", "blocks.1@mean"]),
        ("convnext_atto", {}, 64, ["stages.2@1", "stages.3.blocks.0@1"]),
        ("efficientnet_b0", {}, 64, ["blocks.4@2", "blocks.5.0@1", "blocks.5.2@1"]),
        ("regnety_002", {}, 64, ["s3@1", "s4.b1@1", "s4.b4@1"]),
    ],
)
def test_auto_on_timm(name, options, side, taps):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    assert auto(timm.create_model(name, num_classes=3, **options), side) == taps


def test_auto_on_experts_and_on_a_network_of_ones_own():
    from ltpost.extract.networks.experts import side_by_side

    torch.manual_seed(0)
    experts = side_by_side([CifarResNet(32, 3).eval() for _ in range(2)], [None, None])
    assert auto(experts) == [f"experts.{number}.{name}" for number in (0, 1) for name in CIFAR]
    plain = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 8, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    assert auto(plain) == ["1@4"]


# -- what cannot be ---------------------------------------------------------------------------------------------------


def test_the_grammar():
    assert parse_taps("a.b@2, c@cls,d") == [Tap("a.b", "2"), Tap("c", "cls"), Tap("d")]
    for text in ("a@", "a@0", "a@max", "@2", "a/b", "a@2@2"):
        with pytest.raises(UsageError, match=r"must be the path of a module"):
            parse_taps(text)
    with pytest.raises(UsageError, match="names 'a@2' twice"):
        parse_taps("a@2,b,a@2")
    with pytest.raises(UsageError, match="must name a module"):
        parse_taps(" , ")


@pytest.mark.parametrize(
    ("model", "layers", "message"),
    [
        (Staged, "stage3", "has no module 'stage3'; near names are stage2"),
        (Staged, "stage1@17", "the map of 'stage1' is 16 x 16, too small for 17 x 17"),
        (Staged, "stage1@cls", r"gives a map, shape \(2, 4, 16, 16\), which takes @K"),
        (Staged, "fc@2", r"gives a vector, shape \(2, 3\), which takes no pooling"),
        (Tokens, "layers.0@2", r"gives tokens, shape \(2, 17, 8\), which takes @cls or @mean"),
        (lambda: Tokens(0), "layers.0@cls", "has no class token"),
        (Tokens, "layers", "'layers' does not run when images are classified"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, 3)), "auto", "finds no earlier layer in Sequential"),
    ],
)
def test_layers_that_cannot_be(model, layers, message, data, tmp_path):
    with pytest.raises((UsageError, DataError), match=message):
        extract_features(model(), data, "val", tmp_path, layers=layers)
    assert list(tmp_path.iterdir()) == []


def test_values_that_float16_does_not_hold(data, tmp_path):
    model = Staged()
    with torch.no_grad():
        model.stem.weight.mul_(1e6)
    with pytest.raises(DataError, match=r"a value of 'layers/stem@1' is .*, beyond float16 .*use layers_dtype=float32"):
        extract_features(model, data, "val", tmp_path, layers="stem@1", amp="off")
    extract_features(model, data, "val", tmp_path, layers="stem@1", layers_dtype="float32")


def test_the_command(data, tmp_path):
    torch.save({"state_dict": CifarResNet(20, 3).state_dict()}, tmp_path / "c.pth")
    words = ["--ckpt", tmp_path / "c.pth", "--data", data, "--out", tmp_path / "f", "--layers", "auto"]
    result = CliRunner().invoke(extract, [str(word) for word in words], catch_exceptions=False)
    assert "layers layer2@4 (512), layer3.0@2 (256), layer3.1@2 (256): 1,024 more numbers a row" in result.stderr
    assert list(ltpost.load(tmp_path / "f" / "val.h5").layers) == ["layer2@4", "layer3.0@2", "layer3.1@2"]
