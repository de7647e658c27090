"""Bad feature files: bytes of good ones changed, and files that HDF5 finds in order and ltpost must not."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ltpost import FeatureSet, LinearHead, LtpostError, load
from ltpost.report.summary import Summary
from tests.fuzz.case import Case, spoil

N, D, C = 24, 4, 3
DATASETS = (
    "features", "labels", "logits", "head/weight", "head/bias", "class_counts", "class_names", "paths", "sample",
    "view", "valid", "head/expert_bias",
)  # fmt: skip
ATTRIBUTES = (
    "format",
    "format_version",
    "state",
    "split",
    "experts",
    "dataset",
    "shard",
    "views",
    "transform",
    "other",
)


def arrays() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    head = LinearHead(rng.normal(size=(C, D)), rng.normal(size=C))
    features = rng.normal(size=(N, D)).astype(np.float32)
    return {
        "features": features,
        "labels": np.arange(N) % C,
        "logits": head.logits(features),
        "head/weight": head.weight,
        "head/bias": head.bias,
        "class_counts": np.array([50, 20, 5]),
        "class_names": np.array([b"cat", b"d\xc3\xb6g", b"cow"], dtype=object),
        "paths": np.array([b"a/%d.jpg" % k for k in range(N)], dtype=object),
        "sample": np.arange(N) // 2,
        "view": np.arange(N) % 2,
        "valid": (np.arange(N) != 5).astype(np.uint8),
    }


def write(path: Path, libver: str = "earliest", chunked: bool = False, leave_out: tuple[str, ...] = ()) -> None:
    with h5py.File(path, "w", libver=libver) as file:
        for key, value in arrays().items():
            if key in leave_out:
                continue
            options = {"chunks": True, "compression": "gzip", "shuffle": True} if chunked and key in MATRICES else {}
            file.create_dataset(
                key, data=value, dtype=h5py.string_dtype() if value.dtype == object else None, **options
            )
        file.attrs.update({"format": "ltpost-features", "format_version": 1, "state": "complete", "split": "val"})
        file.attrs.update({"dataset": '{"name": "x", "rows": 24}', "experts": 1, "arch": "resnet"})


MATRICES = ("features", "logits", "labels")


@functools.cache
def good_files() -> list[bytes]:
    """The contents of good files that are to be spoilt."""
    with tempfile.TemporaryDirectory() as folder:
        contents = []
        for options in (
            {},
            {"libver": "latest"},
            {"chunked": True},
            {"leave_out": ("features", "head/weight", "head/bias")},
            {"leave_out": ("logits", "class_names", "paths", "valid")},
        ):
            path = Path(folder) / "x.h5"
            write(path, **options)  # type: ignore[arg-type]
            contents.append(path.read_bytes())
        values = arrays()
        saved = FeatureSet(
            values["features"].astype(np.float16), values["labels"], head=LinearHead(values["head/weight"]), split="val"
        ).save(Path(folder) / "saved.h5")
        contents.append(saved.read_bytes())
        return contents


def make(rng: np.random.Generator, folder: Path) -> Case:
    path = folder / "val.h5"
    if rng.random() < 0.6:
        files = good_files()
        content, how = spoil(files[int(rng.integers(len(files)))], rng)
        path.write_bytes(content)
        return Case(path, how)
    write(path)
    change = CHANGES[int(rng.integers(len(CHANGES)))]
    with h5py.File(path, "r+") as file:
        refuse = change(file, rng, folder)
    return Case(path, change.__name__, must_be_refused=bool(refuse))


def check(case: Case) -> str:
    try:
        found = load(case.path)
        str(Summary.of(found))
        found.paths  # noqa: B018 - reads them
        for key in ("features", "logits"):
            if getattr(found, f"_{key}") is not None:
                np.asarray(getattr(found, key)[:])
        copy = found.save(case.path.with_name("copy.h5"))
        again = load(copy)
    except LtpostError as error:
        return "refused" if str(error).count("\n") == 0 else "wrong: more than one line"
    if case.must_be_refused:
        return "wrong: was read"
    return wrong_values(case.path, found, again) or "ok"


def wrong_values(path: Path, found: FeatureSet, again: FeatureSet) -> str:
    """What differs from what h5py itself reads, or ""."""
    with h5py.File(path, "r") as file:
        labels = file["labels"][()]
        keep = file["valid"][()] != 0 if "valid" in file else np.ones(len(labels), bool)
        if not np.array_equal(found.labels, labels[keep]):
            return "wrong: labels"
        for key in ("features", "logits"):
            stored = getattr(found, f"_{key}")
            if (stored is None) != (key not in file):
                return f"wrong: {key} are missing"
            if stored is not None:
                values = file[key][()][keep]
                if not np.array_equal(np.asarray(stored[:]), values, equal_nan=True):
                    return f"wrong: {key}"
                copied = np.asarray(getattr(again, f"_{key}")[:])
                with np.errstate(over="ignore"):
                    values = values.astype(copied.dtype)
                if not np.array_equal(copied, values, equal_nan=True):
                    return f"wrong: {key} of the copy"
        if found.head is not None and not np.array_equal(found.head.weight, file["head/weight"][()].astype(np.float32)):
            return "wrong: head/weight"
    return ""


# -- files that HDF5 finds in order: each change returns whether ltpost has to refuse the file ---


def _key(rng: np.random.Generator) -> str:
    return str(rng.choice(DATASETS[:-1]))


def _replace(file: h5py.File, key: str, **options: Any) -> None:
    file.pop(key, None)
    file.create_dataset(key, **options)


def group_in_its_place(file: h5py.File, rng: np.random.Generator, _: Path) -> bool:
    key = _key(rng)
    del file[key]
    file.create_group(key)
    return True


def type_in_its_place(file: h5py.File, rng: np.random.Generator, _: Path) -> bool:
    key = _key(rng)
    del file[key]
    file[key] = np.dtype("f4")
    return True


def dataset_for_the_group(file: h5py.File, rng: np.random.Generator, _: Path) -> bool:
    del file["head"]
    file["head"] = np.ones(3)
    return True


def dangling_link(file: h5py.File, rng: np.random.Generator, _: Path) -> bool:
    key = _key(rng)
    del file[key]
    file[key] = h5py.SoftLink(str(rng.choice(["/nothing", "nothing/here", "/", "labels/x"])))
    return True


def loop_of_links(file: h5py.File, rng: np.random.Generator, _: Path) -> bool:
    key = _key(rng)
    del file[key]
    file[key] = h5py.SoftLink("/a")
    file["a"] = h5py.SoftLink(str(rng.choice(["/a", "/" + key])))
    return True


def good_link(file: h5py.File, rng: np.random.Generator, _: Path) -> bool:
    key = _key(rng)
    file.move(key, "elsewhere/x")
    file[key] = h5py.SoftLink("/elsewhere/x")
    return False


def link_to_another_file(file: h5py.File, rng: np.random.Generator, folder: Path) -> bool:
    write(folder / "other.h5", chunked=bool(rng.integers(2)))
    key = _key(rng)
    del file[key]
    if rng.random() < 0.3:
        file["outside"] = h5py.ExternalLink("other.h5", "/")
        file[key] = h5py.SoftLink(f"/outside/{key}")
    else:
        file[key] = h5py.ExternalLink(str(rng.choice(["other.h5", "missing.h5"])), f"/{key}")
    return True


def external_storage(file: h5py.File, rng: np.random.Generator, folder: Path) -> bool:
    key = str(rng.choice(["features", "labels", "logits", "head/weight", "class_counts"]))
    value = arrays()[key]
    (folder / "raw").write_bytes(np.ascontiguousarray(value).tobytes())
    _replace(file, key, shape=value.shape, dtype=value.dtype, external=[(str(folder / "raw"), 0, value.nbytes)])
    return True


def virtual_dataset(file: h5py.File, rng: np.random.Generator, folder: Path) -> bool:
    key = str(rng.choice(["features", "labels", "logits", "head/weight", "class_counts"]))
    value = arrays()[key]
    layout = h5py.VirtualLayout(value.shape, value.dtype)
    write(folder / "other.h5")
    layout[...] = h5py.VirtualSource(str(rng.choice(["other.h5", "missing.h5"])), key, value.shape, value.dtype)
    del file[key]
    file.create_virtual_dataset(key, layout)
    return True


def never_written(file: h5py.File, rng: np.random.Generator, _: Path) -> bool:
    key = str(rng.choice(["features", "labels", "logits", "head/weight", "class_counts"]))
    value = arrays()[key]
    chunks = True if rng.random() < 0.5 else None
    _replace(file, key, shape=value.shape, dtype=value.dtype, chunks=chunks)
    return True


def written_in_part(file: h5py.File, rng: np.random.Generator, _: Path) -> bool:
    _replace(file, "features", shape=(N, D), dtype="f4", chunks=(4, D))
    file["features"][:8] = arrays()["features"][:8]
    return True


def null_dataspace(file: h5py.File, rng: np.random.Generator, _: Path) -> bool:
    _replace(file, _key(rng), data=h5py.Empty("f4"))
    return True


def scalar(file: h5py.File, rng: np.random.Generator, _: Path) -> bool:
    _replace(file, _key(rng), data=np.float32(3))
    return True


def other_shape(file: h5py.File, rng: np.random.Generator, _: Path) -> bool:
    key = str(rng.choice(["features", "labels", "logits", "head/weight", "class_counts", "head/bias", "paths"]))
    value = file[key][()]
    shapes = [value[:-1], value[None], value[..., None], value[:0], np.concatenate([value, value])]
    _replace(file, key, data=shapes[int(rng.integers(len(shapes)))])
    return True


def other_type(file: h5py.File, rng: np.random.Generator, _: Path) -> bool:
    key = str(rng.choice(["features", "labels", "logits", "head/weight", "class_counts", "sample", "valid"]))
    kinds = ["c8", "S3", "O", "i8", "V4", "?", "m", "enum", "pair", "array", "ref"]
    kind = str(rng.choice(kinds))
    shape = file[key].shape
    del file[key]
    if kind == "enum":
        data: Any = np.zeros(shape, h5py.enum_dtype({"A": 0, "B": 1}))
    elif kind == "pair":
        data = np.zeros(shape, [("a", "f4"), ("b", "i4")])
    elif kind == "array":
        file.create_dataset(key, shape, np.dtype(("f4", (2,))))
        file[key][...] = np.ones((*shape, 2))
        return True
    elif kind == "ref":
        file.create_dataset(key, shape, h5py.ref_dtype)
        file[key][...] = file.ref
        return True
    elif kind == "m":
        file.create_dataset(key, data=np.zeros(shape, "i8").astype("m8[s]").astype(h5py.opaque_dtype("m8[s]")))
        return True
    elif kind == "O":
        file.create_dataset(key, shape, h5py.string_dtype())
        file[key][...] = "x"
        return True
    else:
        data = np.zeros(shape, kind)
    file[key] = data
    fits = key in ("labels", "class_counts", "sample", "valid") and kind in ("i8", "?", "enum")
    return not fits


def unusual_float(file: h5py.File, rng: np.random.Generator, _: Path) -> bool:
    """Floats that numpy does not have: h5py reads them as a larger type, whose bytes are others."""
    key = str(rng.choice(["features", "logits", "head/weight"]))
    value = file[key][()]
    kind = h5py.h5t.IEEE_F32LE.copy()
    if rng.random() < 0.5:  # bfloat16
        kind.set_fields(15, 7, 8, 0, 7)
        kind.set_size(2)
        kind.set_ebias(127)
    else:  # 24 bits
        kind.set_fields(23, 15, 8, 0, 15)
        kind.set_size(3)
        kind.set_ebias(127)
    del file[key]
    space = h5py.h5s.create_simple(value.shape)
    stored = h5py.h5d.create(file.id, key.encode(), kind, space)
    stored.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ascontiguousarray(value))
    return False


def beyond_float32(file: h5py.File, rng: np.random.Generator, _: Path) -> bool:
    key = str(rng.choice(["features", "logits", "head/weight", "head/bias"]))
    value = file[key][()].astype(np.float64)
    value.flat[int(rng.integers(value.size))] = 10.0 ** int(rng.integers(39, 308))
    if key in ("features", "logits"):
        value[0] = value.max()
    _replace(file, key, data=value)
    return True


def not_finite(file: h5py.File, rng: np.random.Generator, _: Path) -> bool:
    key = str(rng.choice(["features", "logits", "head/weight", "head/bias"]))
    value = file[key][()]
    value[0] = rng.choice([np.nan, np.inf, -np.inf])
    file[key][...] = value
    return True


def big_endian(file: h5py.File, rng: np.random.Generator, _: Path) -> bool:
    key = str(rng.choice(["features", "labels", "logits", "head/weight", "class_counts"]))
    value = file[key][()]
    _replace(file, key, data=value.astype(value.dtype.newbyteorder(">")))
    return False


def larger_float(file: h5py.File, rng: np.random.Generator, _: Path) -> bool:
    key = str(rng.choice(["features", "logits", "head/weight", "head/bias"]))
    _replace(file, key, data=file[key][()].astype(rng.choice(["<f8", ">f8", "longdouble"])))
    return False


def odd_attribute(file: h5py.File, rng: np.random.Generator, _: Path) -> bool:
    name = str(rng.choice(ATTRIBUTES))
    values = [
        np.arange(3), np.zeros((0,)), h5py.Empty("f4"), b"\xff\xfe", "\x01\n", 1.5, -1, 2**63 - 1, "x" * 5000,
        [b"a", b"b"], np.nan, np.array([("a", 1)], [("n", "S1"), ("v", "i4")]), file.ref, True, 1 + 2j,
    ]  # fmt: skip
    file.attrs[name] = values[int(rng.integers(len(values)))]
    return False


def text_that_is_not_utf8(file: h5py.File, rng: np.random.Generator, _: Path) -> bool:
    key = str(rng.choice(["class_names", "paths"]))
    length = C if key == "class_names" else N
    if rng.random() < 0.5:
        _replace(file, key, data=np.array([b"\xff\xc3"] * length))
    else:
        _replace(file, key, shape=(length,), dtype=h5py.string_dtype())
        file[key][...] = np.array([b"\xe9\x80"] * length, dtype=object)
    return False


def bad_labels(file: h5py.File, rng: np.random.Generator, _: Path) -> bool:
    value = arrays()["labels"].astype(np.uint64 if rng.random() < 0.5 else np.int64)
    value[3] = int(rng.choice([C, 2**63 - 1, 2**31]))
    _replace(file, "labels", data=value)
    return True


def no_classes(file: h5py.File, rng: np.random.Generator, _: Path) -> bool:
    for key in ("logits", "head/weight", "head/bias", "class_counts", "class_names"):
        value = file[key][()]
        _replace(file, key, data=value[:, :0] if key == "logits" else value[:0])
    return True


def huge_shape(file: h5py.File, rng: np.random.Generator, _: Path) -> bool:
    key = str(rng.choice(["features", "labels", "logits", "paths", "class_names"]))
    kind = file[key].dtype
    shape = (2**40, 2) if key in ("features", "logits") else (2**40,)
    _replace(file, key, shape=shape, dtype=kind, chunks=(2**10, *shape[1:]))
    return True


CHANGES: list[Callable[[h5py.File, np.random.Generator, Path], bool]] = [
    group_in_its_place, type_in_its_place, dataset_for_the_group, dangling_link, loop_of_links, good_link,
    link_to_another_file, external_storage, virtual_dataset, never_written, written_in_part, null_dataspace, scalar,
    other_shape, other_type, unusual_float, beyond_float32, not_finite, big_endian, larger_float, odd_attribute,
    text_that_is_not_utf8, bad_labels, no_classes, huge_shape,
]  # fmt: skip
