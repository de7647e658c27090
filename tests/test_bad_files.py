"""Feature files and heads that are damaged, unusual or made to do harm: one sentence, or the right numbers."""

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from conftest import SHARED, make_split
from safetensors.numpy import save_file

from ltpost import DataError, Experiment, FeatureSet, LinearHead, evaluate, load, load_head
from ltpost.cli import cli
from ltpost.cli.info import in_a_child
from tests.fuzz import KINDS, features, heads
from tests.fuzz.__main__ import run

RNG = np.random.default_rng(0)


def spoilt(path, change=None, **datasets):
    """A good file with one change, or with other datasets."""
    features.write(path)
    with h5py.File(path, "r+") as file:
        for key, value in datasets.items():
            del file[key]
            file[key] = value
        if change is not None:
            change(file, path.parent)
    return path


def bad_link(target):
    def change(file, folder):
        del file["features"]
        file["features"] = target

    return change


def elsewhere(file, folder):
    """Features in another file: of the same shape, so that nothing but the values would tell."""
    features.write(folder / "other.h5")
    bad_link(h5py.ExternalLink("other.h5", "/features"))(file, folder)


def group_elsewhere(file, folder):
    features.write(folder / "other.h5")
    file["outside"] = h5py.ExternalLink("other.h5", "/")
    bad_link(h5py.SoftLink("/outside/features"))(file, folder)


def raw_storage(file, folder):
    (folder / "secret").write_bytes(bytes(24 * 4 * 4))
    del file["features"]
    file.create_dataset("features", (24, 4), "f4", external=[(str(folder / "secret"), 0, 24 * 4 * 4)])


def virtual(file, folder):
    layout = h5py.VirtualLayout((24, 4), "f4")
    layout[...] = h5py.VirtualSource("missing.h5", "features", (24, 4), "f4")
    del file["features"]
    file.create_virtual_dataset("features", layout)


def unwritten(chunks):
    def change(file, folder):
        del file["features"]
        file.create_dataset("features", (24, 4), "f4", chunks=chunks)
        if chunks:
            file["features"][:8] = 1

    return change


def attribute(name, value):
    return lambda file, folder: file.attrs.update({name: value})


def loop(file, folder):
    file["a"] = h5py.SoftLink("/b")
    file["b"] = h5py.SoftLink("/a")
    bad_link(h5py.SoftLink("/a"))(file, folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (elsewhere, "'features' is a link to another file; copy it into this one"),
        (group_elsewhere, "'features' is a link to another file"),
        (raw_storage, r"'features' keeps its values in another file \(external storage\)"),
        (virtual, r"'features' takes its values from other datasets \(a virtual dataset\)"),
        (unwritten(None), "'features' must be written in full, but only 0 of 384 bytes are in the file"),
        (unwritten((4, 4)), "'features' must be written in full, but only 2 of 6 chunks are in the file"),
        (bad_link(h5py.SoftLink("/x/y")), "'features' is a link to '/x/y', which does not exist"),
        (loop, "'features' is a loop of links"),
        (bad_link(h5py.Empty("f4")), "'features' must hold values, but is empty"),
        (bad_link(np.float32(1)), "'features' must have rows, but is one value"),
        (bad_link(np.zeros(24, [("a", "f4")])), "'features' must hold numbers or text, but holds"),
        (features.dataset_for_the_group, "cannot be reached: a part of its name is no group"),
        (attribute("format", np.arange(3)), "attribute 'format' must be one value"),
        (attribute("state", h5py.Empty("f4")), "attribute 'state' must be one value"),
        (attribute("experts", np.array([2, 2])), "attribute 'experts' must be one value"),
        (attribute("experts", "two"), "attribute 'experts' must be a whole number from 1 on, but is 'two'"),
        (attribute("experts", 0), "attribute 'experts' must be a whole number from 1 on, but is 0"),
        (attribute("format_version", np.nan), "'format_version' must be a whole number from 1 on, but is nan"),
        (attribute("arch", np.array([(1, 2)], "i4,i4")), "attribute 'arch' must be text or a number"),
        (features.no_classes, "'logits' must have columns, but has shape"),
    ],
)
def test_files_that_are_refused(tmp_path, change, message):
    if change in (features.dataset_for_the_group, features.no_classes):
        path = spoilt(tmp_path / "val.h5", lambda file, folder: change(file, RNG, folder))
    else:
        path = spoilt(tmp_path / "val.h5", change)
    with pytest.raises(DataError, match=message) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_attributes_that_are_not_used_are_not_read(tmp_path):
    def change(file, folder):
        file.attrs["mine"] = np.arange(4)
        file.attrs["and mine"] = h5py.Empty("f4")

    assert set(load(spoilt(tmp_path / "val.h5", change)).attrs) == {
        "format", "format_version", "state", "split", "dataset", "experts", "arch"
    }  # fmt: skip


@pytest.mark.skipif(not (SHARED / "broken").is_dir(), reason="the shared data is not here (LTPOST_SHARED_DATA)")
def test_a_file_that_hangs_hdf5_is_refused():
    path = SHARED / "broken" / "hang_one_byte.h5"
    done = subprocess.run(
        [sys.executable, "-m", "ltpost", "info", str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert f"{path}: is damaged: the texts at byte 6,352" in done.stderr


def test_a_heap_of_texts_that_would_hang_hdf5_is_refused(tmp_path):
    """The same without the shared file: the free room of the heap gets size 0."""
    path = spoilt(tmp_path / "val.h5")
    content = bytearray(path.read_bytes())
    start = place = content.find(b"GCOL\x01")
    size = int.from_bytes(content[start + 8 : start + 16], "little")
    place += 16
    while content[place : place + 2] != b"\x00\x00":
        place += 16 + (int.from_bytes(content[place + 8 : place + 16], "little") + 7) // 8 * 8
    assert place < start + size
    content[place + 8 : place + 16] = bytes(8)
    path.write_bytes(content)
    with pytest.raises(DataError, match="is damaged: the texts at byte"):
        load(path)


@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_a_text_attribute_that_leads_nowhere_is_refused(tmp_path, libver):
    """Its place in the file is changed to one where HDF5 would search for ever, or read something else."""
    path = tmp_path / "val.h5"
    features.write(path, libver=libver)
    content = bytearray(path.read_bytes())
    heap = content.find(b"GCOL\x01")
    name = content.find(b"arch\0")
    place = content.find(heap.to_bytes(8, "little"), name)
    assert name < place < name + 64
    for wrong in (heap + 8, 2**62, len(content) + 100):
        content[place : place + 8] = wrong.to_bytes(8, "little")
        path.write_bytes(content)
        with pytest.raises(DataError, match="val.h5: "):
            load(path)


def test_labels_too_large_to_be_classes(tmp_path):
    with h5py.File(tmp_path / "val.h5", "w") as file:
        file["features"] = np.ones((2, 3), np.float32)
        file["labels"] = np.array([0, 2**45])
    with pytest.raises(DataError, match="val.h5: there are 35,184,372,088,833 classes by the labels"):
        load(tmp_path / "val.h5")


def test_links_inside_the_file_are_followed(tmp_path):
    def change(file, folder):
        file.move("features", "deep/x")
        file["features"] = h5py.SoftLink("/deep/x")
        file.move("head", "classifier")
        file["head"] = h5py.SoftLink("classifier")

    found = load(spoilt(tmp_path / "val.h5", change))
    np.testing.assert_array_equal(found.features, features.arrays()["features"][found.sample * 2 + found.view])
    np.testing.assert_array_equal(found.head.weight, features.arrays()["head/weight"])


def test_floats_that_numpy_does_not_have_are_converted(tmp_path):
    values = features.arrays()["features"]
    for seed in range(4):  # bfloat16, and floats of 24 bits
        path = tmp_path / f"{seed}.h5"
        features.write(path)
        with h5py.File(path, "r+") as file:
            features.unusual_float(file, np.random.default_rng(seed), tmp_path)
        found = load(path)
        np.testing.assert_allclose(found.features[:], np.delete(values, 5, axis=0), rtol=0.01, atol=0.01)


def test_bfloat16_is_not_mapped_even_if_its_first_and_last_rows_would_agree(tmp_path):
    """They are 0 in any type, and the bytes of the rows between them are those of other float32 numbers."""
    path, values = tmp_path / "val.h5", np.zeros((600, 4), np.float32)
    values[1:599] = np.arange(598)[:, None] % 100
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_fields(15, 7, 8, 0, 7)
    kind.set_size(2)
    kind.set_ebias(127)
    with h5py.File(path, "w") as file:
        stored = h5py.h5d.create(file.id, b"features", kind, h5py.h5s.create_simple(values.shape))
        stored.write(h5py.h5s.ALL, h5py.h5s.ALL, values)
        file["room"] = np.zeros(4000)  # a map of 4 bytes for 2 ends here
        file["labels"] = np.zeros(600, int)
    np.testing.assert_array_equal(load(path).features[:], values)


@pytest.mark.parametrize("key", ["features", "logits", "head/weight", "head/bias"])
def test_numbers_beyond_float32_are_refused(tmp_path, key):
    values = features.arrays()[key].astype(np.float64)
    values[:] = 1e300
    with pytest.raises(DataError, match=f"'{key}' must be finite.* a (larger )?number"):
        load(spoilt(tmp_path / "val.h5", **{key: values}))


def test_numbers_beyond_float32_far_from_the_rows_that_are_tried(tmp_path):
    split = make_split("val", 30, logits=False)
    values = np.asarray(split.features, np.float64)
    values[1, 2] = 1e200
    wide = FeatureSet(values, split.labels, head=split.head, name="val")
    with pytest.raises(DataError, match="val: 'features' must be finite, but row 1 holds a number beyond float32"):
        evaluate(wide.head, wide)


def test_a_product_beyond_float32_is_refused():
    split = FeatureSet(np.full((4, 2), 1e30, np.float32), [0, 1, 0, 1], head=LinearHead(np.full((2, 2), 1e30)))
    with pytest.raises(DataError, match="features times the weights of this head leave the range of float32"):
        evaluate(split.head, split)


def test_heads_in_memory_are_finite():
    with pytest.raises(DataError, match="val: 'head/weight' must be finite as float32"):
        FeatureSet(np.ones((2, 2), np.float32), [0, 1], head=LinearHead(np.array([[1, np.inf], [0, 1]])), name="val")


@pytest.mark.parametrize(
    ("method", "kind"),
    [*((method, ">f4") for method in ("tnorm", "la", "mla", "ncm", "lws", "crt")), ("ncm", ">f2"), ("crt", ">f8")],
)
def test_every_kind_of_float_gives_the_figures_of_float32(tmp_path, method, kind):
    tables = []
    for name, dtype in (("plain", np.dtype(kind).newbyteorder("=")), ("odd", np.dtype(kind))):
        for split in ("train", "val", "test"):
            path = make_split(split, 6).save(tmp_path / name / f"{split}.h5")
            with h5py.File(path, "r+") as file:
                for key in ("features", "logits", "head/weight", "head/bias"):
                    value = file[key][()]
                    del file[key]
                    file[key] = (
                        value.astype("f2").astype(dtype) if key == "features" else value.astype(dtype.str[0] + "f4")
                    )
                del file["logits"]
        tables.append(Experiment(tmp_path / name, progress=False).run(method).report.as_dict())
    assert tables[0] == tables[1]


def test_text_that_is_not_utf8(tmp_path):
    def change(file, folder):
        for key, length in (("class_names", 3), ("paths", 24)):
            del file[key]
            file.create_dataset(key, (length,), h5py.string_dtype())
            file[key][...] = np.array([b"\xe9t\xe9"] * length, dtype=object)
        file.attrs["arch"] = np.bytes_(b"r\xe9s")

    found = load(spoilt(tmp_path / "val.h5", change))
    assert found.class_names == ["\\xe9t\\xe9"] * 3
    assert found.paths[0] == "\\xe9t\\xe9"
    assert found.attrs["arch"] == "r\\xe9s"
    repr(found)


def test_damage_inside_compressed_rows_is_said_when_they_are_read(tmp_path):
    features.write(tmp_path / "val.h5", chunked=True)
    with h5py.File(tmp_path / "val.h5", "r") as file:
        chunk = file["features"].id.get_chunk_info(0)
    content = bytearray((tmp_path / "val.h5").read_bytes())
    content[chunk.byte_offset + 2 : chunk.byte_offset + 12] = bytes(10)
    (tmp_path / "val.h5").write_bytes(content)
    with pytest.raises(DataError, match=r"val.h5: 'features' cannot be read \(.*\); the file is damaged"):
        load(tmp_path / "val.h5")


def test_no_permission_is_not_no_hdf5(tmp_path, monkeypatch):
    path = spoilt(tmp_path / "val.h5")

    def refuse(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=r"val.h5: cannot be opened \(Permission denied\)"):
        load(path)


# -- heads ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {"weight": np.ones((2, 3), np.int64)},
            "tensor 'weight' must be one of F16, F32, F64, I32, but is I64; save it as F32",
        ),
        ({"weight": np.full((2, 3), 1e300)}, "tensor 'weight' must be finite as float32"),
        ({"weight": np.full((2, 3), np.inf)}, "tensor 'weight' must be finite as float32"),
        ({"weight": np.ones((0, 3))}, "must have classes, but has 0"),
        ({"weight": np.ones(3)}, r"head weight must have shape \(C, D\), but has \(3,\)"),
        ({"bias": np.ones(3)}, "must hold a tensor 'weight'"),
    ],
)
def test_heads_that_are_refused(tmp_path, tensors, message):
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(DataError, match=message) as caught:
        load_head(tmp_path / "x.safetensors")
    assert str(caught.value).startswith(f"{tmp_path / 'x.safetensors'}: ")


def test_types_that_numpy_does_not_have(tmp_path):
    content = heads.good_files()[1]
    header, data = heads.parsed(content)
    header["weight"].update(dtype="BF16", shape=[4, 12])
    (tmp_path / "x").write_bytes(heads.joined(header, data))
    with pytest.raises(DataError, match="tensor 'weight' must be one of F16, F32, F64, I32, but is BF16"):
        load_head(tmp_path / "x")


def test_head_files_are_the_same_from_run_to_run(tmp_path):
    code = (
        "import sys, numpy as np\nfrom ltpost import LinearHead, RescaledHead\n"
        "head = LinearHead(np.eye(3), np.ones(3))\n"
        "RescaledHead(head, np.ones(3), np.ones(3), info={k: k for k in 'qwertyuiop'}).save(sys.argv[1])\n"
    )
    contents = set()
    for seed in range(5):
        path = tmp_path / f"{seed}.safetensors"
        subprocess.run([sys.executable, "-c", code, str(path)], check=True, env={"PYTHONHASHSEED": str(seed)})
        contents.add(path.read_bytes())
    assert len(contents) == 1


# -- the fuzzer -------------------------------------------------------------------------------------------------------


#: how many files of each kind the suite tries; `python -m tests.fuzz` tries thousands
FEW = {"features": 150, "heads": 150, "checkpoints": 60, "convert": 150, "images": 60, "layouts": 100}


@pytest.mark.parametrize("kind", KINDS)
def test_fuzz(kind):
    bad = [result for result in run(kind, range(FEW[kind]), workers=1) if result.outcome not in ("ok", "refused")]
    assert not bad


def test_the_fuzzer_finds_what_is_wrong(monkeypatch, tmp_path):
    """A reader that follows links to other files, or crashes, is seen as such."""
    case = features.Case(spoilt(tmp_path / "val.h5"), "none", must_be_refused=True)
    assert features.check(case) == "wrong: was read"
    monkeypatch.setattr(features, "load", lambda path: FeatureSet(np.ones((23, 4), np.float32), np.arange(23) % 3))
    assert features.check(features.Case(case.path, "none")).startswith("wrong: ")
    path = tmp_path / "head"
    path.write_bytes(heads.good_files()[1])
    assert heads.check(heads.Case(path, "none")) == "ok"
    monkeypatch.setattr(heads, "load_head", lambda path: LinearHead(np.ones((4, 6))))
    assert heads.check(heads.Case(path, "none")) == "wrong: logits"


# -- in a process of its own ------------------------------------------------------------------------------------------


def test_info_safe_prints_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.h5", "-b.h5"):
        features.write(tmp_path / name)
    for words in ([], ["--json"]):
        plain, safe = (
            CliRunner().invoke(cli, ["info", *options, *words, "--", "a.h5", "-b.h5"], catch_exceptions=False)
            for options in ([], ["--safe"])
        )
        assert safe.exit_code == 0
        assert safe.stdout == plain.stdout


def test_info_safe_refuses_hangs_and_crashes(tmp_path, monkeypatch):
    path = spoilt(tmp_path / "val.h5", virtual)
    with pytest.raises(DataError, match="val.h5: 'features' takes its values from other datasets") as caught:
        in_a_child(path)
    assert "Error" not in str(caught.value)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    for code, message in (
        ("exec sleep 60", "reading it has not ended after 0.5 s; do not open this file"),
        ("kill -SEGV $$", "reading it ends the process by signal 11; do not open this file"),
    ):
        (tmp_path / "python").write_text(f"#!/bin/sh\n{code}\n")
        (tmp_path / "python").chmod(0o755)
        with pytest.raises(DataError, match=message):
            in_a_child(path, seconds=0.5 if "sleep" in code else 60)
