"""Lists and tables of image paths and labels."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltpost.errors import DataError, UsageError
from ltpost.extract.data.image_files import image_files, walk
from ltpost.extract.data.source import Source, as_labels, sha256_of_rows, train_beside
from ltpost.extract.messages import need, reading

LIST_SUFFIXES = (".txt", ".csv", ".parquet")


def list_in(data: Path, split: str, suffixes: tuple[str, ...] = LIST_SUFFIXES) -> Path | None:
    """``<split>.txt``, or the only ``*_<split>.txt``, in a folder; likewise .csv and .parquet."""
    if not data.is_dir():
        return None
    exact = [file for suffix in suffixes if (file := data / f"{split}{suffix}").is_file()]
    list_files = exact or [
        file for suffix in suffixes for file in sorted(data.glob(f"*_{split}{suffix}")) if file.is_file()
    ]
    if len(list_files) > 1:
        names = ", ".join(file.name for file in list_files)
        raise UsageError(f"{data}: has several lists for '{split}' ({names}); choose one with list_file=")
    return list_files[0] if list_files else None


def read_list(file: Path) -> tuple[list[str], NDArray[np.int64]]:
    """Paths and labels of a list, or of a .csv or .parquet table with the columns ``path`` and ``label``."""
    if file.suffix in (".csv", ".parquet"):
        return _read_table(file)
    with reading(file, "a list of images"):
        lines = file.read_text(encoding="utf-8-sig").splitlines()  # some editors begin a file with a byte order mark
    paths, labels = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        words = line.rsplit(None, 1)  # the label is the last word, so that paths may hold spaces
        if len(words) != 2 or re.fullmatch(r"-?[0-9]{1,18}", words[1]) is None or "\0" in line:
            raise DataError(f"{file}:{number}: must be 'path label' with a whole number at the end, but is {line!r}")
        paths.append(words[0].strip())
        labels.append(int(words[1]))
    if not paths:
        raise DataError(f"{file}: holds no lines 'path label'")
    return paths, np.array(labels, dtype=np.int64)


def _read_table(file: Path) -> tuple[list[str], NDArray[np.int64]]:
    import pandas as pd

    with reading(file, "a table"):
        try:
            table: Any = (
                pd.read_csv(file, dtype={"path": str}, keep_default_na=False)  # a folder may be called NA
                if file.suffix == ".csv"
                else pd.read_parquet(file)
            )
        except ImportError:
            raise need("pyarrow", f"{file}: reading Parquet", "parquet") from None
    if not {"path", "label"} <= set(table.columns):
        columns = ", ".join(map(str, table.columns))
        raise DataError(f"{file}: must have the columns 'path' and 'label', but has {columns}")
    if table["label"].dtype.kind not in "iu":
        raise DataError(f"{file}: column 'label' must hold whole numbers, but holds {table['label'].dtype}")
    paths = table["path"].tolist()
    odd = next((path for path in paths if not isinstance(path, str) or not path or "\0" in path), None)
    if odd is not None:
        raise DataError(f"{file}: column 'path' must hold texts without the character NUL, but one is {odd!r}")
    return paths, as_labels(f"{file}: column 'label'", table["label"].to_numpy())


def open_list(file: Path, split: str, root: Path) -> Source:
    """The rows of a list file. The train list is the file beside it that has 'train' in its name for the split."""
    paths, labels = read_list(file)
    fingerprint = sha256_of_rows(paths, labels)
    files = resolve(root, paths, split)
    if files is None:
        raise DataError(
            f"{file}: '{paths[0]}' and the lines after it are not files under {root}; name the folder with root="
        )
    train = train_beside(file, split)
    train_labels = labels if train == file else read_list(train)[1] if train else None
    return Source(str(file), labels, image_files(root, files), fingerprint, files, None, train_labels, str(train))


def resolve(root: Path, paths: list[str], split: str) -> list[str] | None:
    """Find the files of a list under ``root``: by their whole path, or by the longest common end of their path.

    Places-LT, for example, exists as ``train/airfield/1.jpg`` and as ``data_256/a/airfield/1.jpg``.

    Returns:
        Paths relative to ``root`` (unchanged where no such file exists), or None where none of the files exists.
    """
    if any(os.path.isfile(root / path) for path in paths[:100]):  # noqa: PTH113 - false too for names that cannot be
        return paths
    by_name: dict[str, list[tuple[str, ...]]] = {}
    for folder, _, files in walk(root):
        inside = Path(folder).relative_to(root).parts
        for file in files:
            by_name.setdefault(file, []).append((*inside, file))
    ends = [_longest_end(tuple(Path(path).parts), by_name, split) for path in paths]
    if not any(ends):
        return None
    return [str(Path(*parts)) if parts else path for parts, path in zip(ends, paths, strict=True)]


def _longest_end(
    path: tuple[str, ...], by_name: dict[str, list[tuple[str, ...]]], split: str
) -> tuple[str, ...] | None:
    """The file with the longest common end, at least class folder and name; on a tie the one in the split's folder."""

    def agreement(other: tuple[str, ...]) -> tuple[int, bool]:
        same = 0
        while same < min(len(path), len(other)) and path[-1 - same] == other[-1 - same]:
            same += 1
        return same, other[0].startswith(split)

    ranked = sorted(by_name.get(path[-1], []), key=agreement)
    if not ranked or agreement(ranked[-1])[0] < 2:
        return None
    if len(ranked) > 1 and agreement(ranked[-1]) == agreement(ranked[-2]):
        both = ", ".join(str(Path(*parts)) for parts in ranked[-2:])
        raise DataError(f"'{Path(*path)}' could be several files ({both}); name the folder of the split with root=")
    return ranked[-1]
