"""Data that lies on disk in odd ways: lists, tables, class folders, tar files, .npz files, CIFAR pickles.

Every change says which rows there are, or that the data has to be refused, so that a row too few, one too many or
a wrong label is found.
"""

from __future__ import annotations

import csv
import io
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ltpost import LtpostError
from ltpost.extract.data.forms import open_source
from ltpost.extract.data.source import storable
from tests.fuzz.case import Case, refusal, spoil
from tests.fuzz.expected import ANYTHING, REFUSED, Rows, put_image
from tests.fuzz.folders import folders, links_in_circles
from tests.fuzz.tars import no_tar, tars


def make(rng: np.random.Generator, folder: Path) -> Case:
    folder.chmod(0o755)
    change = CHANGES[int(rng.integers(len(CHANGES)))]
    rows, options = change(rng, folder)
    return Case(folder, change.__name__, rows == REFUSED, more=(rows, options))


def check(case: Case) -> str:
    rows, options = case.more
    try:
        with unprivileged(case.how in ("folders", "no_regular_list")):
            source = open_source(case.path, **{"split": "val", **options})
            labels = source.labels.tolist()
            images = list(source.images.read(slice(0, len(labels))))
            source.images.state()
            source.images.close()
    except LtpostError as error:
        if rows not in (REFUSED, ANYTHING):
            return f"wrong: refused: {error}"
        return refusal(error, None if "list_file" in options else case.path)
    if rows == REFUSED:
        return f"wrong: was read as {source.paths} {labels}"
    if len(images) != len(labels) or (source.paths is not None and len(source.paths) != len(labels)):
        return "wrong: number of rows"
    if rows == ANYTHING:
        return "ok"
    expected = [(storable(path), label) for path, label in rows]
    found = [*zip(source.paths if source.paths is not None else [""] * len(labels), labels, strict=True)]
    return "ok" if found == expected else f"wrong: {found[:8]} instead of {expected[:8]}"


@contextmanager
def unprivileged(other: bool) -> Iterator[None]:
    """For root, who may read everything: another user."""
    user = os.geteuid()
    if user == 0 and other:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


# -- lists and tables --------------------------------------------------------------------------------------------------

_LINES: list[tuple[str, Any]] = [  # a line of a list, and the row that it stands for, None for none, REFUSED
    ("a/0.png 0", ("a/0.png", 0)), ("a/1.png   1", ("a/1.png", 1)), ("\ta/0.png\t2  ", ("a/0.png", 2)),
    ("with space.png 3", ("with space.png", 3)), ("missing.png 1", ("missing.png", 1)), ("", None), ("   ", None),
    ("a/0.png -1", ("a/0.png", -1)), ("a/0.png 007", ("a/0.png", 7)), ("ä.png 1", ("ä.png", 1)),
    ("a/0.png\u00a01", ("a/0.png", 1)), ("a/0.png 999999999999999999", ("a/0.png", 999999999999999999)),
    ("a/0.png --1", REFUSED), ("a/0.png ²", REFUSED), (f"a/0.png {2**63}", REFUSED), ("a/0.png 1.0", REFUSED),
    ("a/0.png", REFUSED), ("0", REFUSED), ("a\0.png 1", REFUSED), ("a/0.png +1", REFUSED), ("a/0.png 1e3", REFUSED),
    ("a/0.png ١", REFUSED), ("a/0.png,1", REFUSED), ("# comment", REFUSED), ("a/0.png 1 x", REFUSED),
    ("1_0 1_0", REFUSED),
    ("../../etc/passwd 1", ("../../etc/passwd", 1)), ("/etc/hostname 0", ("/etc/hostname", 0)), ("x" * 3000 + " 1",
    ("x" * 3000, 1)),
]  # fmt: skip
_ORDINARY = 12


def lines(rng: np.random.Generator, folder: Path) -> tuple[Rows, dict[str, Any]]:
    for name in ("a/0.png", "a/1.png", "with space.png", "ä.png"):
        put_image(folder / name)
    some = [_LINES[0], *(_LINES[int(rng.integers(_ORDINARY))] for _ in range(int(rng.integers(0, 6))))]
    if rng.random() < 0.5:
        some.insert(int(rng.integers(len(some) + 1)), _LINES[int(rng.integers(len(_LINES)))])
    ends = str(rng.choice(["\n", "\r\n", "\r"]))
    text = ends.join(line for line, _ in some) + (ends if rng.random() < 0.5 else "")
    mark = "\ufeff" if rng.random() < 0.3 else ""
    (folder / "val.txt").write_bytes((mark + text).encode())
    rows = [row for _, row in some if row is not None]
    return (REFUSED if REFUSED in rows else rows), {}


def list_in_bytes(rng: np.random.Generator, folder: Path) -> tuple[Rows, dict[str, Any]]:
    """Bytes that are not UTF-8, other encodings, and damage."""
    put_image(folder / "a/0.png")
    good = b"a/0.png 0\na/0.png 1\n"
    contents: list[tuple[bytes, Rows]] = [
        (b"a/\xff.png 0\n" + good, REFUSED), (good.decode().encode("utf-16"), REFUSED), (b"", REFUSED),
        (b"\n\n", REFUSED),
        (b"\xef\xbb\xbf", REFUSED), (b"\0" * 100, REFUSED), (spoil(good, rng)[0], ANYTHING), (rng.bytes(200), ANYTHING),
        (good + b"\x1a", REFUSED), (b"x" * 2**20, REFUSED),
    ]  # fmt: skip
    content, rows = contents[int(rng.integers(len(contents)))]
    (folder / "val.txt").write_bytes(content)
    return rows, {}


def no_regular_list(rng: np.random.Generator, folder: Path) -> tuple[Rows, dict[str, Any]]:
    """A list that is a pipe, a folder, a link to itself or to nothing, or may not be read."""
    path, way = folder / "val.txt", int(rng.integers(6))
    named = way > 0 and rng.random() < 0.7  # a pipe that is named by an option is waited for, as any program does
    if way == 0:
        os.mkfifo(path)
    elif way == 1:
        path.mkdir()
    elif way == 2:
        path.symlink_to(path.name)
    elif way == 3:
        path.symlink_to("nothing")
    elif way == 4:
        path.write_text("a.png 0\n")
        path.chmod(0)
    return REFUSED, {"list_file": path} if named else {}


def tables(rng: np.random.Generator, folder: Path) -> tuple[Rows, dict[str, Any]]:
    put_image(folder / "a/0.png")
    cells: list[tuple[Any, Any, bool]] = [
        ("a/0.png", 0, True), ("a/0.png", 12, True), ("ä, b.png", 1, True), ("a/0.png", "1.5", False),
        ("a/0.png", "x", False), ("a/0.png", "", False), ("a/0.png", 2**63, False), ("a/0.png", 2**70, False),
        ("a\0.png", 1, False), ("", 1, False), ("a/0.png", "True", False), ("NA", 1, True),
    ]  # fmt: skip
    some = [cells[0], *(cells[int(rng.integers(3))] for _ in range(3))]
    if rng.random() < 0.6:
        some.append(cells[int(rng.integers(len(cells)))])
    stream = io.StringIO()
    writer = csv.writer(stream)
    names = ["path", "label", "more"]
    odd = rng.random() < 0.15
    if odd:
        names[int(rng.integers(2))] = str(rng.choice(["", "Path", "path", "label", "x"]))
    writer.writerow(names)
    writer.writerows([path, label, "x"] for path, label, _ in some)
    content = stream.getvalue().encode()
    rows: Rows = [(path, label) for path, label, _ in some] if all(good for *_, good in some) else REFUSED
    if rng.random() < 0.3:
        content, rows, odd = spoil(content, rng)[0], ANYTHING, False
    if odd:
        rows = REFUSED if sorted(names) != ["label", "more", "path"] else ANYTHING
    (folder / "val.csv").write_bytes((b"\xef\xbb\xbf" if rng.random() < 0.2 else b"") + content)
    return rows, {}


# -- arrays ------------------------------------------------------------------------------------------------------------


def npz(rng: np.random.Generator, folder: Path) -> tuple[Rows, dict[str, Any]]:
    pixels = rng.integers(0, 256, (4, 3, 3, 3), dtype=np.uint8)
    arrays: dict[str, Any] = {"images": pixels, "labels": np.arange(4) % 2}
    rows: Rows = [("", label) for label in (0, 1, 0, 1)]
    good: list[tuple[str, Any]] = [
        ("labels", np.arange(4, dtype=np.uint8) % 2), ("images", pixels[..., 0]), ("images", pixels[..., :1]),
        ("class_names", np.array(["a", "b"])), ("labels", (np.arange(4) % 2).astype(">i8")),
    ]  # fmt: skip
    bad: list[tuple[str, Any]] = [
        ("images", pixels.astype(np.float32)), ("images", np.asfortranarray(pixels)), ("images", pixels[:3]),
        ("images", pixels[..., :2]), ("images", pixels[0, 0]), ("images", np.array([None] * 4, dtype=object)),
        ("labels", np.array([0, 1, 0, 2**63], np.uint64)), ("labels", np.arange(4.0)), ("labels", np.arange(4)[None]),
        ("labels", np.array(["0"] * 4)), ("labels", np.array([0, None, 1, 2], dtype=object)), ("labels", np.int64(3)),
        ("class_names", np.array([None, 1], dtype=object)),
    ]  # fmt: skip
    key, value = "images", pixels
    if rng.random() < 0.6:
        pool = bad if rng.random() < 0.6 else good
        key, value = pool[int(rng.integers(len(pool)))]
        rows = REFUSED if pool is bad else rows
    arrays[key] = value
    (np.savez if rng.random() < 0.5 else np.savez_compressed)(folder / "val.npz", **arrays)
    if rng.random() < 0.4:
        path = folder / "val.npz"
        path.write_bytes(spoil(path.read_bytes(), rng)[0])
        rows = ANYTHING
    return rows, {}


def cifar(rng: np.random.Generator, folder: Path) -> tuple[Rows, dict[str, Any]]:
    path = folder / "cifar-100-python"
    path.mkdir()
    pixels = rng.integers(0, 256, (3, 3072), dtype=np.uint8)
    content: dict[Any, Any] = {b"data": pixels, b"fine_labels": [0, 1, 0]}
    names: Any = {b"fine_label_names": [b"a", b"b"]}
    rows: Rows = [("", 0), ("", 1), ("", 0)]
    values: list[Any] = [
        None, 5, [], {}, [0, 1], [0, 1, 2**63], [0, 1, "x"], [0.5, 1, 2], pixels[:2], pixels[:, :9],
        pixels.astype("f8"),
        -pixels.astype("i4"), "text", np.array([None] * 3), [[0], [1], [2]], np.arange(3), pixels.astype("S1"),
        [None] * 3,
    ]  # fmt: skip
    if (way := rng.random()) < 0.4:
        key = list(content)[int(rng.integers(2))]
        value = content[key] = values[int(rng.integers(len(values)))]
        rows = ANYTHING if isinstance(value, np.ndarray) else REFUSED
    elif way < 0.5:
        names = (
            values[int(rng.integers(len(values)))]
            if rng.random() < 0.5
            else {b"fine_label_names": values[int(rng.integers(len(values)))]}
        )
        rows = ANYTHING
    for name, value in (("val", content), ("test", content), ("meta", names)):
        (path / name).write_bytes(pickle.dumps(value, protocol=int(rng.integers(2, 6))))
    if rng.random() < 0.4:
        (path / "test").write_bytes(spoil((path / "test").read_bytes(), rng)[0])
        rows = ANYTHING
    (path / "train").write_bytes(b"x")
    return rows, {"split": "test"}


CHANGES: list[Callable[[np.random.Generator, Path], tuple[Rows, dict[str, Any]]]] = [
    lines, lines, list_in_bytes, no_regular_list, tables, folders, folders, folders, links_in_circles, tars, tars,
    no_tar,     npz, cifar,
]  # fmt: skip
