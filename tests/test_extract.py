"""Extraction: features are the model's, rows keep their order, and what a user gets wrong is one sentence."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import nn

import ltpost
from ltpost.errors import DataError, UsageError
from ltpost.extract import extract_features
from ltpost.extract.command import extract
from ltpost.extract.networks.cifar_resnet import CifarResNet

torchvision = pytest.importorskip("torchvision")
timm = pytest.importorskip("timm")

CLASSES = ["ant", "bee", "cat"]
COUNTS = {"train": (5, 3, 1), "val": (2, 2, 2)}


def save_jpegs(root: Path, counts=COUNTS, size=(70, 50)) -> Path:
    """A folder tree of random JPEGs, SPLIT/CLASS/NUMBER.jpg."""
    rng = np.random.default_rng(0)
    for split, per_class in counts.items():
        for name, count in zip(CLASSES, per_class, strict=True):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                coarse = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
                Image.fromarray(coarse).resize(size).save(folder / f"{number}.jpg")
    return root


def save_npz(file: Path, n=11, side=8, channels=3, seed=0, **more) -> Path:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, side, side, channels), dtype=np.uint8)
    np.savez_compressed(file, images=images, labels=np.arange(n) % 3, **more)
    return file


def tiny_resnet(name="resnet18", num_classes=3, seed=0) -> nn.Module:
    torch.manual_seed(seed)
    model = torchvision.models.get_model(name, weights=None, num_classes=num_classes).eval()
    for module in model.modules():  # statistics that matter
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model


class Small(nn.Module):
    """A network of somebody's own."""

    def __init__(self, num_classes: int = 3, channels: int = 3):
        super().__init__()
        torch.manual_seed(1)
        self.conv = nn.Conv2d(channels, 6, 3)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(6, num_classes)

    def forward(self, x):
        return self.fc(self.drop(torch.relu(self.conv(x)).mean((2, 3))))


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    return save_jpegs(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory) -> tuple[nn.Module, Path]:
    model = tiny_resnet()
    file = tmp_path_factory.mktemp("checkpoints") / "r18.pth"
    torch.save({"state_dict": {f"module.{key}": value for key, value in model.state_dict().items()}, "epoch": 3}, file)
    return model, file


def pooled(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """A torchvision ResNet without its classifier."""
    with torch.inference_mode():
        return nn.Sequential(*list(model.children())[:-1])(images).flatten(1)


def test_features_of_a_torchvision_resnet(tree, resnet18, tmp_path):
    model, file = resnet18
    path = extract_features(file, tree, "val", tmp_path)
    assert path == tmp_path / "val.h5"
    found = ltpost.load(path)
    preset = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.transforms()
    folder = torchvision.datasets.ImageFolder(tree / "val", preset)
    images = torch.stack([image for image, _ in folder])
    np.testing.assert_allclose(found.features, pooled(model, images).numpy(), atol=1e-5)
    with torch.inference_mode():
        np.testing.assert_allclose(found.logits, model(images).numpy(), atol=1e-5)
    assert found.labels.tolist() == [label for _, label in folder.samples]
    assert found.paths == [str(Path(name).relative_to(tree)) for name, _ in folder.samples]
    np.testing.assert_array_equal(found.head.weight, model.fc.weight.detach())
    np.testing.assert_array_equal(found.head.bias, model.fc.bias.detach())
    assert found.class_counts.tolist() == list(COUNTS["train"])
    assert found.class_names == CLASSES
    attrs = found.attrs
    assert (attrs["arch"], attrs["head_key"], attrs["checkpoint"]) == ("resnet18", "fc", "r18.pth")
    assert len(attrs["checkpoint_sha256"]) == 64
    transform = json.loads(attrs["transform"])
    assert (transform["resize"], transform["crop"], transform["mean"]) == (256, 224, [0.485, 0.456, 0.406])
    assert json.loads(attrs["dataset"])["rows"] == 6
    assert list(tmp_path.iterdir()) == [path]


# torch warns of forking while threads run
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (4, 2), (100, 1)])
def test_batches_and_workers_make_no_difference(tree, resnet18, tmp_path, batch_size, workers):
    plain = ltpost.load(extract_features(resnet18[1], tree, "train", tmp_path / "a.h5", img_size=64, workers=0))
    other = ltpost.load(
        extract_features(
            resnet18[1], tree, "train", tmp_path / "b.h5", img_size=64, batch_size=batch_size, workers=workers
        )
    )
    np.testing.assert_allclose(plain.features, other.features, atol=1e-5)
    np.testing.assert_allclose(plain.logits, other.logits, atol=1e-5)
    assert (plain.labels.tolist(), plain.paths) == (other.labels.tolist(), other.paths)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2"])
def test_architecture_is_read_from_the_shapes(name):
    from ltpost.extract.networks.recognition import candidates

    assert candidates(tiny_resnet(name, 5).state_dict()) == [name]


def test_architectures_of_the_family_that_torchvision_lacks():
    from ltpost.extract.networks.builders import builders
    from ltpost.extract.networks.models import build
    from ltpost.extract.networks.recognition import candidates

    for name in ("resnet10", "resnext101_32x4d"):
        state = next(builders(name)).build(name, 4).state_dict()
        assert candidates(state) == [name]
    model, preprocess = build("resnet10", next(builders("resnet10")).build("resnet10", 4).state_dict(), None)
    assert (model.fc.out_features, preprocess.crop) == (4, 224)


def test_a_package_that_is_not_asked_is_not_imported(monkeypatch):
    """To import torchvision or timm takes seconds."""
    from ltpost.extract.networks import builders

    for package in ("_torchvision", "_timm"):
        monkeypatch.setattr(builders, package, lambda: pytest.fail("not needed"))
    for name in ("cifar_resnet20", "package.module:factory"):
        assert builders.known(name)
        assert next(builders.builders(name)).knows(name)
    assert [builder.name for builder in builders.builders("package.module:factory")] == ["your own"]


def test_weights_that_a_checkpoint_replaces_are_not_drawn():
    from ltpost.extract.networks.builders import builders

    before = torch.get_rng_state()
    next(builders("resnet10")).build("resnet10", 4)
    assert torch.equal(torch.get_rng_state(), before)


def test_small_stem_is_ambiguous(tree, tmp_path):
    model = tiny_resnet()
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    torch.save(model.state_dict(), tmp_path / "small.pth")
    with pytest.raises(UsageError, match=r"several architectures \(resnet18_cifar, resnet18_cifar_pool\).*arch="):
        extract_features(tmp_path / "small.pth", tree, "val", tmp_path)
    path = extract_features(
        tmp_path / "small.pth", tree, "val", tmp_path, arch="resnet18_cifar", img_size=16, crop_pct=0.8
    )
    model.maxpool = nn.Identity()
    found = ltpost.load(path)
    transform = json.loads(found.attrs["transform"])
    assert (transform["resize"], transform["crop"]) == (20, 16)
    steps = torchvision.transforms.Compose([
        torchvision.transforms.Resize(20), torchvision.transforms.CenterCrop(16), torchvision.transforms.ToTensor(),
        torchvision.transforms.Normalize(transform["mean"], transform["std"]),
    ])  # fmt: skip
    images = torch.stack([steps(Image.open(tree / name)) for name in found.paths])
    np.testing.assert_allclose(found.features, pooled(model, images).numpy(), atol=1e-5)


@pytest.mark.parametrize("container", ["bare", "safetensors", "ema"])
def test_timm_model(container, tree, tmp_path):
    torch.manual_seed(0)
    name = "vit_tiny_patch16_224"
    model = timm.create_model(name, num_classes=3).eval()
    file = tmp_path / ("v.safetensors" if container == "safetensors" else "v.pth")
    if container == "safetensors":
        from safetensors.torch import save_file

        save_file(model.state_dict(), file)
    elif container == "ema":
        other = {key: torch.zeros_like(value) for key, value in model.state_dict().items()}
        torch.save({"state_dict": other, "state_dict_ema": model.state_dict(), "arch": name}, file)
    else:
        torch.save({f"_orig_mod.module.{key}": value for key, value in model.state_dict().items()}, file)
    found = ltpost.load(
        extract_features(file, tree, "val", tmp_path, arch=None if container == "ema" else name)
    )  # the ema file names its architecture
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
    images = torch.stack([transform(Image.open(tree / path)) for path in found.paths])
    with torch.inference_mode():
        features = model.forward_head(model.forward_features(images), pre_logits=True)
        np.testing.assert_allclose(found.features, features.numpy(), atol=1e-5)
        np.testing.assert_allclose(found.logits, model(images).numpy(), atol=1e-5)
    assert (found.attrs["arch"], found.attrs["head_key"]) == (name, "head")


def test_cifar_resnet_on_npz(tmp_path):
    torch.manual_seed(0)
    model = CifarResNet(20, num_classes=3).eval()
    torch.save({"state_dict": model.state_dict()}, tmp_path / "c.pth")
    save_npz(tmp_path / "train.npz", n=7)
    save_npz(tmp_path / "val.npz", side=32, class_names=np.array(CLASSES))
    found = ltpost.load(extract_features(tmp_path / "c.pth", tmp_path, "val", tmp_path / "f", batch_size=4))
    images = torch.from_numpy(np.load(tmp_path / "val.npz")["images"]).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(json.loads(found.attrs["transform"])[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.inference_mode():
        np.testing.assert_allclose(found.logits, model((images - mean) / std).numpy(), atol=1e-5)
    assert found.attrs["arch"] == "cifar_resnet20"
    assert found.class_names == CLASSES
    assert found.class_counts.tolist() == [3, 2, 2]
    assert found.paths is None


def test_own_model_from_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "my_networks.py").write_text(
        "import torch\n"
        "def make(num_classes): return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, num_classes))\n"
        "def plain(): return make(3)\n"
        "def wrong(): return 3\n"
        "def fails(num_classes): raise ValueError('no')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    torch.save(model.state_dict(), "own.pth")
    save_npz(tmp_path / "val.npz")
    for factory in ("make", "plain"):
        found = ltpost.load(extract_features("own.pth", tmp_path, "val", "f", arch=f"my_networks:{factory}"))
        pixels = torch.from_numpy(np.load("val.npz")["images"]).permute(0, 3, 1, 2).flatten(1) / 255
        np.testing.assert_allclose(found.features, pixels, atol=1e-6)
        assert found.attrs["head_key"] == "1"
    for factory, message in {
        "wrong": "must return a torch.nn.Module, but returned a int",
        "fails": "factory\\(num_classes=…\\) raised ValueError: no",
        "absent": "cannot be imported \\(AttributeError",
    }.items():
        with pytest.raises(UsageError, match=message):
            extract_features("own.pth", tmp_path, "val", "f", arch=f"my_networks:{factory}")
    with pytest.raises(UsageError, match="cannot be imported \\(ModuleNotFoundError"):
        extract_features("own.pth", tmp_path, "val", "f", arch="no_such_module:make")


def test_ready_module_is_left_as_it_was(tmp_path):
    model = Small(channels=1).train()
    model.fc.eval()
    images = np.random.default_rng(0).integers(0, 17, (10, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "d.npz", x_test=images, y_test=np.arange(10) % 3, y_train=np.array([0, 0, 1, 2]))
    found = ltpost.load(extract_features(model, tmp_path / "d.npz", "test", tmp_path / "t.h5", std=[17 / 255]))
    assert (model.training, model.drop.training, model.fc.training) == (True, True, False)
    with torch.inference_mode():
        expected = model.eval()(torch.from_numpy(images)[:, None] / 17)
    np.testing.assert_allclose(found.logits, expected.numpy(), atol=1e-5)
    assert found.class_counts.tolist() == [2, 1, 1]
    assert found.attrs["arch"] == "Small"
    assert "checkpoint" not in found.attrs


def test_needs_neither_torchvision_nor_timm_nor_pillow(tmp_path):
    save_npz(tmp_path / "val.npz")
    code = (
        "import sys\n"
        "for name in ('torchvision', 'timm', 'PIL'): sys.modules[name] = None\n"
        "import torch, ltpost\n"
        "from ltpost.extract import extract_features\n"
        "model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))\n"
        f"path = extract_features(model, {str(tmp_path)!r}, 'val', {str(tmp_path / 'f')!r})\n"
        "assert len(ltpost.load(path)) == 11\n"
        "torch.save(model.state_dict(), 'm.pth')\n"
        "for arguments in ({'arch': 'resnet18'}, {'arch': 'vit_b_16'}):\n"
        "    try: extract_features('m.pth', 'val.npz', 'val', 'f', **arguments)\n"
        "    except ltpost.UsageError as error: assert 'pip install \"ltpost[vision]\"' in str(error), error\n"
        "    else: raise AssertionError\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def test_float16_and_amp(tree, resnet18, tmp_path):
    exact = ltpost.load(extract_features(resnet18[1], tree, "val", tmp_path / "a.h5", img_size=64))
    half = ltpost.load(extract_features(resnet18[1], tree, "val", tmp_path / "b.h5", img_size=64, dtype="float16"))
    assert half.features.dtype == np.float16
    np.testing.assert_allclose(half.features, exact.features, rtol=1e-3, atol=1e-5)
    amp = ltpost.load(extract_features(resnet18[1], tree, "val", tmp_path / "c.h5", img_size=64, amp="bf16"))
    np.testing.assert_allclose(amp.features, exact.features, rtol=0.1, atol=0.1)
    assert not np.array_equal(amp.features, exact.features)
    np.testing.assert_allclose(amp.logits, amp.head.logits(amp.features), atol=1e-6)


def test_float16_overflow(tmp_path):
    save_npz(tmp_path / "val.npz")
    with torch.no_grad():
        model = Small()
        model.conv.weight.fill_(1e5)
        model.fc.weight.mul_(1e-4)
    with pytest.raises(DataError, match=r"beyond float16 \(65504\); use dtype=float32"):
        extract_features(model, tmp_path, "val", tmp_path, dtype="float16")
    model.conv.weight.data.fill_(float("inf"))
    with pytest.raises(DataError, match="must be finite, but some are NaN or infinite"):
        extract_features(model, tmp_path, "val", tmp_path)


def test_logits_of_train(tmp_path, monkeypatch):
    from ltpost.extract.run import settings

    save_npz(tmp_path / "train.npz")
    assert ltpost.load(extract_features(Small(), tmp_path, "train", tmp_path)).has_logits
    monkeypatch.setattr(settings, "TRAIN_LOGITS_BYTES", 10)
    assert not ltpost.load(extract_features(Small(), tmp_path, "train", tmp_path)).has_logits
    assert ltpost.load(extract_features(Small(), tmp_path, "train", tmp_path, logits=True)).has_logits


def test_lists(tree, resnet18, tmp_path):
    names = sorted(str(path.relative_to(tree)) for path in tree.glob("val/*/*.jpg"))
    spaced = tmp_path / "images"
    (spaced / "my photos").mkdir(parents=True)
    for number, name in enumerate(names):
        (spaced / "my photos" / f"{number} a.jpg").write_bytes((tree / name).read_bytes())
    lines = [f"my photos/{number} a.jpg\t{number // 2}\n" for number in range(len(names))]
    (tmp_path / "Set_LT_val.txt").write_text("".join(lines))
    (tmp_path / "Set_LT_train.txt").write_text("x.jpg 0\ny.jpg 0\n\nz.jpg 2\n")
    plain = ltpost.load(extract_features(resnet18[1], tree, "val", tmp_path / "a.h5", img_size=64))
    listed = ltpost.load(
        extract_features(
            resnet18[1], split="val", out=tmp_path / "b.h5", img_size=64,
            list_file=tmp_path / "Set_LT_val.txt", root=spaced,
        )
    )  # fmt: skip
    np.testing.assert_array_equal(plain.features, listed.features)
    assert listed.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert listed.paths[1] == "my photos/1 a.jpg"
    assert listed.class_counts.tolist() == [2, 0, 1]
    (spaced / "val.txt").write_text("".join(lines))
    beside = ltpost.load(extract_features(resnet18[1], spaced, "val", tmp_path / "c.h5", img_size=64))
    np.testing.assert_array_equal(plain.features, beside.features)


def test_class_counts(tmp_path, capsys):
    save_npz(tmp_path / "val.npz")
    found = ltpost.load(extract_features(Small(), tmp_path, "val", tmp_path))
    assert found.class_counts is None
    assert "no class counts are stored: many/medium/few is '–'" in capsys.readouterr().err
    for name, text in (("c.json", "[9, 5, 1]"), ("c.txt", "9\n5\n1\n"), ("c.csv", "9, 5, 1")):
        (tmp_path / name).write_text(text)
        found = ltpost.load(extract_features(Small(), tmp_path, "val", tmp_path, class_counts=tmp_path / name))
        assert found.class_counts.tolist() == [9, 5, 1]
    np.save(tmp_path / "c.npy", np.array([9, 5, 1]))
    found = ltpost.load(extract_features(Small(), tmp_path, "val", tmp_path, class_counts=tmp_path / "c.npy"))
    assert found.class_counts.tolist() == [9, 5, 1]
    for text, message in {
        "[1, 2]": "one count for each of 3 classes, but has 2",
        "[1.5, 2, 3]": "must be whole numbers",
        "[1, -2, 3]": "must be whole numbers",
        "many": "cannot be read as class counts",
    }.items():
        (tmp_path / "c.json").write_text(text)
        with pytest.raises(DataError, match=message):
            extract_features(Small(), tmp_path, "val", tmp_path, class_counts=tmp_path / "c.json")


def test_unreadable_image_is_a_marked_row(tmp_path, resnet18, capsys):
    data = save_jpegs(tmp_path / "data")
    whole = ltpost.load(extract_features(resnet18[1], data, "val", tmp_path / "a.h5", img_size=64))
    (data / "val" / "bee" / "0.jpg").write_bytes(b"not a picture")
    found = ltpost.load(extract_features(resnet18[1], data, "val", tmp_path / "b.h5", img_size=64))
    assert (len(found), found.num_invalid) == (5, 1)
    np.testing.assert_allclose(found.features[:], np.delete(whole.features, 2, axis=0), atol=1e-5)
    assert found.labels.tolist() == [0, 0, 1, 2, 2]
    assert "row 2 cannot be read (val/bee/0.jpg: cannot identify image file" in capsys.readouterr().err


def test_classifier_candidates(tmp_path):
    save_npz(tmp_path / "val.npz")

    class Two(Small):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(6, 3)

    class Scaled(Small):
        def forward(self, x):
            return 2 * super().forward(x)

    class Added(Two):
        def forward(self, x):
            return super().forward(x) + self.head(torch.ones(len(x), 6))

    with pytest.raises(UsageError, match=r"several possible classifiers(.|\n)*  fc  3 x 6\n  head  3 x 6"):
        extract_features(Added(), tmp_path, "val", tmp_path)
    found = ltpost.load(extract_features(Two(), tmp_path, "val", tmp_path))
    assert found.attrs["head_key"] == "fc"  # by running the model: the other one is not used
    assert ltpost.load(extract_features(Two(), tmp_path, "val", tmp_path, head_key="fc")).num_features == 6
    with pytest.raises(DataError, match=r"'head' must be called once .* but was called never"):
        extract_features(Two(), tmp_path, "val", tmp_path, head_key="head")
    with pytest.raises(UsageError, match=r"head_key=nose: the model has no such nn.Linear"):
        extract_features(Two(), tmp_path, "val", tmp_path, head_key="nose")
    before = (tmp_path / "val.h5").read_bytes()
    with pytest.raises(DataError, match=r"must reproduce the model's logits, but differ by .* scales"):
        extract_features(Scaled(), tmp_path, "val", tmp_path)
    assert (tmp_path / "val.h5").read_bytes() == before  # a failed run leaves a good file alone
    with pytest.raises(UsageError, match=r"no nn\.Linear"):
        extract_features(nn.Flatten(), tmp_path, "val", tmp_path)


def test_head_key_as_it_is_in_the_file(tree, resnet18, tmp_path):
    for key in ("module.fc.weight", "fc.weight", "fc"):
        found = ltpost.load(extract_features(resnet18[1], tree, "val", tmp_path, head_key=key, img_size=32))
        assert found.attrs["head_key"] == "fc"


def test_bad_checkpoints(tree, tmp_path, resnet18):
    def message(kind=DataError, **options) -> str:
        with pytest.raises(kind) as caught:
            extract_features(**{"model": tmp_path / "c.pth", "data": tree, "out": tmp_path, **options})
        assert "Traceback" not in str(caught.value)
        return str(caught.value)

    assert "c.pth: no such checkpoint file" in message()
    (tmp_path / "c.pth").write_text("hello")
    assert "is not a checkpoint that torch can read" in message()
    (tmp_path / "c.pth").write_bytes(resnet18[1].read_bytes()[:5000])
    assert "is not a checkpoint that torch can read" in message()
    torch.save(tiny_resnet(), tmp_path / "c.pth")
    assert "holds pickled torchvision.models.resnet.ResNet" in message()
    assert "weights_only=False" in message()
    torch.save([1, 2], tmp_path / "c.pth")
    assert "must hold a dictionary with tensors, but holds a list" in message()
    torch.save({"epoch": 3}, tmp_path / "c.pth")
    assert "its keys are epoch" in message()
    torch.save({"a.weight": torch.zeros(3, 2)}, tmp_path / "c.pth")
    assert "its tensors do not show its architecture" in message(UsageError)
    assert "102 of its 122 tensors are not in the checkpoint (conv1.weight" in message(arch="resnet18")
    assert "did you mean resnet18" in message(UsageError, arch="resnet81")
    assert "depth must be 6n + 2" in message(UsageError, arch="cifar_resnet33")
    state = tiny_resnet().state_dict()
    torch.save({**state, "layer1.0.conv1.weight": torch.zeros(64, 64, 1, 1)}, tmp_path / "c.pth")
    assert "layer1.0.conv1.weight has shape (64, 64, 1, 1)" in message()
    (tmp_path / "c.safetensors").write_text("hello")
    assert "cannot be read as a safetensors file" in message(model=tmp_path / "c.safetensors")


def test_numpy_and_namespace_in_a_checkpoint_are_inert(tmp_path):
    import argparse

    from ltpost.extract.checkpoints.checkpoint import read_checkpoint

    extra = {"embed": np.zeros(3, np.float32), "best": np.float64(3), "args": argparse.Namespace(lr=0.1)}
    for zipped in (True, False):
        torch.save(
            {"state_dict": {"fc.weight": torch.ones(2, 2)}, **extra}, tmp_path / "c.pth",
            _use_new_zipfile_serialization=zipped,
        )  # fmt: skip
        assert list(read_checkpoint(tmp_path / "c.pth").state) == ["fc.weight"]


def test_bad_data(tmp_path, resnet18):
    def message(kind=DataError, **options) -> str:
        with pytest.raises(kind) as caught:
            extract_features(Small(), **{"data": tmp_path, "out": tmp_path / "f", **options})
        return str(caught.value)

    assert "no such folder; put images into" in message(UsageError, data=tmp_path / "none")
    assert "holds no split 'val'" in message(UsageError)
    (tmp_path / "val").mkdir()
    assert "must hold one folder per class" in message()
    (tmp_path / "val" / "ant").mkdir()
    assert "holds no images" in message()
    Image.new("RGB", (8, 8)).save(tmp_path / "val" / "ant" / "0.png")
    assert "has 1 class names, but the classifier has 3 classes" in message()
    (tmp_path / "train" / "bee").mkdir(parents=True)
    assert "has class folder 'ant', which" in message()
    (tmp_path / "l.txt").write_text("a.jpg 0\nb.jpg\n")
    assert "l.txt:2: must be 'path label'" in message(list_file=tmp_path / "l.txt")
    (tmp_path / "l.txt").write_text("a.jpg 0\n")
    assert "'a.jpg' and the lines after it are not files under" in message(list_file=tmp_path / "l.txt")
    assert "cannot be read as a list of images" in message(list_file=tmp_path / "m.txt")
    (tmp_path / "l.txt").write_text("val/ant/0.png 3\n")
    assert "labels must be in 0..2" in message(list_file=tmp_path / "l.txt")
    Image.new("RGB", (9, 8)).save(tmp_path / "val" / "ant" / "1.png")
    (tmp_path / "l.txt").write_text("val/ant/0.png 0\nval/ant/1.png 0\n")
    assert "images differ in size (8 x 8, 8 x 9); give img_size=" in message(list_file=tmp_path / "l.txt")
    (tmp_path / "bad.npz").write_text("hello")
    assert "cannot be read as an .npz file" in message(data=tmp_path / "bad.npz")
    np.savez(tmp_path / "bad.npz", images=np.zeros((3, 8, 8, 3), np.uint8))
    assert "must hold 'x_val' and 'y_val' or 'images' and 'labels'" in message(data=tmp_path / "bad.npz")
    np.savez(tmp_path / "bad.npz", images=np.zeros((3, 8, 8, 3)), labels=np.zeros(3, int))
    assert "'images' must be uint8 (N, height, width, 3), but is float64" in message(data=tmp_path / "bad.npz")
    np.savez(tmp_path / "bad.npz", images=np.zeros((3, 8, 8, 3), np.uint8), labels=np.zeros(2, int))
    assert "'labels' must have 3 rows like 'images', but has 2" in message(data=tmp_path / "bad.npz")
    np.savez(tmp_path / "bad.npz", images=np.zeros((3, 8, 8, 3), np.uint8), labels=np.zeros(3))
    assert "must be whole numbers of shape (N,)" in message(data=tmp_path / "bad.npz")


def test_bad_options(tmp_path):
    save_npz(tmp_path / "val.npz")
    for options, message in (
        ({"dtype": "bfloat16"}, "dtype= must be float32 or float16"),
        ({"batch_size": 0}, "batch_size= must be at least 1"),
        ({"device": "tpu9"}, "device= must be auto, cpu"),
        ({"amp": "int8"}, "amp= must be off, bf16 or fp16"),
        ({"interpolation": "cubist"}, "interpolation= must be one of"),
        ({"workers": -1}, "workers= must be at least 0"),
        ({"img_size": 0}, "img_size= must be at least 1"),
        ({"crop_pct": 0.5}, "crop_pct= needs img_size="),
        ({"crop_pct": 5.0, "img_size": 8}, "crop_pct= must be above 0"),
        ({"std": (0.0,)}, "std= must be positive"),
    ):
        with pytest.raises(UsageError, match=message):
            extract_features(Small(), tmp_path, "val", tmp_path, **options)
    with pytest.raises(DataError, match="mean= has 2 values, but the images have 3 channels"):
        extract_features(Small(), tmp_path, "val", tmp_path, mean=(0.1, 0.2))
    with pytest.raises(DataError, match="cannot take images of shape"):
        extract_features(Small(channels=1), tmp_path, "val", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        extract_features(Small(), tmp_path, "val", tmp_path / "file" / "x.h5")


def test_command_is_the_library_call(tree, resnet18, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(
        extract, ["--ckpt", str(resnet18[1]), "--split", "val", "--img-size", "32", "--mean", "0.5,0.5,0.5"],
        env={"LTPOST_DATA": str(tree)}, catch_exceptions=False,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "wrote features/val.h5" in result.stderr
    twin = ltpost.load(extract_features(resnet18[1], tree, "val", "twin", img_size=32, mean=(0.5, 0.5, 0.5)))
    found = ltpost.load("features/val.h5")
    np.testing.assert_array_equal(found.features, twin.features)
    assert found.attrs["transform"] == twin.attrs["transform"]


def test_command_defaults_are_the_library_s():
    import inspect

    defaults = {p.name: p.default for p in inspect.signature(extract_features).parameters.values()}
    given = extract.make_context("extract", ["--ckpt", "x"]).params
    assert (given.pop("images"), given.pop("as_json")) == (None, False)  # of the probe
    only_in_python = {"inputs", "labels", "skip_finished"}
    assert set(given) == {"splits"} | set(defaults) - {"split"} - only_in_python
    assert given.pop("splits") == ((defaults["split"],),)
    assert {**given, "model": inspect.Parameter.empty} == {key: defaults[key] for key in given}


@pytest.mark.parametrize("name", ["extract", "merge", "export", "inspect_ckpt", "convert"])
def test_help_shows_an_example(name):
    from ltpost.extract import command

    text = CliRunner().invoke(getattr(command, name), ["--help"]).output
    assert "\\b" not in text
    assert "For example:\n    ltpost " in text
    assert f" ltpost {name.replace('_', '-')} " in text


def test_command_errors(tmp_path):
    result = CliRunner().invoke(extract, ["--ckpt", str(tmp_path / "no.pth"), "--data", str(tmp_path)])
    assert isinstance(result.exception, DataError)
    assert "no such checkpoint file" in str(result.exception)
    (tmp_path / "no.pth").write_text("")
    result = CliRunner().invoke(extract, ["--ckpt", str(tmp_path / "no.pth"), "--data", str(tmp_path)])
    assert isinstance(result.exception, UsageError)
    result = CliRunner().invoke(extract, ["--ckpt", "x", "--mean", "a,b"])
    assert result.exit_code == 2
    assert "must be numbers like 0.485,0.456,0.406, but is 'a,b'" in result.output
    save_npz(tmp_path / "val.npz")
    result = CliRunner().invoke(extract, ["--ckpt", str(tmp_path / "no.pth"), "--data", str(tmp_path)])
    assert isinstance(result.exception, DataError)


# -- the real checkpoints and images -----------------------------------------------------------------------------------

SHARED = Path(os.environ.get("LTPOST_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
needs_shared = pytest.mark.skipif(not (SHARED / "cifar100lt_resnet32").is_dir(), reason="no shared data")


@needs_shared
def test_cifar100_lt(tmp_path):
    """Every tenth row; the predictions of all are known, and have the accuracy that others measured."""
    folder = SHARED / "cifar100lt_resnet32"
    known, images = np.load(folder / "features.npz"), np.load(folder / "images.npz")
    rows = slice(None, None, 10)
    parts = {key: images[key][rows] if "test" in key else images[key] for key in images.files if "train" not in key}
    np.savez(tmp_path / "images.npz", **parts)
    path = extract_features(
        folder / "resnet32_cifar100lt.pth.tar", tmp_path / "images.npz", "test", tmp_path, batch_size=250,
        mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762), class_counts=known["class_counts"],
    )  # fmt: skip
    found = ltpost.load(path)
    np.testing.assert_allclose(found.features, known["feat_test"][rows], atol=1e-4)
    np.testing.assert_allclose(found.logits, known["logits_test"][rows], atol=1e-3)
    np.testing.assert_array_equal(found.class_counts, known["class_counts"])
    hits = known["logits_test"].argmax(axis=1) == known["y_test"]
    np.testing.assert_array_equal(found.logits.argmax(axis=1) == found.labels, hits[rows])
    assert hits.mean() == pytest.approx(0.4047, abs=0.002)
    assert found.class_names[:2] == ["apple", "aquarium_fish"]


def counters(model: nn.Module) -> dict[str, torch.Tensor]:
    """What batch normalisation counts since 2018; older files lack it."""
    return {key: value for key, value in model.state_dict().items() if key.endswith("num_batches_tracked")}


@needs_shared
@pytest.mark.parametrize("name", ["resnet20-12fca82f", "resnet32-d509ac18", "resnet56-4bfd9763"])
def test_cifar10_checkpoints_load_strictly(name):
    from ltpost.extract.checkpoints.checkpoint import read_checkpoint
    from ltpost.extract.networks.opening import open_model

    checkpoint = read_checkpoint(SHARED / "resnet_cifar10" / f"{name}.th")
    arch, model, _ = open_model(checkpoint)
    assert arch == f"cifar_{name.split('-')[0]}"
    model.load_state_dict({**checkpoint.state, **counters(model)})  # strict
    assert checkpoint.sha256.startswith(name.split("-")[1])


@pytest.mark.filterwarnings("ignore")  # torch's compiler is full of them
def test_compiled(tmp_path):
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception as error:  # noqa: BLE001,RUF100
        pytest.skip(f"no C++ compiler: {error}")
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    save_npz(tmp_path / "val.npz")
    model, options = Small(), {"batch_size": 4, "workers": 0, "layers": "conv@2"}
    plain, compiled = (
        ltpost.load(extract_features(model, tmp_path, "val", tmp_path / f"{flag}.h5", compile=flag, **options))
        for flag in (False, True)
    )
    np.testing.assert_allclose(compiled.features, plain.features, atol=1e-5)
    np.testing.assert_allclose(compiled.logits, plain.logits, atol=1e-5)
    layers = [found.read_layer("conv@2", slice(None)) for found in (compiled, plain)]
    np.testing.assert_allclose(*layers, atol=1e-3)
    frames = torch._dynamo.utils.counters["frames"]
    assert (frames["total"], frames["ok"]) == (1, 1)  # once, though the last batch is smaller
    assert not model.fc._forward_pre_hooks


def test_what_cannot_be_compiled_is_said(tmp_path, monkeypatch):
    save_npz(tmp_path / "val.npz")

    def failing(forward, **_):
        def compiled(images):
            raise AttributeError("no compiler here\nand a long trace")

        return compiled

    monkeypatch.setattr(torch, "compile", failing)
    with pytest.raises(
        UsageError, match=r"compile=: torch.compile cannot compile this model here \(no compiler here\)"
    ):
        extract_features(Small(), tmp_path, "val", tmp_path / "a.h5", compile=True)
    monkeypatch.setattr(torch, "compile", lambda forward, **_: lambda images: forward(images + 1))
    with pytest.raises(UsageError, match="the compiled model gives other features than the model"):
        extract_features(Small(), tmp_path, "val", tmp_path / "a.h5", compile=True)
    assert [path.name for path in tmp_path.iterdir()] == ["val.npz"]
