"""Data that lies on disk in odd ways: lists, tables, class folders, tar files, .npz files, CIFAR pickles.

Every change says which rows there are, or that the data has to be refused, so that a row too few, one too many or
a wrong label is found.
"""

from __future__ import annotations

import csv
import io
import os
import pickle
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ltpost import LtpostError
from ltpost.extract.data.forms import open_source
from ltpost.extract.data.source import storable
from tests.fuzz.case import Case, refusal, spoil
from tests.fuzz.images import encoded, picture

Rows = list[tuple[str, int]]  # path and label
REFUSED: Rows = [("refused", -1)]
ANYTHING: Rows = [("anything", -1)]
PNG = encoded(picture(0), "PNG")


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


def _image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(PNG)


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
        _image(folder / name)
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
    _image(folder / "a/0.png")
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
    _image(folder / "a/0.png")
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


# -- class folders -----------------------------------------------------------------------------------------------------


def folders(rng: np.random.Generator, folder: Path) -> tuple[Rows, dict[str, Any]]:
    """Two classes, and a few odd things among them."""
    for name in ("train/a/0.png", "train/b/0.png", "val/a/0.png", "val/b/1.png"):
        _image(folder / name)
    rows: Rows = [("val/a/0.png", 0), ("val/b/1.png", 1)]
    for _ in range(int(rng.integers(1, 4))):
        more = _ODD[int(rng.integers(len(_ODD)))](folder)
        if more == REFUSED:
            return REFUSED, {}
        rows += [row for row in more if row not in rows]
    order = {name: os.fsencode(str(Path(name).parent)) for name, _ in rows}
    rows.sort(key=lambda row: (row[1], os.fsdecode(order[row[0]]), row[0]))
    return rows, {}


def _unreadable_folder(folder: Path) -> Rows:
    _image(folder / "val/b/closed/9.png")
    (folder / "val/b/closed").chmod(0)
    return REFUSED


def _unreadable_class(folder: Path) -> Rows:
    (folder / "val/a").chmod(0o111)
    return REFUSED


def _unreadable_train(folder: Path) -> Rows:
    (folder / "train").chmod(0)
    return REFUSED


def _unreadable_image(folder: Path) -> Rows:
    _image(folder / "val/a/closed.png")
    (folder / "val/a/closed.png").chmod(0)
    return [("val/a/closed.png", 0)]


def _link(place: Path, target: str) -> None:
    place.unlink(missing_ok=True)
    place.symlink_to(target)


def _loop(folder: Path) -> Rows:
    _link(folder / "val/a/up", "..")
    return []


def _link_to_itself(folder: Path) -> Rows:
    _link(folder / "val/a/self", "self")
    return []


def _good_link(folder: Path) -> Rows:
    _image(folder / "elsewhere/7.png")
    _link(folder / "val/b/linked", "../../elsewhere")
    return [("val/b/linked/7.png", 1)]


def _dangling_image(folder: Path) -> Rows:
    _link(folder / "val/a/gone.png", "nowhere.png")
    return [("val/a/gone.png", 0)]


def _pipe(folder: Path) -> Rows:
    path = folder / "val/a/pipe.png"
    if not path.exists():
        os.mkfifo(path)
    return [("val/a/pipe.png", 0)]


def _bytes_name(folder: Path) -> Rows:
    name = os.fsdecode(b"\xff\xc3.png")
    _image(folder / "val/a" / name)
    return [(f"val/a/{name}", 0)]


def _line_break(folder: Path) -> Rows:
    _image(folder / "val/b/x\ny.png")
    return [("val/b/x\ny.png", 1)]


def _no_image(folder: Path) -> Rows:
    for name in ("val/a/Thumbs.db", "val/a/.DS_Store", "val/a/._0.png", "val/stray.png", "val/a/x.txt", "val/a/png"):
        (folder / name).write_bytes(b"x")
    return []


def _upper_case(folder: Path) -> Rows:
    _image(folder / "val/a/9.PNG")
    return [("val/a/9.PNG", 0)]


def _deep(folder: Path) -> Rows:
    name = "val/a/" + "d/" * 60 + "0.png"
    _image(folder / name)
    return [(name, 0)]


def _empty_class(folder: Path) -> Rows:
    (folder / "train/c").mkdir(exist_ok=True)
    (folder / "val/c").mkdir(exist_ok=True)
    return []


def _unknown_class(folder: Path) -> Rows:
    _image(folder / "val/z/0.png")
    return REFUSED


def _folder_like_an_image(folder: Path) -> Rows:
    _image(folder / "val/a/x.png/0.png")
    return [("val/a/x.png/0.png", 0)]


_ODD: list[Callable[[Path], Rows]] = [
    _unreadable_folder, _unreadable_class, _unreadable_train, _unreadable_image, _loop, _link_to_itself, _good_link,
    _dangling_image, _pipe, _bytes_name, _line_break, _no_image, _upper_case, _deep, _empty_class, _unknown_class,
    _folder_like_an_image,
]  # fmt: skip


def links_in_circles(rng: np.random.Generator, folder: Path) -> tuple[Rows, dict[str, Any]]:
    """Links between classes: rows of the links are followed once, and there is an end."""
    for name in ("val/a/0.png", "val/b/1.png"):
        _image(folder / name)
    for place, target in (("val/a/x", "../b"), ("val/b/y", "../a")):
        (folder / place).symlink_to(target)
    rows = [("val/a/0.png", 0), ("val/a/x/1.png", 0), ("val/b/1.png", 1), ("val/b/y/0.png", 1)]
    return rows, {}


# -- tar files ---------------------------------------------------------------------------------------------------------


def tars(rng: np.random.Generator, folder: Path) -> tuple[Rows, dict[str, Any]]:
    rows: Rows = []
    form = int(rng.choice([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
    refuse = False
    with tarfile.open(folder / "val-0.tar", "w", format=form) as archive:

        def add(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
            info = tarfile.TarInfo(name)
            info.size, info.type, info.linkname = len(content), kind, link
            archive.addfile(info, io.BytesIO(content))

        for number in range(int(rng.integers(1, 4))):
            add(f"{number}.png", PNG)
            add(f"{number}.cls", b"%d" % (number % 2))
            rows.append((f"val-0.tar/{number}.png", number % 2))
        way = int(rng.integers(14))
        if way == 0:
            add("x.png", kind=tarfile.DIRTYPE)
        elif way == 1:
            add("y.png", kind=tarfile.SYMTYPE, link="../../etc/passwd")
        elif way == 2:
            add("../../out.png", PNG)
            add("../../out.cls", b" 3\n")
            rows.append(("val-0.tar/../../out.png", 3))
        elif way == 3:
            add("0.mask.png", PNG)
        elif way == 4:
            add("a.b.png", PNG)
            add("a.b.cls", b"-1")
            rows.append(("val-0.tar/a.b.png", -1))
        elif way in (5, 6, 7):
            name, content = [("0.jpg", PNG), ("0.cls", b"1"), ("9.png", PNG)][way - 5]
            add(name, content)
            refuse = True
        elif way == 8:
            labels = [b"", b"x", b"--1", "²".encode(), b"9" * 19, b"1 2", b"\xff", b"1.0", b"0x1"]
            add("9.png", PNG)
            add("9.cls", labels[int(rng.integers(len(labels)))])
            refuse = True
        elif way == 9:
            add("z" * 90 + "/" + "é" * 40 + ".png", PNG)
            add("z" * 90 + "/" + "é" * 40 + ".cls", b"1")
            rows.append(("val-0.tar/" + "z" * 90 + "/" + "é" * 40 + ".png", 1))
        elif way == 10:
            add("notes.txt", b"x")
            add("0.json", b"{}")
        elif way == 11:
            add("pipe.png", kind=tarfile.FIFOTYPE)
        elif way == 12:
            add("7.cls", b"1")
    if refuse:
        return REFUSED, {}
    if rng.random() < 0.5:
        path = folder / "val-0.tar"
        path.write_bytes(spoil(path.read_bytes(), rng)[0])
        return ANYTHING, {}
    return rows, {}


def no_tar(rng: np.random.Generator, folder: Path) -> tuple[Rows, dict[str, Any]]:
    path, way = folder / "val.tar", int(rng.integers(5))
    if way == 0:
        path.write_bytes(rng.bytes(2000))
    elif way == 1:
        path.write_bytes(b"")
    elif way == 2:
        path.mkdir()
    elif way == 3:
        os.mkfifo(path)
    else:
        path.write_bytes(bytes(10240))
    return REFUSED, {}


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
