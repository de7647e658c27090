"""Several splits in one run: the network is opened once, what is missing is said first, finished files stay."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import ltpost
from ltpost.errors import UsageError
from ltpost.extract import extract_splits
from ltpost.extract.command import extract
from ltpost.extract.networks import opening
from ltpost.extract.networks.cifar_resnet import CifarResNet


@pytest.fixture
def data(tmp_path):
    for number, split in enumerate(("train", "val", "test")):
        images = np.random.default_rng(number).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
        np.savez(tmp_path / f"{split}.npz", images=images, labels=np.arange(6) % 3)
    return tmp_path


def test_one_run_opens_the_network_once_and_keeps_finished_files(data, monkeypatch):
    torch.save(CifarResNet(8, 3).state_dict(), data / "net.pth")
    opened, read = [], opening.read_checkpoint
    monkeypatch.setattr(opening, "read_checkpoint", lambda *args: opened.append(args) or read(*args))
    words = ["--ckpt", str(data / "net.pth"), "--data", str(data), "--out", str(data / "f")]
    result = CliRunner().invoke(extract, [*words, "--split", "train,val", "--split", "test"], catch_exceptions=False)
    assert [line.split()[-1] for line in result.stderr.splitlines() if " wrote " in line] == [
        str(data / "f" / f"{split}.h5") for split in ("train", "val", "test")
    ]
    assert len(opened) == 1
    assert ltpost.load(data / "f" / "test.h5").class_counts.tolist() == [2, 2, 2]
    before = [path.stat().st_ino for path in sorted((data / "f").iterdir())]
    (data / "f" / "val.h5").unlink()
    again = CliRunner().invoke(extract, [*words, "--split", "train,val,test"], catch_exceptions=False)
    assert again.stderr.count("is finished already") == 2
    after = [path.stat().st_ino for path in sorted((data / "f").iterdir())]
    assert [one == other for one, other in zip(before, after, strict=True)][:2] == [True, True]
    assert len(ltpost.load(data / "f" / "val.h5")) == 6


def test_what_is_missing_is_said_before_anything_is_extracted(data):
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    for splits, options, message in (
        (["train", "tset"], {}, "holds no split 'tset'"),
        ([], {}, "split= must name at least one split"),
        (["train", "val"], {"out": data / "f" / "one.h5"}, "out= must be a folder where there are several splits"),
        (["train", "val"], {"list_file": data / "a.txt"}, r"list_file= must hold \{split\}"),
    ):
        with pytest.raises(UsageError, match=message):
            extract_splits(model, data, splits, **{"out": data / "f", **options})
    assert not (data / "f").exists()


def test_a_list_for_every_split(tmp_path):
    image = pytest.importorskip("PIL.Image")
    for split in ("train", "val"):
        image.new("RGB", (4, 4), (len(split), 0, 0)).save(tmp_path / f"{split}.png")
        (tmp_path / f"LT_{split}.txt").write_text(f"{split}.png 1\n")
    model, out = nn.Sequential(nn.Flatten(), nn.Linear(48, 2)), tmp_path / "f"
    paths = extract_splits(model, tmp_path, ["train", "val"], out, list_file=tmp_path / "LT_{split}.txt", workers=0)
    assert [ltpost.load(path).paths for path in paths] == [["train.png"], ["val.png"]]
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    paths = extract_splits(model, tmp_path, ["val"], out, workers=0, class_names=tmp_path / "names.txt")
    assert ltpost.load(paths[0]).class_names == ["cat", "dog"]
