"""ltpost extract --probe: it finds how images and labels must be read, calls no noise better, and writes nothing."""

import json
import os
import pickle
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import ltpost
from ltpost.cli import cli
from ltpost.errors import DataError, UsageError
from ltpost.extract import extract_features
from ltpost.extract.data.draw import rows_over_classes
from ltpost.extract.data.forms import open_source
from ltpost.extract.pixels.conventions import STATISTICS, pixel_alternatives
from ltpost.extract.pixels.preprocess import Preprocess
from ltpost.extract.run import probe as probe_module
from ltpost.extract.run.probe import probe

Image = pytest.importorskip("PIL.Image")
SHARED = Path(os.environ.get("LTPOST_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
C = 12
COLOURS = np.random.default_rng(3).permutation(
    np.stack(np.meshgrid([60, 110, 160], [80, 170], [90, 150]), -1).reshape(C, 3)
)
STRING_ORDER = sorted(range(C), key=str)  # the class that each output of the network stands for


class Colours(nn.Module):
    """Knows classes by their mean colour, with mean and std 0.5, in the order of sorted texts, best at one size."""

    def __init__(self, side=48, order=STRING_ORDER, channels=3):
        super().__init__()
        centres = torch.tensor((COLOURS[list(order)] / 255 - 0.5) / 0.5, dtype=torch.float32)[:, :channels]
        self.side = side
        self.fc = nn.Linear(channels, len(centres))
        self.fc.weight.data, self.fc.bias.data = 20 * centres, -10 * (centres**2).sum(1)

    def forward(self, x):
        return self.fc(x.mean((2, 3)) + 0.3 * (x.shape[-1] / self.side - 1))


def colours(labels, side=48, seed=0):
    """Noisy images (N, side, side, 3) of classes."""
    rng = np.random.default_rng(seed)
    tint = COLOURS[labels][:, None, None] + rng.normal(0, 14, (len(labels), 1, 1, 3))
    return np.clip(tint + rng.normal(0, 8, (len(labels), side, side, 3)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    """A folder with val.npz, 20 images of each class."""
    folder = tmp_path_factory.mktemp("arrays")
    labels = np.arange(20 * C) % C
    np.savez(folder / "val.npz", images=colours(labels), labels=labels)
    return folder


def test_every_wrong_setting_is_found_and_the_options_are_right(arrays, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = Colours(side=32)
    report = probe(network, arrays, "val", 240, mean=[0.5], std=[0.5])
    assert report.options["class_order"] == "string"
    assert report.options["img_size"] in (28, 32)
    assert set(report.options) <= {"class_order", "img_size", "mean", "std"}
    assert list(tmp_path.iterdir()) == []
    best = next(line for line in reversed(report.lines) if line.reading == report.best)
    assert (best.measured.images, report.lines[0].name) == (240, "current")
    assert best.measured.top1 > 0.8 > 0.3 > report.lines[0].measured.top1
    words = shlex.split(report.as_dict()["best"]["command_options"])
    options = dict(zip(words[::2], words[1::2], strict=True))
    assert options["--img-size"] == str(report.options["img_size"])
    given = {"mean": [0.5], "std": [0.5], **report.options}
    features = ltpost.load(extract_features(network, arrays, "val", "f", **given))
    assert (features.logits.argmax(1) == features.labels).mean() == pytest.approx(best.measured.top1)
    shown = str(report)
    assert "add to the command: " in shown
    assert "Each line changes one setting" in shown
    assert "2: " in shown  # a second round
    assert 0.4 < best.measured.confidence < best.measured.top1
    assert shown.splitlines()[2].split()[:4] == ["reading", "images", "Top-1", "confidence"], shown


def test_the_table_is_cheapest_first_and_stops_what_is_clearly_worse(arrays):
    report = probe(
        Colours(side=32, order=range(C)), arrays, "val", 240, mean=(0.5,), std=(0.5,), img_size=32, crop_pct=1.0
    )
    first = [line for line in report.lines if line.round == 1]
    names = [line.name for line in first]
    assert names.index("classes sorted as text") == 1  # no pass through the network
    sizes = [int(name.split()[1].strip(",")) for name in names if name.startswith("size ")]
    assert sizes == sorted(sizes)
    by_name = {line.name: line for line in first}
    assert by_name["size 64"].measured.images < by_name["current"].measured.images == 240
    assert report.best == report.current
    assert report.options == {}
    assert "no reading is better than the current one beyond noise" in str(report)


def test_noise_is_not_better(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "val.npz", images=rng.integers(0, 256, (120, 8, 8, 3), np.uint8), labels=rng.integers(0, C, 120)
    )
    torch.manual_seed(0)
    for seed in range(3):
        report = probe(nn.Sequential(nn.Flatten(), nn.Linear(192, C)), tmp_path, "val", 120, seed=seed)
        assert report.best == report.current
        ahead = [line for line in report.lines if line.difference is not None and line.difference.value > 0]
        assert ahead  # what would be called better without a test
        assert not any(line.better for line in report.lines)


def test_current_reading_that_fails(tmp_path):
    labels = np.arange(10 * C) % C
    for number, label in enumerate(labels):
        image = Image.fromarray(colours(np.array([label]), seed=number)[0]).resize((40 + number % 3, 48))
        (tmp_path / "val" / f"{label}").mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / "val" / f"{label}" / f"{number}.png")
    (tmp_path / "val" / "0" / "bad.png").write_text("no image")
    right = {"mean": [0.5], "std": [0.5], "workers": 0}
    report = probe(Colours(side=64), tmp_path, "val", 130, **right)
    assert "the images differ in size" in report.lines[0].measured.error
    assert report.options == {"img_size": 64}
    assert report.images == 121
    best = next(line for line in report.lines if line.reading == report.best)
    assert best.measured.images == 120  # without the unreadable one
    natural = probe(
        Colours(side=64, order=range(C)), tmp_path, "val", 130, mean=[0.5], std=[0.5], img_size=64, workers=0
    )
    assert natural.options == {"class_order": "natural"}
    with pytest.raises(DataError, match="the images differ in size"):
        probe(nn.Sequential(nn.Flatten(), nn.Linear(5, C)), tmp_path, "val", 10, workers=0)


def test_cifar_pickles_and_channels(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    labels = np.arange(120) % 10
    pixels = colours(labels, side=32)[..., ::-1]  # the file is BGR
    content = {b"data": pixels.transpose(0, 3, 1, 2).reshape(120, -1), b"labels": labels.tolist()}
    (folder / "test_batch").write_bytes(pickle.dumps(content))
    network = Colours(side=32, order=range(10))
    report = probe(network, tmp_path, "test", 120, mean=[0.5], std=[0.5])
    assert report.options == {"channels": "bgr"}
    assert "this chooses by labels of test" in str(report)
    assert "add to the command: --channels bgr" in str(report)
    path = extract_features(network, tmp_path, "test", tmp_path, mean=[0.5], std=[0.5], channels="bgr")
    features = ltpost.load(path)
    assert json.loads(features.attrs["transform"])["channels"] == "bgr"
    best = next(line for line in report.lines if line.reading == report.best)
    assert (features.logits.argmax(1) == features.labels).mean() == pytest.approx(best.measured.top1)


def test_weights_of_a_checkpoint_with_several_sets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "colours_net.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__()\n"
        "        self.fc = torch.nn.Linear(3, num_classes)\n"
        "    def forward(self, x): return self.fc(x.mean((2, 3)))\n"
    )
    labels = np.arange(10 * C) % C
    np.savez(tmp_path / "val.npz", images=colours(labels, side=8), labels=labels)
    state = {key: value for key, value in Colours(order=range(C)).state_dict().items() if key.startswith("fc.")}
    averaged = {key: value.roll(1, 0) for key, value in state.items()}
    torch.save(
        {"state_dict": state, "state_dict_ema": {**averaged, "n_averaged": torch.tensor(3)}, "acc1": 90.0}, "c.pth"
    )
    command = [
        "extract",
        "--ckpt",
        "c.pth",
        "--data",
        ".",
        "--arch",
        "colours_net:Net",
        "--mean",
        "0.5",
        "--std",
        "0.5",
    ]
    result = CliRunner().invoke(cli, [*command, "--probe", "120", "--json"], catch_exceptions=False)
    printed = json.loads(result.stdout)
    assert printed["best"]["options"] == {"weights": "state_dict"}
    assert printed["best"]["command_options"] == "--weights state_dict"
    assert printed["stored_accuracy"] == {"key": "acc1", "value": 0.9}
    assert not (tmp_path / "features").exists()
    result = CliRunner().invoke(cli, [*command, "--weights", "state_dict"], catch_exceptions=False)
    assert result.exit_code == 0
    features = ltpost.load("features/val.h5")
    assert features.attrs["weights"] == "state_dict"
    best = next(line for line in printed["readings"] if line["best"])
    assert (features.logits.argmax(1) == features.labels).mean() == pytest.approx(best["top1"])
    result = CliRunner().invoke(cli, [*command, "--weights", "ema"])
    assert (result.exit_code, "--weights ema: c.pth has state_dict_ema, state_dict" in result.output) == (2, True)
    # a head goes back into the weights that the features came from
    head = ltpost.LinearHead(features.head.weight * 2, features.head.bias)
    head.save("h.safetensors")
    words = ["export", "--head", "h.safetensors", "--ckpt", "c.pth", "--out", "new.pth"]
    assert CliRunner().invoke(cli, words, catch_exceptions=False).exit_code == 0
    new = torch.load("new.pth", weights_only=True)
    torch.testing.assert_close(new["state_dict"]["fc.weight"], 2 * state["fc.weight"])
    torch.testing.assert_close(new["state_dict_ema"]["fc.weight"], averaged["fc.weight"])
    shown = CliRunner().invoke(cli, ["inspect-ckpt", "c.pth"], catch_exceptions=False).stdout
    assert "weights: state_dict_ema, or state_dict with --weights" in shown


def test_errors(arrays):
    with pytest.raises(UsageError, match="probe= must be at least 1 image, but is 0"):
        probe(Colours(), arrays, "val", 0)
    with pytest.raises(UsageError, match="class_order=frequency needs the training samples per class"):
        probe(Colours(), arrays, "val", 10, class_order="frequency")
    result = CliRunner().invoke(cli, ["extract", "--ckpt", "x", "--json"])
    assert (result.exit_code, "--json goes with --probe N" in result.output) == (2, True)


def test_rows_over_classes():
    labels = np.repeat(np.arange(5), [50, 20, 10, 3, 1])
    rows = rows_over_classes(labels, 20)
    assert len(set(rows.tolist())) == 20
    assert sorted(np.bincount(labels[rows]).tolist()) == [1, 3, 5, 5, 6]
    assert set(labels[rows[:5]]) == set(range(5))
    assert rows.tolist() == rows_over_classes(labels, 20).tolist() != rows_over_classes(labels, 20, seed=1).tolist()
    assert sorted(rows_over_classes(labels, 1000)) == list(range(84))


def test_pixel_alternatives():
    now = Preprocess(
        256, 224, mean=STATISTICS["mean and std of ImageNet"][0], std=STATISTICS["mean and std of ImageNet"][1]
    )
    options = {alternative.name: alternative.options for alternative in pixel_alternatives(now, 3, 32)}
    assert "mean and std of ImageNet" not in options
    assert not [name for name in options if "MNIST" in name]
    assert options["size 32, as the images are"] == {"img_size": 32, "crop_pct": 1.0}
    assert options["crop fraction 1"] == {"crop_pct": 1.0}
    assert "crop fraction 0.875" not in options  # it is the current one
    assert {options[f"interpolation {method}"]["interpolation"] for method in ("bicubic", "lanczos")} == {
        "bicubic", "lanczos"
    }  # fmt: skip
    assert {"mean and std of CIFAR-10", "mean and std of CIFAR-100", "mean and std 0.5", "channels BGR"} <= set(options)
    pixels = torch.arange(0, 250, 250 // 12)[:12].reshape(1, 2, 2, 3).to(torch.uint8)
    plain = Preprocess().changed(**options["no mean and std, pixels in 0..255"]).normalise(pixels)
    torch.testing.assert_close(plain, pixels.permute(0, 3, 1, 2).float())
    caffe = next(value for name, value in options.items() if name.startswith("Caffe"))
    expected = pixels.permute(0, 3, 1, 2).flip(1).float() - torch.tensor([103.939, 116.779, 123.68]).view(3, 1, 1)
    torch.testing.assert_close(Preprocess().changed(**caffe).normalise(pixels), expected)
    grey = {alternative.name for alternative in pixel_alternatives(Preprocess(), 1, 28)}
    assert {"mean and std of MNIST", "mean and std 0.5"} <= grey
    assert not [name for name in grey if "ImageNet" in name or "BGR" in name]


# -- the numbering of classes ------------------------------------------------------------------------------------------


def test_class_order_of_given_labels(tmp_path):
    (tmp_path / "train.txt").write_text("".join(f"a.png {label}\n" for label in [0, 1, 1, 2, 2, 2, 11]))
    (tmp_path / "val.txt").write_text("a.png 2\na.png 10\na.png 0\n")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    plain, text, frequency = (
        ltpost.load(
            extract_features(Colours(), tmp_path, "val", tmp_path / f"{order}.h5", class_order=order, workers=0)
        )
        for order in (None, "string", "frequency")
    )
    assert plain.labels.tolist() == [2, 10, 0]
    assert text.labels.tolist() == [STRING_ORDER.index(label) for label in (2, 10, 0)]
    assert text.class_counts.tolist() == [plain.class_counts[label] for label in STRING_ORDER]
    assert frequency.labels.tolist() == [0, 11, 2]  # the order is 2, 1, 0, 11, 3, …, 10
    assert frequency.class_counts.tolist() == sorted(plain.class_counts, reverse=True)
    assert ("class_order" not in plain.attrs, text.attrs["class_order"]) == (True, "string")
    fingerprints = {json.loads(part.attrs["dataset"])["sha256"] for part in (plain, text, frequency)}
    assert len(fingerprints) == 3
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    with pytest.raises(DataError, match="labels must be in 0..2"):
        extract_features(network, tmp_path, "val", tmp_path / "x", class_order="string", workers=0)


def test_frequency_order_of_folders(tmp_path):
    for split, name, count in (("train", "a", 1), ("train", "b", 3), ("val", "a", 1), ("val", "b", 1)):
        (tmp_path / split / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (8, 8)).save(tmp_path / split / name / f"{number}.png")
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    features = ltpost.load(extract_features(network, tmp_path, "val", tmp_path, class_order="frequency", workers=0))
    assert (features.class_names, features.class_counts.tolist(), features.labels.tolist()) == (
        ["b", "a"],
        [3, 1],
        [1, 0],
    )
    assert open_source(tmp_path, "val").class_order == "string"


# -- real images -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not (SHARED / "cifar100lt_resnet32").is_dir(), reason="no shared data")
def test_cifar100_read_with_the_statistics_of_cifar10(monkeypatch, capsys):
    folder = SHARED / "cifar100lt_resnet32"
    few = {"statistics": ("mean and std of CIFAR-100", "mean and std 0.5"), "channels": ("channels BGR",)}

    def alternatives(*args):
        return [option for option in pixel_alternatives(*args) if option.name in few.get(option.setting, ())]

    monkeypatch.setattr(probe_module, "pixel_alternatives", alternatives)
    report = probe(folder / "resnet32_cifar100lt.pth.tar", folder / "images.npz", "test", 600)
    assert report.options == {"mean": (0.5071, 0.4867, 0.4408), "std": (0.2675, 0.2565, 0.2761)}
    assert report.stored_accuracy == ("acc1", pytest.approx(0.4047))
