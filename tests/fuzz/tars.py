"""Tar files of images and labels with something odd among them."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.case import spoil
from tests.fuzz.expected import ANYTHING, PNG, REFUSED, Rows


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
