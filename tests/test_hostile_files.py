"""What the fuzzer has found in files that strangers may send: each case as it was found, in its smallest form."""

import io
import json
import os
import pickle
import warnings
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from test_extract_data import Reads, touch

import ltpost
from ltpost.errors import DataError, LtpostError
from ltpost.extract import extract_features
from ltpost.extract.checkpoints.checkpoint import read_checkpoint
from ltpost.extract.checkpoints.container import read_container
from ltpost.extract.convert import convert
from ltpost.extract.data import image_files
from ltpost.extract.data.forms import open_source
from ltpost.extract.data.image_files import decode
from ltpost.extract.data.lists import read_list
from ltpost.extract.data.source import Unreadable
from ltpost.extract.networks.hugging_face import _preprocess
from ltpost.extract.networks.inspection import describe
from ltpost.extract.networks.models import build_gated
from ltpost.extract.networks.opening import open_network
from ltpost.extract.pixels.preprocess import Preprocess
from ltpost.extract.pixels.views import Views
from ltpost.extract.run.images import Batches
from tests.fuzz import checkpoints
from tests.fuzz import convert as fuzz_convert
from tests.fuzz import images as fuzz_images
from tests.fuzz import layouts as fuzz_layouts
from tests.fuzz.case import Case

# -- checkpoints -------------------------------------------------------------------------------------------------------


class Call:
    """Pickled as a call of something, then a state."""

    def __init__(self, *parts):
        self.parts = parts

    def __reduce__(self):
        return self.parts


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "state",
    [
        (3, "|", (np.dtype("f8"), (2**20,)), None, None, 8, 1, 0),  # more numbers than there are bytes
        (3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 0),  # bytes that are followed as pointers
    ],
)
def test_no_state_of_a_checkpoint_reaches_numpy(state, zipped, tmp_path):
    kind = Call(np.dtype, ("f8", False, True), state)
    array = Call(np.zeros(0).__reduce__()[0], (np.ndarray, (0,), b"b"), (1, (2,), kind, False, b"\x41" * 16))
    content = {"state_dict": {"fc.weight": torch.zeros(2, 2)}, "x": array}
    torch.save(content, tmp_path / "c.pth", _use_new_zipfile_serialization=zipped)
    for read in (read_checkpoint, describe):
        with pytest.raises(DataError, match="c.pth: is not a checkpoint that torch can read, or it is damaged"):
            read(tmp_path / "c.pth")


def test_arrays_and_numbers_of_numpy_come_back(tmp_path):
    arrays = {"counts": np.arange(3), "mean": [np.float32(0.5), (np.array(["a"]),)], "state": {"w": torch.ones(2)}}
    torch.save(arrays, tmp_path / "c.pth")
    found = read_container(tmp_path / "c.pth")
    assert found["counts"].tolist() == [0, 1, 2]
    assert found["mean"] == [np.float32(0.5), (np.array(["a"]),)]
    assert isinstance(found["mean"][0], np.float32)


def a_checkpoint(path, checksums=True):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(checksums)
    try:
        torch.save({"fc.weight": torch.arange(12.0).reshape(3, 4)}, path)
    finally:
        torch.serialization.set_crc32_options(before)
    return bytearray(path.read_bytes())


def test_a_changed_bit_in_a_zip_file_is_found(tmp_path):
    content = a_checkpoint(tmp_path / "c.pth")
    content[bytes(content).index(np.float32(7).tobytes())] ^= 1
    (tmp_path / "c.pth").write_bytes(content)
    assert torch.load(tmp_path / "c.pth")["fc.weight"][1, 3] != 7  # torch does not look
    with pytest.raises(DataError, match="c.pth: cannot be read as a checkpoint .*Bad CRC-32"):
        read_checkpoint(tmp_path / "c.pth")
    a_checkpoint(tmp_path / "c.pth", checksums=False)
    assert read_checkpoint(tmp_path / "c.pth").state["fc.weight"][1, 3] == 7


def test_a_tensor_that_is_marked_as_a_folder_is_refused(tmp_path):
    """torch then gives a tensor with whatever is in memory."""
    content = a_checkpoint(tmp_path / "c.pth")
    with zipfile.ZipFile(tmp_path / "c.pth") as archive:
        place = archive.start_dir
        for part in archive.infolist():
            if part.filename.endswith("data/0"):
                content[place + 38] |= 0x10
            place += 46 + len(part.filename) + len(part.extra) + len(part.comment)
    (tmp_path / "c.pth").write_bytes(content)
    with pytest.raises(DataError, match="c.pth: .*data/0' is marked as a folder"):
        read_checkpoint(tmp_path / "c.pth")


def test_weights_that_are_not_finite_are_named(tmp_path):
    model = Reads()
    np.savez(tmp_path / "val.npz", images=np.zeros((2, 4, 4, 3), np.uint8), labels=[0, 1])
    model.fc.weight.data[1, 2] = np.inf
    torch.save(model.state_dict(), tmp_path / "c.pth")
    with pytest.raises(DataError, match=r"c.pth: 'fc.weight' must be finite, but holds NaN or infinity"):
        extract_features(tmp_path / "c.pth", tmp_path, "val", tmp_path / "f", arch="test_extract_data:Reads")


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # a prototype
    NESTED = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
FC = {"fc.weight": torch.ones(3, 4), "fc.bias": torch.ones(3)}
BALANCED = {"feat_model": {"conv1.weight": torch.ones(1)}}


@pytest.mark.parametrize(
    ("container", "message"),
    [
        ({"fc.weight": NESTED}, "plain tensor.* but is nested"),
        ({"state_dict_best": BALANCED | {"classifier": {**FC, "scales": torch.ones(4)}}}, "has 4 factors"),
        ({"state_dict_best": BALANCED | {"classifier": {**FC, "fc.bias": torch.ones(2), "scales": torch.ones(3)}}},
         "has 3 factors"),
        ({"state_dict_best": BALANCED | {"classifier": {"fc.weight": torch.ones(3), "scales": torch.ones(3)}}},
         "has 3 factors"),
    ],
)  # fmt: skip
def test_odd_tensors(container, message, tmp_path):
    torch.save(container, tmp_path / "c.pth")
    with pytest.raises(DataError, match=f"c.pth: .*{message}"):
        read_checkpoint(tmp_path / "c.pth")
    assert "cannot be used" in describe(tmp_path / "c.pth")


@pytest.mark.parametrize(
    "container",
    [
        {
            "state_dict": FC,
            "best_acc1": torch.ones(1, device="meta"),
            "acc1": NESTED,
        },
        {"state_dict_model": {}, "state_dict_classifier": FC, "state_dict_lws_model": torch.float32, "state_dict": FC},
        {"fc.weight": torch.ones(()), "layer3.0.bn1.weight": torch.ones(4)},
    ],
)
def test_odd_values_beside_the_tensors_do_not_matter(container, tmp_path):
    torch.save(container, tmp_path / "c.pth")
    found = read_checkpoint(tmp_path / "c.pth")
    assert "fc.weight" in found.state
    assert found.accuracy is None
    assert "c.pth" in describe(tmp_path / "c.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fc.weight": torch.ones(3)}, "'confidence_layer.weight' with 0 numbers"),
        ({"fc.weight": None}, "'confidence_layer.weight' with 0 numbers"),
        ({"logit_scale": None}, "must have 'logit_scale' with 3 numbers"),
        ({"confidence_layer.weight": torch.ones(1, 9)}, "must have 'confidence_layer.weight' with 4 numbers"),
    ],
)
def test_a_gated_classifier_that_lacks_a_part(change, message):
    gate = {"confidence_layer.weight": torch.ones(1, 4), "confidence_layer.bias": torch.zeros(1),
            "logit_scale": torch.ones(1, 3), "logit_bias": torch.ones(1, 3)}  # fmt: skip
    state = {key: value for key, value in (FC | gate | change).items() if value is not None}
    with pytest.raises(DataError, match=message):
        build_gated("resnet18", state)


# -- model folders of transformers -------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("change", ["missing", "NaN"])
def test_weights_that_a_model_folder_lacks_are_not_made_up(change, tmp_path):
    transformers = pytest.importorskip("transformers")
    from safetensors.torch import load_file, save_file

    config = transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic", num_labels=3)
    transformers.ResNetForImageClassification(config).save_pretrained(tmp_path / "net")
    weights = tmp_path / "net" / "model.safetensors"
    tensors = load_file(weights)
    head = tensors.pop("classifier.1.weight")
    save_file(tensors if change == "missing" else {**tensors, "classifier.1.weight": head * np.nan}, weights)
    message = "has none for classifier.1.weight" if change == "missing" else "'classifier.1.weight' must be finite"
    with pytest.raises(DataError, match=f"net: .*{message}"):
        open_network(tmp_path / "net")


@pytest.mark.parametrize(
    "content", [b"\xff", b"{", b"[]", b'{"resample": 99}', b'{"size": {"shortest_edge": -1}}', b'{"size": "x"}']
)
def test_odd_settings_of_an_image_processor(content, tmp_path):
    (tmp_path / "preprocessor_config.json").write_bytes(content)
    with pytest.raises(LtpostError, match=r"preprocessor_config.json: (cannot be read|img_size= must be at least 1)"):
        _preprocess(tmp_path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("content", [{"architectures": 1e308}, {"architectures": [[1]]}, {"model_type": {}}, []])
def test_odd_configurations_of_a_model(content, tmp_path):
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="config.json: cannot be read|must be a model that classifies"):
        open_network(tmp_path)


# -- images and folders ------------------------------------------------------------------------------------------------


def test_an_image_too_long_to_resize_is_a_marked_row(tmp_path):
    touch(tmp_path, "val/a/0.png", "val/a/1.png", "val/b/0.png")
    Image.fromarray(np.zeros((1, 60_000, 3), np.uint8)).save(tmp_path / "val/a/1.png")
    _, pixels, bad = Batches(open_source(tmp_path, "val"), Views(Preprocess(256, 224)), 3, [0], 3)[0]
    assert bad == {1: "60000 x 1 is too long and thin to resize to 15360000 x 256"}
    assert pixels.shape == (3, 224, 224, 3)
    assert not Batches(open_source(tmp_path, "val"), Views(Preprocess(8, 8, squash=True)), 3, [0], 3)[0][2]


def test_pillow_starts_no_program(tmp_path, monkeypatch):
    """For EPS it runs Ghostscript, whatever the name of the file ends in."""
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started"))
    text = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n"
    assert Image.open(io.BytesIO(text)).format == "EPS"
    (tmp_path / "1.png").write_bytes(text)
    assert "cannot identify image file" in decode(tmp_path / "1.png").reason


def test_links_in_circles_do_not_multiply_rows(tmp_path):
    touch(tmp_path, "val/a/0.png", "val/b/1.png")
    (tmp_path / "val/a/x").symlink_to("../b")
    (tmp_path / "val/b/y").symlink_to("../a")
    found = open_source(tmp_path, "val")
    assert found.paths == ["val/a/0.png", "val/a/x/1.png", "val/b/1.png", "val/b/y/0.png"]


@pytest.mark.parametrize(
    "name", ["val.tar", "other.npz", "val.npz", "val.txt", "list_val.txt", "cifar-100-python/test"]
)
def test_a_pipe_called_like_a_data_set_does_not_hang(name, tmp_path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(LtpostError, match="holds no split 'val'"):
        open_source(tmp_path, "val")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({b"fine_labels": [0]}, "'data' and 'fine_labels' must have equally many rows, not 2 and 1"),
        ({b"fine_labels": [0.5, 1.5]}, "'fine_labels' must be whole numbers"),
        ({b"data": np.zeros((2, 3072))}, "'data' must be uint8, but is float64"),
        ({b"data": np.zeros((2, 9), np.uint8)}, "cannot be read as a file of CIFAR"),
        ({b"data": None}, "'data' must be uint8, but is object"),
    ],
)
def test_odd_files_of_cifar(changes, message, tmp_path):
    file = tmp_path / "cifar-100-python" / "test"
    file.parent.mkdir()
    file.write_bytes(pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"fine_labels": [0, 1]} | changes))
    with pytest.raises(DataError, match=f"test: {message}"):
        open_source(tmp_path, "test")


def test_paths_of_a_table_stay_what_they_are(tmp_path):
    (tmp_path / "val.csv").write_text("path,label\nNA,1\n007,2\n")
    assert read_list(tmp_path / "val.csv")[0] == ["NA", "007"]
    (tmp_path / "val.csv").write_text("path,label\na.png,1\n,2\n")
    with pytest.raises(DataError, match="val.csv: column 'path' must hold texts .*, but one is ''"):
        read_list(tmp_path / "val.csv")


def test_a_path_longer_than_any_file_system_takes(tmp_path):
    touch(tmp_path, "0.png")
    (tmp_path / "val.txt").write_text("x" * 3000 + " 1\n0.png 0\n")
    found = open_source(tmp_path, "val")
    assert isinstance(next(iter(found.images.read(slice(0, 1)))), Unreadable)
    assert found.labels.tolist() == [1, 0]


# -- convert -----------------------------------------------------------------------------------------------------------

FEATURES, LABELS = np.ones((3, 2), np.float32), np.arange(3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feats": np.full((3, 2), np.nan)}, "'features' must be finite, but row 0 holds NaN"),
        ({"feats": np.full((3, 2), 1e300)}, "'features' must be finite, but row 0 holds infinity"),
        ({"feats": np.full((3, 2), b"0.5")}, "'features' must hold numbers, but holds .S3"),
        ({"feats": FEATURES * 1j}, "'features' must hold numbers, but holds complex64"),
        ({"weight": FEATURES, "bias": np.float32(3)}, "head bias must have shape"),
        ({"labels": None, "a\nb": LABELS}, "holds feats, a b"),
    ],
)
def test_odd_arrays_to_convert(changes, message, tmp_path):
    content = {
        key: value for key, value in ({"feats": FEATURES, "labels": LABELS} | changes).items() if value is not None
    }
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content, protocol=2))
    np.savez(tmp_path / "x.npz", **content)
    for name in ("x.npz", "x.pkl"):
        if name == "x.pkl" and content["feats"].dtype.kind == "c":
            continue  # refused earlier
        with pytest.raises(DataError, match=f"{name}: .*{message}"):
            convert(tmp_path / name, tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()


def test_finite_features_are_converted(tmp_path):
    np.savez(tmp_path / "x.npz", feats=FEATURES.astype(bool), labels=LABELS)
    assert ltpost.load(convert(tmp_path / "x.npz", tmp_path / "out.h5")).features[0].tolist() == [1, 1]


# -- the fuzzer itself: a reader that is wrong is seen -----------------------------------------------------------------


def test_a_checkpoint_read_wrongly_is_seen(tmp_path, monkeypatch):
    path = tmp_path / "c.pth"
    path.write_bytes(checkpoints.good_files()[0][1])
    case = Case(path, "none", more=checkpoints.good_files()[0][1])
    assert checkpoints.check(case) == "ok"
    (tmp_path / checkpoints.MARK).touch()
    assert checkpoints.check(case) == "wrong: the file has run code"
    (tmp_path / checkpoints.MARK).unlink()
    other = torch.load(io.BytesIO(case.more))
    other["norm.bias"] += 1
    torch.save(other, path)
    assert checkpoints.check(case) == "wrong: norm.bias"
    monkeypatch.setattr(checkpoints, "wrong_tensors", lambda *_: "")
    monkeypatch.setattr(checkpoints, "read_checkpoint", lambda *_: read_checkpoint(old))
    old = tmp_path / "old.pth"
    old.write_bytes(case.more)
    assert checkpoints.check(case) == "wrong: features"


def test_features_converted_wrongly_are_seen(tmp_path, monkeypatch):
    path = tmp_path / "x_val.npz"
    path.write_bytes(fuzz_convert.good_files()[2][1])
    case = Case(path, "none", more=path.read_bytes())
    assert fuzz_convert.check(case) == "ok"
    right = fuzz_convert.few()
    for key in ("features", "labels"):
        monkeypatch.setattr(fuzz_convert, "few", lambda key=key: right | {key: right[key][::-1]})
        assert fuzz_convert.check(case) == f"wrong: {key}"


def test_images_and_rows_read_wrongly_are_seen(tmp_path, monkeypatch):
    images = tmp_path / "images"
    touch(images, "val/a/1.png")
    case = Case(images, "none", more=((images / "val/a/1.png").read_bytes(), None))
    for name, seed in (("a/0", 7), ("b/2", 8)):
        (images / "val" / name).parent.mkdir(exist_ok=True)
        fuzz_images.picture(seed).save(images / f"val/{name}.png")
    assert fuzz_images.check(case) == "ok"
    other = fuzz_images.encoded(fuzz_images.picture(3), "PNG")
    assert fuzz_images.check(Case(images, "none", more=(other, None))) == "wrong: pixels"
    monkeypatch.setattr(image_files, "decode", lambda _: fuzz_images.picture(7))
    assert fuzz_images.check(case) == "wrong: the image beside it"
    touch(tmp_path / "list", "a.png")
    (tmp_path / "list" / "val.txt").write_text("a.png 1\na.png 2\n")
    rows = [("a.png", 1), ("a.png", 2)]
    assert fuzz_layouts.check(Case(tmp_path / "list", "lines", more=(rows, {}))) == "ok"
    for expected in (rows[:1], rows[::-1]):
        assert fuzz_layouts.check(Case(tmp_path / "list", "lines", more=(expected, {}))).startswith("wrong: [")
    assert fuzz_layouts.check(Case(tmp_path / "list", "lines", more=(fuzz_layouts.REFUSED, {}))).startswith(
        "wrong: was"
    )
