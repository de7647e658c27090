"""Bad inputs of ``convert``: archives, pickles and tables of features, files of class counts.

What is read must be what an independent reader finds in the same bytes; an archive of numpy holds checksums, so one
whose bytes were changed must give the arrays from before.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ltpost import LtpostError, load
from ltpost.extract.convert import convert
from ltpost.extract.convert.reading import ALIASES, READERS
from ltpost.extract.data.source import read_class_counts
from tests.fuzz.case import Case, refusal, spoil

N, D, C = 6, 4, 3


def arrays() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(N, D)).astype(np.float32)
    weight, bias = rng.normal(size=(C, D)).astype(np.float32), rng.normal(size=C).astype(np.float32)
    return {
        "features": features, "labels": np.arange(N) % C, "logits": features @ weight.T + bias, "weight": weight,
        "bias": bias, "class_counts": np.array([9, 5, 1]), "class_names": np.array(["a", "b", "ü"]),
        "paths": np.array([f"a/{k}.jpg" for k in range(N)]), "sample": np.arange(N), "view": np.zeros(N, int),
    }  # fmt: skip


FEW = ("features", "labels", "class_counts")


def few() -> dict[str, Any]:
    return {key: arrays()[key] for key in FEW}


def npz_of(content: dict[str, Any], packed: bool = False) -> bytes:
    stream = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(stream, **content)
    return stream.getvalue()


def pickled(content: dict[str, Any], protocol: int) -> bytes:
    found: dict[Any, Any] = {"feats": content["features"], "labels": content["labels"], "idxs": np.arange(N)}
    return pickle.dumps({key.encode() if protocol == 2 else key: value for key, value in found.items()}, protocol)


def parquet_of(content: dict[str, Any]) -> bytes:
    import pandas as pd

    stream = io.BytesIO()
    table = {"labels": content["labels"], "features": list(content["features"])}
    pd.DataFrame(table).to_parquet(stream)
    return stream.getvalue()


def csv_of(content: dict[str, Any]) -> bytes:
    lines = [",".join(["label", *(f"f{k}" for k in range(D))])]
    rows = zip(content["labels"], content["features"], strict=True)
    lines += [",".join(map(str, [label, *row.tolist()])) for label, row in rows]
    return "\n".join(lines).encode() + b"\n"


@functools.cache
def good_files() -> list[tuple[str, bytes]]:
    files = [
        (".npz", npz_of(arrays())), (".npz", npz_of(few(), packed=True)), (".npz", npz_of(few())),
        *((".pkl", pickled(few(), protocol)) for protocol in (2, 3, 4, 5)),
    ]  # fmt: skip
    if ".parquet" in READERS and importlib.util.find_spec("pyarrow"):
        files += [(".parquet", parquet_of(few()))] * 2
    if ".csv" in READERS:
        files.append((".csv", csv_of(few())))
    return files


# -- contents that a format allows -------------------------------------------------------------------------------------


def _odd_arrays(value: Any) -> list[tuple[Any, bool]]:
    """Arrays in place of ``value``, and whether they mean the same."""
    return [
        (value.astype(np.float64), True), (value.astype(value.dtype.newbyteorder(">")), True), (value.tolist(), True),
        (np.asfortranarray(value), True), (value[:-1], False), (value[None], False), (value[..., None], False),
        (value[:0], False), (value.astype("c16"), False), (value.astype("S8"), False), (value.astype(object), False),
        (np.zeros(value.shape, [("a", "f4")]), False), (np.array(3.0), False), (np.array("x"), False), (None, False),
        (value.astype("i8").astype("m8[s]"), False), (value.astype("i8").astype("M8[s]"), False), ("text", False),
        (np.full(value.shape, np.nan), False), (np.full(value.shape, np.inf), False),
        (np.full(value.shape, 1e300), False),
        (np.full(value.shape, 2**64 - 1, np.uint64), False), (value.astype(np.longdouble), True),
        ([[1], [1, 2]], False),
        (-1 - np.abs(value.astype("i8")), False), (value.astype(bool), True), ({"a": 1}, False), (5, False),
    ]  # fmt: skip


def odd_array(rng: np.random.Generator) -> tuple[dict[str, Any], str]:
    content = arrays() if rng.random() < 0.7 else few()
    key = str(rng.choice(sorted(content)))
    values = _odd_arrays(content[key]) if content[key].dtype.kind != "U" else [
        (content[key].astype(object), False), (content[key][:-1], False), (np.arange(len(content[key])), False),
        (content[key].astype("U9"), True), (np.array([b"\xff"] * len(content[key])), False), (None, False),
        (content[key][None], False), (np.array(["\ud800"] * len(content[key]), dtype=object), False), ("x", False),
    ]  # fmt: skip
    value, same = values[int(rng.integers(len(values)))]
    content[key] = value
    return content, key if not same else ""


def odd_names(rng: np.random.Generator) -> tuple[dict[str, Any], str]:
    """Names of others, names for several splits, and two names for one thing."""
    content, key = few(), str(rng.choice(["features", "labels"]))
    value = content.pop(key)
    names = [*ALIASES[key], f"{ALIASES[key][0]}_val", f"{key}_test", "", "é", "a/b", "../x", key + ".npy", "labels\n"]
    name = str(names[int(rng.integers(len(names)))])
    content[name] = value
    if rng.random() < 0.3:
        content[f"{key}_val"] = value
        return content, ""
    return content, "" if name in (*ALIASES[key], f"{ALIASES[key][0]}_val") else key


def hostile_npz(rng: np.random.Generator) -> bytes:
    """Headers that say other shapes and types than there are bytes, members that are none."""
    headers = [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 4), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (6, 5), }",
        "{'descr': '|O', 'fortran_order': False, 'shape': (6, 4), }",
        "{'descr': [('a', '<f4'), ('b', '|O')], 'fortran_order': False, 'shape': (6,), }",
        "{'descr': '<U1000000000', 'fortran_order': False, 'shape': (6, 4), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (6.0, 4), }",
        "{'descr': ('<f4', (1099511627776,)), 'fortran_order': False, 'shape': (6,), }",
        "__import__('os').system('x')", "{" * 5000, "", "{'descr': '<f4'}", "(" * 9000 + ")" * 9000,
    ]  # fmt: skip
    header = headers[int(rng.integers(len(headers)))].encode().ljust(118) + b"\n"
    version = bytes([int(rng.choice([1, 2, 3, 9])), 0])
    size = len(header).to_bytes(2 if version[0] == 1 else 4, "little")
    body = b"\x93NUMPY" + version + size + header + few()["features"].tobytes()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        labels = io.BytesIO()
        np.save(labels, few()["labels"])
        archive.writestr("labels.npy", labels.getvalue())
        archive.writestr(str(rng.choice(["features.npy", "features"])), body)
    return stream.getvalue()


_COUNTS: list[tuple[str, bytes, Any]] = [
    (".json", b"[9, 5, 1]", [9, 5, 1]), (".txt", b"9\n5\n1\n", [9, 5, 1]), (".txt", b"\xef\xbb\xbf9, 5 1", [9, 5, 1]),
    (".json", b"[9, 5, -1]", None), (".json", b"[9.5, 5, 1]", None), (".json", b'{"a": 9}', None), (".json",
    b"[" * 9999, None),
    (".json", b"[9, null]", None), (".json", b"NaN", None), (".json", b"[[9, 5, 1]]", None), (".json", b"", None),
    (".json", b"[9, 5, 1", None), (".json", b"[9, 5, " + b"9" * 5000 + b"]", None), (".json",
    b"[true, false, true]", None),
    (".txt", b"", None), (".txt", b"\xff\xfe9", None), (".txt", b"9\n5\nx", None), (".txt", b"9 5 1e3", None),
    (".txt", b"\0", None), (".txt", b"[9] 5 1", None), (".txt", "９ 5 1".encode(), None), (".npy",
    b"\x93NUMPY\x01\0", None),
    (".npy", pickle.dumps([9, 5, 1]), None), (".json", b"[9, 5, 18446744073709551615]", None),
    (".txt", b'"9" 5 1', None),
]  # fmt: skip


# -- cases -------------------------------------------------------------------------------------------------------------


def make(rng: np.random.Generator, folder: Path) -> Case:
    way = rng.random()
    if way < 0.6:
        files = good_files()
        ending, content = files[int(rng.integers(len(files)))]
        path = folder / f"x_val{ending}"
        spoilt, how = spoil(content, rng)
        path.write_bytes(spoilt)
        return Case(path, f"{ending[1:]} {how}", more=content)
    if way < 0.68:
        ending, content, counts = _COUNTS[int(rng.integers(len(_COUNTS)))]
        path = folder / f"counts{ending}"
        if rng.random() < 0.3:
            content, counts = spoil(content, rng)[0], "any"
        path.write_bytes(content)
        return Case(path, "class counts", more=counts)
    if way < 0.75:
        path = folder / "x_val.npz"
        path.write_bytes(hostile_npz(rng))
        return Case(path, "hostile npz", must_be_refused=True)
    change: Callable[..., tuple[dict[str, Any], str]] = odd_array if rng.random() < 0.7 else odd_names
    content_, spoilt_key = change(rng)
    if rng.random() < 0.5:
        path = folder / "x_val.npz"
        with np.errstate(all="ignore"):
            try:
                path.write_bytes(npz_of(content_, packed=bool(rng.integers(2))))
            except ValueError:  # lists of different lengths
                path.write_bytes(npz_of({"features": 0}))
    else:
        path = folder / "x_val.pkl"
        path.write_bytes(pickle.dumps(content_, protocol=int(rng.integers(2, 6))))
    refuse = spoilt_key in ("features", "labels") and not is_matrix(content_.get(spoilt_key))
    return Case(path, f"{path.suffix[1:]} {change.__name__}", must_be_refused=refuse)


def is_matrix(value: Any) -> bool:
    """Whether an array could be the features of N rows after all."""
    plain = isinstance(value, np.ndarray) and value.shape == (N, D) and value.dtype.kind in "iuf"
    with np.errstate(over="ignore"):
        return plain and bool(np.isfinite(value.astype(np.float32)).all())


def check(case: Case) -> str:
    if case.how == "class counts":
        return check_counts(case)
    try:
        found = load(convert(case.path, case.path.with_name("out.h5")))
        found.paths  # noqa: B018 - reads them
        features, labels = np.asarray(found.features[:]), found.labels
    except LtpostError as error:
        return refusal(error, case.path)
    expected = slow_read(case)
    if expected is None:
        return "ok"
    rows = np.argsort(expected["idxs"]) if "idxs" in expected else slice(None)
    if not np.array_equal(labels, expected["labels"][rows]):
        return "wrong: labels"
    with np.errstate(over="ignore"):
        values = np.asarray(expected["features"][rows], features.dtype)
    if not np.array_equal(features, values):
        return "wrong: features"
    if case.must_be_refused and not np.array_equal(features, few()["features"]):
        return "wrong: was read"
    return "ok"


def check_counts(case: Case) -> str:
    try:
        found = read_class_counts(case.path).tolist()
    except LtpostError as error:
        return refusal(error, case.path)
    return "ok" if case.more in (found, "any") else f"wrong: {found} instead of {case.more}"


def slow_read(case: Case) -> dict[str, Any] | None:
    """Arrays by other means than ltpost's; None where there are none."""
    ending = case.path.suffix
    if isinstance(case.more, bytes) and ending == ".npz":
        return few()  # the checksums say that nothing has changed
    if ending == ".npz":
        with np.load(case.path) as archive:
            content = {key: archive[key] for key in archive.files}
    elif ending == ".pkl":
        content = _SlowUnpickler(io.BytesIO(case.path.read_bytes()), encoding="bytes").load()
        content = {key.decode() if isinstance(key, bytes) else key: _made(value) for key, value in content.items()}
    else:
        return None
    named = {}
    for key in ("features", "labels"):
        for name in (*(f"{alias}_val" for alias in ALIASES[key]), *ALIASES[key]):
            if name in content:
                named[key] = np.asarray(content[name])
                break
    if "idxs" in content and len(np.unique(content["idxs"])) == len(content["idxs"]):
        named["idxs"] = np.asarray(content["idxs"])
    return named


class _Noted:
    """A call, kept."""

    def __init__(self, name: str, *args: Any):
        self.name, self.args, self.state = name, args, None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _SlowUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return lambda text, _="latin1": text.encode("latin1")
        return functools.partial(_Noted, name)


def _made(value: Any) -> Any:
    """An array from the call that is noted."""
    if not isinstance(value, _Noted):
        return value
    if value.name == "_frombuffer":
        content, kind, shape, order = value.args
    else:
        assert value.state is not None
        _, shape, kind, fortran, content = value.state
        order = "F" if fortran else "C"
    word = kind.args[0].decode() if isinstance(kind.args[0], bytes) else kind.args[0]
    end = kind.state[1].decode() if isinstance(kind.state[1], bytes) else kind.state[1]
    dtype = np.dtype(word).newbyteorder("=" if end == "|" else end)
    return np.ndarray(shape, dtype, bytes(content), order=order)
