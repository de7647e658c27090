"""Draw a val split at random from a test split, for data sets that have none.

File order is never a split: files are often sorted by sub-species or by camera within a class.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ltpost.data.load import load
from ltpost.errors import DataError, UsageError


def draw_rows(
    labels: NDArray[np.int64], share: float, *, sample: NDArray[np.int64] | None = None, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row numbers of two parts, drawn at random within each class.

    Args:
        labels: (N,).
        share: of each class in the first part: a number of samples (1 or more), or a fraction below 1. At most half of
            the samples of a class are taken, so that no class disappears from the second part.
        sample: (N,) the sample that each row shows, where there are several views; a sample goes to one part.
        seed: of the draw.

    Returns:
        Row numbers of the first and of the second part, ascending.

    Raises:
        UsageError: the share is not positive.

    >>> first, second = draw_rows(np.array([0, 0, 0, 0, 1, 1, 1]), 2)
    >>> len(first), len(second)
    (3, 4)
    """
    if not share > 0:
        raise UsageError(f"val= must be a number of rows per class, or a fraction below 1, but is {share:g}")
    sample = np.arange(len(labels)) if sample is None else sample
    samples, first_row = np.unique(sample, return_index=True)
    label_of = labels[first_row]
    rng = np.random.default_rng(seed)
    chosen = np.zeros(len(samples), dtype=bool)
    for c in np.unique(label_of):
        members = rng.permutation(np.flatnonzero(label_of == c))
        wanted = share if share >= 1 else share * len(members)
        chosen[members[: min(round(wanted), len(members) // 2)]] = True
    inside = chosen[np.searchsorted(samples, sample)]
    return np.flatnonzero(inside), np.flatnonzero(~inside)


def split_file(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    val: float = 20,
    seed: int = 0,
) -> tuple[Path, Path]:
    """Write ``val.h5`` and ``test.h5`` with the rows of one feature file, and links to the other files of its folder.

    Args:
        path: the feature file.
        out: a new folder; default the folder of the file with ``-split`` added to its name.
        val: rows per class that go to val, or a fraction below 1; see :func:`draw_rows`.
        seed: of the draw; it is recorded in both files.

    Returns:
        The two files.

    Raises:
        DataError: the folder is the folder of the file; or a file cannot be read or written.
    """
    source = Path(path)
    rows = load(source)
    home = source.parent if source.parent.name not in ("", "..") else source.parent.resolve()
    beside = source.parent / ".." / f"{home.name}-split"
    folder = Path(os.path.normpath(beside)) if out is None else Path(out)
    if folder.resolve() == source.parent.resolve():
        raise DataError(f"{folder}: is the folder of {source.name}, which stays as it is; choose another one with out=")
    parts = draw_rows(rows.labels, val, sample=rows.sample, seed=seed)
    if not len(parts[0]):
        raise DataError(f"{source}: no class has two rows, so none can go to val")
    files = []
    for name, numbers in zip(("val", "test"), parts, strict=True):
        part = rows.subset(numbers)
        part.split = name
        part.attrs = {**rows.attrs, "split": name, "drawn_from": source.name, "drawn_val": val, "drawn_seed": seed}
        files.append(part.save(folder / f"{name}.h5"))
    for other in sorted(source.parent.glob("*.h5")):
        link = folder / other.name
        if other.name not in ("val.h5", "test.h5", source.name) and not link.exists():
            link.symlink_to(os.path.relpath(other.resolve(), folder.resolve()))
    return files[0], files[1]
