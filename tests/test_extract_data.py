"""Data as it lies on disk: lists, tables, pickles, class orders, presets, and what is checked of it."""

import io
import os
import pickle
import tarfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import nn

import ltpost
from ltpost.errors import DataError, UsageError
from ltpost.extract import extract_features
from ltpost.extract.data.forms import open_source
from ltpost.extract.data.lists import read_list, resolve
from ltpost.extract.data.pickles import unpickle_arrays
from ltpost.extract.data.presets import PRESETS

Image = pytest.importorskip("PIL.Image")
SHARED = Path(os.environ.get("LTPOST_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(root / name)
    return root


class Reads(nn.Module):
    """Reads the label off the first pixel's red, level * 20; ``shift`` numbers the classes otherwise."""

    def __init__(self, num_classes=4, shift=0):
        super().__init__()
        self.num_classes, self.shift = num_classes, shift
        self.fc = nn.Linear(num_classes, num_classes, bias=False)
        self.fc.weight.data = torch.eye(num_classes)

    def forward(self, x):
        level = (x[:, 0, 0, 0] * 255 / 20).round().long()
        return self.fc(nn.functional.one_hot((level + self.shift) % self.num_classes, self.num_classes).float())


def save_levels(file: Path, labels, **more) -> Path:
    images = np.zeros((len(labels), 8, 8, 3), np.uint8)
    images[:] = 20 * np.asarray(labels)[:, None, None, None]
    np.savez(file, images=images, labels=np.asarray(labels), **more)
    return file


def test_class_orders(tmp_path):
    touch(tmp_path, *(f"{split}/{name}/0.png" for split in ("train", "val") for name in ("2", "10", "b1")))
    assert open_source(tmp_path, "val").class_names == ["10", "2", "b1"]
    natural = open_source(tmp_path, "val", class_order="natural")
    assert natural.class_names == ["2", "10", "b1"]
    assert [path.split("/")[1] for path in natural.paths] == ["2", "10", "b1"]
    with pytest.raises(UsageError, match="class_order= must be string, natural or frequency"):
        open_source(tmp_path, "val", class_order="random")
    found = ltpost.load(extract_features(Reads(3), tmp_path, "val", tmp_path / "f", class_order="natural", workers=0))
    assert found.attrs["class_order"] == "natural"


def test_natural_order_is_timm_s():
    natural_key = pytest.importorskip("timm.data.readers.reader_image_folder").natural_key
    from ltpost.extract.data.class_order import natural

    names = ["a10", "a2", "10", "9", "b", "A1", "a02", "class 3", "class 12", "1a", "1"]
    assert sorted(names, key=natural) == sorted(names, key=natural_key)


def test_a_class_that_is_missing_in_val_shifts_nothing(tmp_path):
    touch(tmp_path, "train/a/0.png", "train/b/0.png", "train/c/0.png", "val/c/0.png", "val/a/0.png")
    assert open_source(tmp_path, "val").labels.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("on_disk", "listed"),
    [
        (("train/air field/1.jpg", "train/bar/1.jpg"), ("data_256/a/air field/1.jpg", "data_256/b/bar/1.jpg")),
        (("data_256/a/air field/1.jpg", "data_256/b/bar/1.jpg"), ("train/air field/1.jpg", "train/bar/1.jpg")),
        (("train/a/out/1.jpg", "train/b/out/1.jpg"), ("data_256/x/a/out/1.jpg", "data_256/x/b/out/1.jpg")),
        (("train/a/1.jpg", "val/a/1.jpg"), ("data_256/a/1.jpg",)),
    ],
)
def test_both_path_variants_of_places(tmp_path, on_disk, listed):
    touch(tmp_path, *on_disk)
    assert resolve(tmp_path, list(listed), "train") == list(on_disk[: len(listed)])


def test_paths_that_cannot_be_told(tmp_path):
    touch(tmp_path, "one/a/1.jpg", "two/a/1.jpg")
    with pytest.raises(DataError, match=r"'x/a/1.jpg' could be several files \(one/a/1.jpg, two/a/1.jpg\)"):
        resolve(tmp_path, ["x/a/1.jpg"], "val")
    assert resolve(tmp_path, ["x/b/1.jpg"], "val") is None
    assert resolve(tmp_path, ["one/a/1.jpg", "gone.jpg"], "val") == ["one/a/1.jpg", "gone.jpg"]


@pytest.mark.skipif(not (SHARED / "longtail_lists").is_dir(), reason="no shared data")
def test_real_lists():
    lists = SHARED / "longtail_lists"
    for name, rows, classes in (
        ("Places_LT_train", 62500, 365), ("Places_LT_val", 7300, 365), ("ImageNet_LT_val", 20000, 1000),
        ("iNaturalist18_val", 24426, 8142),
    ):  # fmt: skip
        paths, labels = read_list(lists / f"{name}.txt")
        assert (len(paths), labels.max() + 1) == (rows, classes)
    counts = np.bincount(read_list(lists / "Places_LT_train.txt")[1])
    assert (counts.max(), counts.min()) == (4980, 5)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_tables(tmp_path, suffix):
    pd = pytest.importorskip("pandas")
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    touch(tmp_path, "a 1.png", "b.png")
    for split, labels in (("val", [0, 2]), ("train", [1, 1])):
        table = pd.DataFrame({"width": [8, 8], "path": ["a 1.png", "b.png"], "label": labels})
        table.to_csv(tmp_path / f"{split}.csv") if suffix == ".csv" else table.to_parquet(tmp_path / f"{split}{suffix}")
    source = open_source(tmp_path, "val")
    assert (source.paths, source.labels.tolist()) == (["a 1.png", "b.png"], [0, 2])
    assert source.class_counts(3).tolist() == [0, 2, 0]
    (tmp_path / "l.csv").write_text("file,label\na,1\n")
    with pytest.raises(DataError, match="must have the columns 'path' and 'label', but has file, label"):
        read_list(tmp_path / "l.csv")
    (tmp_path / "l.csv").write_text("path,label\na,cat\n")
    with pytest.raises(DataError, match="column 'label' must hold whole numbers"):
        read_list(tmp_path / "l.csv")
    (tmp_path / "l.csv").write_text("")
    with pytest.raises(DataError, match="cannot be read as a table"):
        read_list(tmp_path / "l.csv")
    (tmp_path / "val.txt").write_text("b.png 0\n")
    with pytest.raises(UsageError, match="has several lists for 'val'"):
        open_source(tmp_path, "val")


@pytest.mark.parametrize("kind", ["cifar-10-batches-py", "cifar-100-python"])
def test_cifar_pickles(tmp_path, kind):
    folder = tmp_path / kind
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (6, 3072), dtype=np.uint8)
    names = [f"data_batch_{n}" for n in range(1, 6)] if "10-" in kind else ["train"]
    key = b"labels" if "10-" in kind else b"fine_labels"
    for file in (*names, "test_batch" if "10-" in kind else "test"):
        (folder / file).write_bytes(pickle.dumps({b"data": pixels, key: [0, 1, 2, 0, 1, 2]}, protocol=2))
    meta = ("batches.meta", b"label_names") if "10-" in kind else ("meta", b"fine_label_names")
    (folder / meta[0]).write_bytes(pickle.dumps({meta[1]: [b"ant", b"bee", b"cat"]}, protocol=2))
    for data in (tmp_path, folder):
        source = open_source(data, "test")
        assert (source.class_names, source.labels.tolist()) == (["ant", "bee", "cat"], [0, 1, 2, 0, 1, 2])
        images = list(source.images.read(slice(1, 3)))
        np.testing.assert_array_equal(images[0], pixels[1].reshape(3, 32, 32).transpose(1, 2, 0))
        assert source.class_counts(3) is None  # a long-tailed part of it was trained on, which the file does not know
    assert len(open_source(tmp_path, "train")) == 6 * len(names)


def save_tar(file: Path, rows: dict[str, bytes]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as archive:
        for name, content in rows.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("name", ["{split}-{number:06d}.tar", "{split}/{number:06d}.tar"])
def test_webdataset(tmp_path, name):
    plain = touch(tmp_path / "plain", *(f"{number}.png" for number in range(5)))
    for number in range(5):
        Image.new("RGB", (8, 8), (20 * (number % 4), 0, 0)).save(plain / f"{number}.png")
    (plain / "val.txt").write_text("".join(f"{number}.png {number % 4}\n" for number in range(5)))
    pictures = [(plain / f"{number}.png").read_bytes() for number in range(5)]
    pictures[3] = b"not a picture"
    for split in ("train", "val"):
        for shard, part in enumerate((range(3), range(3, 5))):
            rows = {}
            for number in part:
                rows |= {f"a b/{number}.cls": b"%d" % (number % 4), f"a b/{number}.png": pictures[number],
                         f"a b/{number}.json": b"{}"}  # fmt: skip
            save_tar(tmp_path / "tars" / name.format(split=split, number=shard), rows)
    listed = ltpost.load(extract_features(Reads(), plain, "val", tmp_path / "l", workers=0))
    found = ltpost.load(extract_features(Reads(), tmp_path / "tars", "val", tmp_path / "t", batch_size=2, workers=0))
    np.testing.assert_array_equal(found.features, np.delete(listed.features, 3, axis=0))
    assert found.labels.tolist() == [0, 1, 2, 0]
    assert found.class_counts.tolist() == [2, 1, 1, 1]
    assert found.num_invalid == 1
    assert found.paths[0].endswith("000000.tar/a b/0.png")


def test_wrong_tars(tmp_path):
    (tmp_path / "val-0.tar").write_bytes(b"hello" * 200)
    with pytest.raises(DataError, match="cannot be read as a tar file"):
        open_source(tmp_path, "val")
    save_tar(tmp_path / "val-0.tar", {"1.jpg": b"x"})
    with pytest.raises(DataError, match="but '1.jpg' has no .cls beside it"):
        open_source(tmp_path, "val")
    save_tar(tmp_path / "val-0.tar", {"1.cls": b"cat", "1.jpg": b"x"})
    with pytest.raises(DataError, match="cannot be read as a tar file of images and .cls labels"):
        open_source(tmp_path, "val")


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil",)


def test_nothing_is_run_from_a_pickle(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("p").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(DataError, match=r"refers to (posix|nt).system, and ltpost never runs pickled code"):
        unpickle_arrays(Path("p"))
    assert not Path("evil").exists()
    Path("p").write_bytes(b"hello")
    with pytest.raises(DataError, match="cannot be read as a pickle of arrays"):
        unpickle_arrays(Path("p"))
    array = np.arange(6.0).reshape(2, 3)
    Path("p").write_bytes(pickle.dumps({"a": array, "b": np.float32(2)}))
    np.testing.assert_array_equal(unpickle_arrays(Path("p"))["a"], array)


def test_presets(tmp_path):
    save_levels(tmp_path / "val.npz", np.arange(100) % 5)
    with pytest.raises(UsageError, match="dataset= must be one of imagenet-lt, places-lt, inat18, cifar100-lt"):
        extract_features(Reads(), tmp_path, "val", tmp_path, dataset="mnist")
    with pytest.raises(DataError, match="dataset=inat18 has 8142 classes, but the classifier has 4"):
        extract_features(Reads(), tmp_path, "val", tmp_path, dataset="inat18")
    found = ltpost.load(extract_features(Reads(100), tmp_path, "val", tmp_path, dataset="cifar100-lt"))
    assert '"mean": [0.4914, 0.4822, 0.4465]' in found.attrs["transform"]
    touch(tmp_path, "images/1.png")
    for name in ("iNaturalist18_train.txt", "iNaturalist18_val.txt"):
        (tmp_path / name).write_text("images/1.png 3\n")
    source = open_source(tmp_path, "val", dataset="inat18")
    assert source.name.endswith("iNaturalist18_val.txt")
    assert source.class_counts(PRESETS["inat18"].num_classes)[:5].tolist() == [0, 0, 0, 1, 0]


def test_joint_accuracy_is_told(tmp_path, capsys):
    save_levels(tmp_path / "train.npz", [0] * 101 + [1] * 50 + [2] * 3 + [3])
    save_levels(tmp_path / "val.npz", np.arange(8) % 4)
    extract_features(Reads(), tmp_path, "val", tmp_path)
    told = capsys.readouterr().err
    assert "joint accuracy in %: many 100.0" in told
    assert "top1 100.0" in told
    assert "warning" not in told


def test_permuted_classes_are_noticed(tmp_path, capsys):
    save_levels(tmp_path / "val.npz", np.arange(8) % 4)
    extract_features(Reads(shift=1), tmp_path, "val", tmp_path, logits=False)
    assert "warning: top-1 0.0" in (told := capsys.readouterr().err)
    assert "is no better than 1/C = 25.0" in told
    assert "the classes are numbered otherwise (class_order=" in told
    good = extract_features(Reads(), tmp_path, "val", tmp_path, expect_top1=100.0)
    before = good.read_bytes()
    with pytest.raises(DataError, match=r"top-1 must be 99.00 .* but is 0.00: .* or discarded by one with restart="):
        extract_features(Reads(shift=1), tmp_path, "val", tmp_path, expect_top1=0.99)
    assert good.read_bytes() == before


def test_unreadable_images(tmp_path, capsys):
    touch(tmp_path, *(f"{number}.png" for number in range(30)))
    for number in range(15):
        (tmp_path / f"{number}.png").write_bytes(b"")
    (tmp_path / "20.png").unlink()
    (tmp_path / "val.txt").write_text("".join(f"{number}.png {number % 4}\n" for number in range(30)))
    path = extract_features(Reads(), tmp_path, "val", tmp_path / "f", batch_size=8, workers=0)
    told = capsys.readouterr().err
    assert told.count("cannot be read") == 10  # then it is quiet
    assert "16 of 30 rows could not be read; they are marked and left out" in told
    found = ltpost.load(path)
    assert (len(found), found.num_invalid) == (14, 16)
    with h5py.File(path) as file:
        assert file["errors/row"][:].tolist() == [*range(15), 20]
        assert b"No such file" in file["errors/reason"][15]
        assert file["labels"].shape == (30,)
    with pytest.raises(DataError, match=r"more than 3 images cannot be read \(max_bad=\), the last one 3.png"):
        extract_features(Reads(), tmp_path, "val", tmp_path / "g", batch_size=8, workers=0, max_bad=3)
    again = ltpost.load(extract_features(Reads(), tmp_path, "val", tmp_path / "f", batch_size=8, workers=0, max_bad=16))
    assert again.num_invalid == 16


def test_no_readable_image_at_all_is_an_error(tmp_path):
    touch(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg", "val/b/1.jpg")
    for name in ("a", "b"):
        (tmp_path / "val" / name / "1.jpg").write_text("no image")
    with pytest.raises(DataError, match="none of the 2 images can be read"):
        extract_features(Reads(2), tmp_path, "val", tmp_path / "f", workers=0)
    assert not (tmp_path / "f" / "val.h5").exists()


def test_truncated_jpeg_is_unreadable(tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "0.jpg")
    whole = (tmp_path / "0.jpg").read_bytes()
    (tmp_path / "1.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "val.txt").write_text("0.jpg 0\n1.jpg 1\n")
    found = ltpost.load(extract_features(Reads(), tmp_path, "val", tmp_path / "f", workers=0))
    assert found.num_invalid == 1
