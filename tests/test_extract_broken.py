"""Broken, odd and hostile inputs: one sentence that names the file, or the right rows; never a wrong row in silence."""

import io
import os
import pickle
import struct
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import click
import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from test_extract_data import Reads, touch
from torch import nn

import ltpost
from ltpost.cli import cli
from ltpost.data.features import FeatureSet
from ltpost.errors import DataError, LtpostError, UsageError
from ltpost.extract import extract_features
from ltpost.extract.checkpoints.checkpoint import read_checkpoint
from ltpost.extract.convert import convert
from ltpost.extract.data import source
from ltpost.extract.data.forms import open_source
from ltpost.extract.data.image_files import decode, walk
from ltpost.extract.data.lists import read_list
from ltpost.extract.data.pickles import unpickle_arrays
from ltpost.extract.data.source import Unreadable, read_class_counts
from ltpost.extract.messages import tell
from ltpost.extract.networks.backbone import choose_device
from ltpost.extract.networks.inspection import describe
from ltpost.extract.pixels.preprocess import Preprocess
from ltpost.extract.pixels.views import Views
from ltpost.extract.run import writer
from ltpost.extract.run.lock import held
from ltpost.extract.run.merge import merge_shards
from ltpost.extract.run.shards import Shard
from ltpost.heads import LinearHead

# -- interrupted while a file is being finished ------------------------------------------------------------------------


@pytest.fixture
def with_unreadable(tmp_path) -> Path:
    folder = tmp_path / "images"
    touch(folder, *(f"{number}.png" for number in range(12)))
    (folder / "5.png").write_bytes(b"no image")
    (folder / "val.txt").write_text("".join(f"{number}.png {number % 4}\n" for number in range(12)))
    return folder


def stop(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("window", ["before done is dropped", "before the rename"])
def test_a_stop_while_finishing_is_taken_up(window, with_unreadable, tmp_path, monkeypatch):
    whole = ltpost.load(extract_features(Reads(), with_unreadable, "val", tmp_path / "whole", workers=0))
    with monkeypatch.context() as patch:
        if window == "before the rename":
            patch.setattr(writer, "finish_file", stop)
        else:
            patch.setattr(h5py.File, "pop", stop)
        with pytest.raises(KeyboardInterrupt):
            extract_features(Reads(), with_unreadable, "val", tmp_path / "f", workers=0)
    with h5py.File(tmp_path / "f" / "val.h5.partial") as file:
        assert "valid" in file  # the stop came after it was written
    for _ in range(2):
        found = ltpost.load(extract_features(Reads(), with_unreadable, "val", tmp_path / "f", workers=0))
        np.testing.assert_array_equal(found.features, whole.features)
        assert found.num_invalid == 1


class Stopped(Reads):
    """Does one batch."""

    batches, stops = 0, True

    def forward(self, x):
        if self.batches and self.stops:
            raise KeyboardInterrupt
        self.batches += 1
        return super().forward(x)


def test_an_image_replaced_between_runs_is_noticed(with_unreadable, tmp_path):
    model = Stopped()
    with pytest.raises(KeyboardInterrupt):
        extract_features(model, with_unreadable, "val", tmp_path / "f", workers=0, batch_size=4)
    model.stops = False
    Image.fromarray(np.full((8, 8, 3), 7, np.uint8)).save(with_unreadable / "2.png")
    with pytest.raises(DataError, match="image files have been replaced since the unfinished run.*restart="):
        extract_features(model, with_unreadable, "val", tmp_path / "f", workers=0, batch_size=4)
    path = extract_features(model, with_unreadable, "val", tmp_path / "f", workers=0, batch_size=4, restart=True)
    assert "images_state" not in ltpost.load(path).attrs


# -- pickles -----------------------------------------------------------------------------------------------------------


class Given:
    """Pickled as a call of something, then a state."""

    def __init__(self, *parts):
        self.parts = parts

    def __reduce__(self):
        return self.parts


def hostile_type() -> Given:
    """A dtype with an object field whose flags say that it holds no objects: numpy follows the bytes as a pointer."""
    fields = {"a": (np.dtype("O"), 0)}
    return Given(np.dtype, ("V8", False, True), (3, "|", None, ("a",), fields, 8, 1, 0))


@pytest.mark.parametrize(
    "content",
    [
        Given(np.zeros(0).__reduce__()[0], (np.ndarray, (0,), b"b"), (1, (2,), hostile_type(), False, b"\x41" * 16)),
        Given(np.zeros(0).__reduce__()[0], (np.ndarray, (0,), b"b"), (1, (9,), np.dtype("f4"), False, b"\0" * 8)),
        Given(np.zeros(0).__reduce__()[0], (np.ndarray, (0,), b"b"), (1, (-2,), np.dtype("f4"), False, b"")),
        Given(np.zeros(0).__reduce__()[0], (np.ndarray, (0,), b"b")),
        Given(np.float64(0).__reduce__()[0], (hostile_type(), b"\x41" * 8)),
        np.array([object()], dtype=object).dtype,
        np.array([None, 1], dtype=object),
        np.zeros(2, [("a", "f4"), ("b", "f4")]),
    ],
)
def test_no_state_of_a_pickle_reaches_numpy(content, tmp_path):
    (tmp_path / "p").write_bytes(pickle.dumps({"feats": content}, protocol=4))
    with pytest.raises(DataError, match="cannot be read as a pickle of arrays"):
        unpickle_arrays(tmp_path / "p")


@pytest.mark.parametrize("protocol", range(2, 6))
def test_plain_arrays_come_back(protocol, tmp_path):
    arrays = {
        "f": np.arange(6.0, dtype=np.float32).reshape(2, 3),
        "big": np.arange(6, dtype=">i4").reshape(3, 2).T,
        "text": np.array(["a", "ü"]),
        "number": np.float16(2),
    }
    (tmp_path / "p").write_bytes(pickle.dumps({"all": [arrays, tuple(arrays.values())]}, protocol=protocol))
    found = next(iter(unpickle_arrays(tmp_path / "p").values()))
    for array, in_dict, in_tuple in zip(arrays.values(), found[0].values(), found[1], strict=True):
        for read in (in_dict, in_tuple):
            assert read.dtype == array.dtype
            np.testing.assert_array_equal(read, array)


# -- folders, lists, counts --------------------------------------------------------------------------------------------


def test_an_unreadable_class_folder_is_an_error(tmp_path, monkeypatch):
    touch(tmp_path, "val/a/1.png", "val/b/1.png", "val/b/sub/2.png")
    scandir = os.scandir

    def refusing(folder):
        if Path(folder).name == "sub":
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(DataError, match=r"val/b/sub: this folder cannot be read \(Permission denied\)"):
        open_source(tmp_path, "val")


def test_a_link_back_does_not_multiply_rows(tmp_path):
    touch(tmp_path, "val/a/1.png", "val/b/1.png", "elsewhere/2.png")
    (tmp_path / "val" / "a" / "again").symlink_to("..")
    (tmp_path / "val" / "b" / "more").symlink_to("../../elsewhere")  # an ordinary link is followed
    assert open_source(tmp_path, "val").paths == ["val/a/1.png", "val/b/1.png", "val/b/more/2.png"]


def test_the_current_folder_is_walked_as_any_other(tmp_path, monkeypatch):
    touch(tmp_path, "val/a/1.png", "val/b/1.png")
    monkeypatch.chdir(tmp_path)
    assert sorted(folder for folder, _, _ in walk(Path())) == [".", "./val", "./val/a", "./val/b"]


def test_a_fifo_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "1.png")
    found = []
    thread = threading.Thread(target=lambda: found.append(decode(tmp_path / "1.png")), daemon=True)
    thread.start()
    thread.join(10)
    assert found == [Unreadable("is not a regular file")]


def test_names_that_are_not_utf8(tmp_path):
    touch(tmp_path, "val/a/1.png", "val/b/1.png")
    (tmp_path / "val" / "a" / "1.png").rename(tmp_path / "val" / "a" / os.fsdecode(b"\xff.png"))
    found = ltpost.load(extract_features(Reads(2), tmp_path, "val", tmp_path / "f", workers=0))
    assert found.paths == ["val/a/\\xff.png", "val/b/1.png"]
    assert found.num_invalid == 0


def test_a_byte_order_mark_loses_no_row(tmp_path):
    touch(tmp_path, "1.png", "2.png")
    (tmp_path / "val.txt").write_text("1.png 0\n2.png 1\n", encoding="utf-8-sig")
    assert read_list(tmp_path / "val.txt")[0] == ["1.png", "2.png"]
    (tmp_path / "counts.txt").write_text("3\n4\n", encoding="utf-8-sig")
    assert read_class_counts(tmp_path / "counts.txt").tolist() == [3, 4]


@pytest.mark.parametrize("label", ["--1", "²", str(2**63), "1e3", "+-1"])
def test_odd_labels(label, tmp_path):
    (tmp_path / "val.txt").write_text(f"1.png {label}\n")
    with pytest.raises(DataError, match=r"val.txt:1: must be 'path label' with a whole number at the end"):
        read_list(tmp_path / "val.txt")


def test_nul_in_a_path(tmp_path):
    (tmp_path / "val.txt").write_text("a\0b.png 1\n")
    with pytest.raises(DataError, match="val.txt:1: must be 'path label'"):
        read_list(tmp_path / "val.txt")


def test_numbers_beyond_64_bits(tmp_path):
    (tmp_path / "counts.json").write_text(f"[{2**63}]")
    with pytest.raises(DataError, match="counts.json: class counts must fit into 64 bits"):
        read_class_counts(tmp_path / "counts.json")
    labels = np.array([2**63, 1], np.uint64)
    np.savez(tmp_path / "val.npz", images=np.zeros((2, 4, 4, 3), np.uint8), labels=labels)
    with pytest.raises(DataError, match="'labels' must fit into 64 bits"):
        open_source(tmp_path, "val")


@pytest.mark.parametrize("split", ["", ".", "..", "a/b", "a\0"])
def test_odd_names_of_splits(split, tmp_path):
    for call in (lambda: open_source(tmp_path, split), lambda: extract_features(Reads(), tmp_path, split, tmp_path)):
        with pytest.raises(UsageError, match="split= must be a name like train, val or test"):
            call()


# -- archives and images -----------------------------------------------------------------------------------------------


def png() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(stream, "png")
    return stream.getvalue()


def save_tar(file: Path, members: list[tuple[str, bytes]]) -> None:
    with tarfile.open(file, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def test_tar_keys(tmp_path):
    rows = [("a.b.png", png()), ("a.b.cls", b"1"), ("c.png", png()), ("c.mask.png", png()), ("c.cls", b" 2\n")]
    save_tar(tmp_path / "val.tar", rows)
    found = open_source(tmp_path, "val")
    assert found.paths == ["val.tar/a.b.png", "val.tar/c.png"]
    assert found.labels.tolist() == [1, 2]
    for more, wrong in (([("c.jpg", png())], "c.jpg"), ([("c.cls", b"0")], "c.cls")):
        save_tar(tmp_path / "val.tar", rows + more)
        with pytest.raises(DataError, match=f"must hold every key once, but '{wrong}' is not the first of its key"):
            open_source(tmp_path, "val")
    save_tar(tmp_path / "val.tar", [("x.left.png", png()), ("x.cls", b"1")])
    with pytest.raises(DataError, match="'x.left.png' has no .cls beside it"):
        open_source(tmp_path, "val")
    for label in ("²".encode(), b"--1", str(2**63).encode()):
        save_tar(tmp_path / "val.tar", [("x.png", png()), ("x.cls", label)])
        with pytest.raises(DataError, match=r"val.tar: cannot be read as a tar file .*a label must be a whole number"):
            open_source(tmp_path, "val")


def test_damaged_npz_files(tmp_path):
    file = tmp_path / "val.npz"
    rng = np.random.default_rng(0)
    np.savez_compressed(file, images=rng.integers(0, 256, (20, 4, 4, 3), dtype=np.uint8), labels=np.arange(20) % 4)
    good, refused = file.read_bytes(), 0
    for _ in range(150):
        broken = bytearray(good)
        for place in rng.integers(0, len(good), 3):
            broken[place] = rng.integers(256)
        file.write_bytes(broken[: rng.integers(len(good))] if rng.random() < 0.2 else broken)
        refused += sum(is_refused(read, file) for read in (read_images, convert_away))
    assert refused > 100


def is_refused(read: Callable[[Path], None], file: Path) -> bool:
    """Whether the file is refused in a sentence that names it; any other error fails the test."""
    message = ""
    try:
        read(file)
    except LtpostError as error:
        message = str(error)
    assert not message or file.name in message
    return bool(message)


def read_images(file: Path) -> None:
    images = open_source(file, "val").images
    try:
        assert len(list(images.read(slice(0, 20)))) == 20
    finally:
        images.close()


def convert_away(file: Path) -> None:
    convert(file, file.with_name("out.h5"))


def test_16_bit_images_are_not_clipped(tmp_path):
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / "1.png")
    pixels = np.asarray(decode(tmp_path / "1.png"))
    np.testing.assert_array_equal(pixels, np.repeat((ramp >> 8).astype(np.uint8)[..., None], 3, axis=2))
    Image.fromarray(ramp.astype(np.float32)).save(tmp_path / "2.tif")
    assert "must be whole numbers" in decode(tmp_path / "2.tif").reason


@pytest.mark.parametrize(
    "content",
    [
        b"DDS " + struct.pack("<7I", 124, 0, 4, 4, 0, 0, 0) + b"\0" * 200,
        b"\0\0\0\x1cftypavif" + b"\0" * 100,
        b"BM" + b"\xff" * 60,
    ],
)
def test_odd_formats_are_unreadable(content, tmp_path):
    (tmp_path / "1.jpg").write_bytes(content)
    assert isinstance(decode(tmp_path / "1.jpg"), Unreadable)


# -- checkpoints -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("container", "message"),
    [
        ({"model": 5}, "holds no tensors where ltpost looks for them"),
        ({"model": 5, "state_dict": [1]}, "holds no tensors"),
        ({"state_dict": {0: torch.zeros(2, 2), 1: torch.zeros(2)}}, "its tensors do not show its architecture"),
        ({0: torch.zeros(2, 2)}, "its tensors do not show its architecture"),
        ({"state_dict_best": {"classifier": {5: torch.zeros(1)}}}, "holds no tensors|do not show"),
        ({"fc.weight": torch.zeros(3, 4).to_sparse()}, "tensor 'fc.weight' must be a plain tensor.* but is sparse_coo"),
        ({"fc.weight": torch.zeros(3, 4).to(torch.float8_e4m3fn)}, "'fc.weight' must be .* but is float8_e4m3fn"),
        ({"fc.weight": torch.zeros(3, 4, dtype=torch.complex64)}, "'fc.weight' must be .* but is complex64"),
    ],
)
def test_odd_checkpoints(container, message, tmp_path):
    torch.save(container, tmp_path / "c.pth")
    np.savez(tmp_path / "val.npz", images=np.zeros((2, 4, 4, 3), np.uint8), labels=[0, 1])
    with pytest.raises(LtpostError, match=message):
        extract_features(tmp_path / "c.pth", tmp_path, "val", tmp_path / "f")
    assert "c.pth" in describe(tmp_path / "c.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_checkpoints(zipped, tmp_path):
    torch.save({"state_dict": nn.Linear(8, 4).state_dict()}, tmp_path / "c.pth", _use_new_zipfile_serialization=zipped)
    whole = (tmp_path / "c.pth").read_bytes()
    for length in range(0, len(whole), len(whole) // 60):
        (tmp_path / "c.pth").write_bytes(whole[:length])
        with pytest.raises(DataError, match="c.pth: "):
            read_checkpoint(tmp_path / "c.pth")


@pytest.mark.parametrize("content", [b"hello\n", b"epoch: 3\nmodel: resnet50\n", b"", b"c\n" * 50])
def test_inspection_of_a_text_file(content, tmp_path):
    (tmp_path / "c.pth").write_bytes(content)
    with pytest.raises(DataError, match="c.pth: is not a checkpoint that torch can read, or it is damaged"):
        describe(tmp_path / "c.pth")


# -- convert -----------------------------------------------------------------------------------------------------------


def small_file(path: Path) -> Path:
    rng = np.random.default_rng(0)
    return FeatureSet(rng.normal(size=(6, 3)).astype(np.float32), np.arange(6) % 2, split="val").save(path)


def test_convert_does_not_overwrite_its_source(tmp_path):
    file = small_file(tmp_path / "val.h5")
    before = file.read_bytes()
    (tmp_path / "link.h5").symlink_to(file)
    for target in (file, tmp_path / "link.h5"):
        with pytest.raises(UsageError, match="is the source itself"):
            convert(file, target)
    assert file.read_bytes() == before


def test_two_conversions_to_one_file(tmp_path):
    file = small_file(tmp_path / "val.h5")
    pid = os.fork()  # a lock is of a process
    if pid == 0:
        with held(tmp_path / "out.h5"):
            (tmp_path / "ready").touch()
            while not (tmp_path / "go").exists():
                time.sleep(0.05)
        os._exit(0)
    try:
        while not (tmp_path / "ready").exists():
            time.sleep(0.05)
        with pytest.raises(DataError, match=f"out.h5: is being written by process {pid}"):
            convert(file, tmp_path / "out.h5")
    finally:
        (tmp_path / "go").touch()
        os.waitpid(pid, 0)
    assert len(ltpost.load(convert(file, tmp_path / "out.h5"))) == 6


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: choose_device("meta"), "device= must be auto, cpu"),
        (lambda: Preprocess(8, 8).changed(crop_pct=1e-9), "must give images of at most 16384 pixels a side"),
        (lambda: Preprocess(std=(float("inf"),)), "std= must be positive"),
        (lambda: Preprocess(mean=(float("nan"),)), "mean= must be numbers"),
        (lambda: Views(Preprocess(), seed=-1), "seed= must be at least 0"),
        (lambda: Shard(5, 3), "shard= must be i/n"),
        (lambda: merge_shards(""), "must have a name"),
    ],
)
def test_odd_options(call, message):
    with pytest.raises(UsageError, match=message):
        call()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"expect_top1": float("nan")}, "expect_top1= must be a fraction or percent, but is nan"),
        ({"expect_top1": 101}, "expect_top1= must be"),
        ({"max_bad": -1}, "max_bad= must be at least 0"),
        ({"expert": "²"}, "expert= must be a number, or all, but is '²'"),
        ({"head_scale": float("nan")}, "head_scale= must be positive"),
        ({"shard": "²/4"}, "shard= must be i/n"),
    ],
)
def test_odd_options_of_extract(options, message, tmp_path):
    np.savez(tmp_path / "val.npz", images=np.zeros((4, 4, 4, 3), np.uint8), labels=np.arange(4))
    torch.save({"fc.weight": torch.zeros(4, 4)}, tmp_path / "c.pth")
    with pytest.raises(UsageError, match=message):
        extract_features(tmp_path / "c.pth", tmp_path, "val", tmp_path / "f", **options)


def test_lines_of_a_command_name_its_options(capsys):
    tell("another order (class_order=, a list)")
    group = click.Context(cli)
    group.invoked_subcommand = "extract"
    with click.Context(cli.get_command(group, "extract"), parent=group):
        tell("another order (class_order=, a list)")
    python, command = capsys.readouterr().err.splitlines()
    assert python == "ltpost: another order (class_order=, a list)"
    assert command == "ltpost: another order (--class-order, a list)"


# -- processes ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def shards(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "val.npz", images=rng.integers(0, 256, (12, 4, 4, 3), dtype=np.uint8), labels=np.arange(12) % 4)
    for index in range(2):
        extract_features(Reads(), tmp_path, "val", tmp_path / "f", shard=(index, 2), batch_size=2)
    return tmp_path / "f"


def changed_head(file: h5py.File) -> None:
    file["head/weight"][0, 0] += 1


def unfinished(file: h5py.File) -> None:
    file.attrs["state"] = "partial"


def a_row_less(file: h5py.File) -> None:
    for key in ("features", "labels", "logits"):
        rows = file[key][:-1]
        del file[key]
        file[key] = rows


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed_head, r"1-of-2.h5: does not belong to 0-of-2.h5 \(head/weight differ\)"),
        (unfinished, r"1-of-2.h5: does not belong to 0-of-2.h5 \(state differ\)"),
        (a_row_less, "the shards must have 12 rows, but have 11"),
    ],
)
def test_shards_that_do_not_fit(change, message, shards):
    with h5py.File(shards / "val.shards" / "1-of-2.h5", "r+") as file:
        change(file)
    with pytest.raises(DataError, match=message):
        merge_shards(shards / "val.h5")
    assert not (shards / "val.h5").exists()


def test_a_merge_that_was_stopped_after_the_rename(shards):
    kept = {file: file.read_bytes() for file in (shards / "val.shards").iterdir()}
    merge_shards(shards / "val.h5")
    before = (shards / "val.h5").read_bytes()
    assert merge_shards(shards / "val.h5") == shards / "val.h5"  # all shards were gone
    (shards / "val.shards").mkdir()
    (shards / "val.shards" / "1-of-2.h5").write_bytes(kept[shards / "val.shards" / "1-of-2.h5"])  # one was not
    merge_shards(shards / "val.h5")
    assert (shards / "val.h5").read_bytes() == before
    assert [path.name for path in shards.iterdir()] == ["val.h5"]


def test_a_rank_that_starts_after_the_merge(shards, tmp_path, monkeypatch):
    merge_shards(shards / "val.h5")
    before = (shards / "val.h5").read_bytes()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert extract_features(Reads(), tmp_path, "val", shards, batch_size=2) == shards / "val.h5"
    assert (shards / "val.h5").read_bytes() == before
    assert [path.name for path in shards.iterdir()] == ["val.h5"]


def test_a_merge_leaves_what_another_process_has_begun(shards):
    (shards / "val.shards" / "0-of-3.h5.partial").write_bytes(b"another run")
    merge_shards(shards / "val.h5")
    assert [path.name for path in (shards / "val.shards").iterdir()] == ["0-of-3.h5.partial"]


class Dying(Reads):
    """Torch raises the death of a worker inside whatever this process is doing."""

    def forward(self, x):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")


def test_a_killed_worker_is_not_the_model(tmp_path):
    np.savez(tmp_path / "val.npz", images=np.zeros((4, 4, 4, 3), np.uint8), labels=np.arange(4))
    with pytest.raises(DataError, match=r"a process that decodes images died .*; try workers=0"):
        extract_features(Dying(), tmp_path, "val", tmp_path / "f")


def test_the_state_of_files_changes_with_them(tmp_path):
    (tmp_path / "1").write_bytes(b"a")
    files = [tmp_path / "1", tmp_path / "gone"]
    before = source.sha256_of_files(files)
    assert source.sha256_of_files(files) == before
    (tmp_path / "1").write_bytes(b"ab")
    assert source.sha256_of_files(files) != before


def test_convert_keeps_the_biases_of_experts(tmp_path):
    rng = np.random.default_rng(0)
    biases = rng.normal(size=(2, 4)).astype(np.float32)
    head = LinearHead(rng.normal(size=(4, 6)), biases.mean(axis=0))
    features = rng.normal(size=(8, 6)).astype(np.float32)
    FeatureSet(features, np.arange(8) % 4, head=head, expert_bias=biases, split="val", attrs={"experts": 2}).save(
        tmp_path / "val.h5"
    )
    (tmp_path / "counts.json").write_text("[9, 5, 2, 1]")
    found = ltpost.load(convert(tmp_path / "val.h5", tmp_path / "o.h5", class_counts=tmp_path / "counts.json"))
    np.testing.assert_array_equal(found.expert_bias, biases)
    torch.save({"fc.weight": torch.zeros(4, 6), "fc.bias": torch.ones(4)}, tmp_path / "c.pth")
    other = ltpost.load(convert(tmp_path / "val.h5", tmp_path / "p.h5", ckpt=tmp_path / "c.pth"))
    assert other.expert_bias is None  # they belonged to the other head
