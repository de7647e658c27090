"""Class folders with something odd among them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.expected import REFUSED, Rows, put_image


def folders(rng: np.random.Generator, folder: Path) -> tuple[Rows, dict[str, Any]]:
    """Two classes, and a few odd things among them."""
    for name in ("train/a/0.png", "train/b/0.png", "val/a/0.png", "val/b/1.png"):
        put_image(folder / name)
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
    put_image(folder / "val/b/closed/9.png")
    (folder / "val/b/closed").chmod(0)
    return REFUSED


def _unreadable_class(folder: Path) -> Rows:
    (folder / "val/a").chmod(0o111)
    return REFUSED


def _unreadable_train(folder: Path) -> Rows:
    (folder / "train").chmod(0)
    return REFUSED


def _unreadable_image(folder: Path) -> Rows:
    put_image(folder / "val/a/closed.png")
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
    put_image(folder / "elsewhere/7.png")
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
    put_image(folder / "val/a" / name)
    return [(f"val/a/{name}", 0)]


def _line_break(folder: Path) -> Rows:
    put_image(folder / "val/b/x\ny.png")
    return [("val/b/x\ny.png", 1)]


def _no_image(folder: Path) -> Rows:
    for name in ("val/a/Thumbs.db", "val/a/.DS_Store", "val/a/._0.png", "val/stray.png", "val/a/x.txt", "val/a/png"):
        (folder / name).write_bytes(b"x")
    return []


def _upper_case(folder: Path) -> Rows:
    put_image(folder / "val/a/9.PNG")
    return [("val/a/9.PNG", 0)]


def _deep(folder: Path) -> Rows:
    name = "val/a/" + "d/" * 60 + "0.png"
    put_image(folder / name)
    return [(name, 0)]


def _empty_class(folder: Path) -> Rows:
    (folder / "train/c").mkdir(exist_ok=True)
    (folder / "val/c").mkdir(exist_ok=True)
    return []


def _unknown_class(folder: Path) -> Rows:
    put_image(folder / "val/z/0.png")
    return REFUSED


def _folder_like_an_image(folder: Path) -> Rows:
    put_image(folder / "val/a/x.png/0.png")
    return [("val/a/x.png/0.png", 0)]


_ODD: list[Callable[[Path], Rows]] = [
    _unreadable_folder, _unreadable_class, _unreadable_train, _unreadable_image, _loop, _link_to_itself, _good_link,
    _dangling_image, _pipe, _bytes_name, _line_break, _no_image, _upper_case, _deep, _empty_class, _unknown_class,
    _folder_like_an_image,
]  # fmt: skip


def links_in_circles(rng: np.random.Generator, folder: Path) -> tuple[Rows, dict[str, Any]]:
    """Links between classes: rows of the links are followed once, and there is an end."""
    for name in ("val/a/0.png", "val/b/1.png"):
        put_image(folder / name)
    for place, target in (("val/a/x", "../b"), ("val/b/y", "../a")):
        (folder / place).symlink_to(target)
    rows = [("val/a/0.png", 0), ("val/a/x/1.png", 0), ("val/b/1.png", 1), ("val/b/y/0.png", 1)]
    return rows, {}
