"""Joins the shards of several processes into one file."""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ltpost.data.write import partial_name
from ltpost.errors import DataError, UsageError
from ltpost.extract.run.lock import HeldError, held
from ltpost.extract.run.partial import (
    IMAGES_STATE,
    LayerSpec,
    Spec,
    copy_rows,
    count_training_rows,
    differences,
    done_of,
    errors_of,
    start,
    to_do_again,
)
from ltpost.extract.run.shards import Shard, folder_of
from ltpost.extract.run.writer import FeatureWriter
from ltpost.heads import LinearHead


def merge_shards(target: str | os.PathLike[str], count: int | None = None) -> Path:
    """Join the shards of ``target`` and remove them.

    Args:
        target: the feature file to write.
        count: the number of shards; None takes the set that is complete.

    Raises:
        DataError: a shard is missing or unfinished, or they are not of one extraction.
    """
    path = Path(target)
    if path.name and not folder_of(path).is_dir() and not path.is_file():
        raise DataError(f"{path}: {_what_is_missing(path)}")
    if not path.name:
        raise UsageError("the feature file to merge into must have a name, as in features/train.h5")
    with held(path):
        shards = complete_shards(path, count)
        if shards is not None:
            _join(path, shards)
        elif not _is_joined(path):
            raise DataError(f"{path}: {_what_is_missing(path)}")
        _clear(path)
    return path


def _is_joined(target: Path) -> bool:
    """Whether an earlier merge has written ``target``, and was stopped before it had removed all its shards."""
    try:
        with contextlib.ExitStack() as stack:
            whole, *parts = (stack.enter_context(h5py.File(file, "r")) for file in (target, *_shard_files(target)))
            return whole.attrs.get("state") == "complete" and not any(differences(whole.attrs, p.attrs) for p in parts)
    except OSError:
        return False


def _clear(target: Path) -> None:
    """Remove the shards, and their folder unless another process has begun to write there."""
    for shard in _shard_files(target):
        shard.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder_of(target).rmdir()


def merge_if_complete(target: Path, count: int) -> bool:
    """Join the ``count`` shards if all are complete and no other process joins them; whether this happened."""
    if complete_shards(target, count) is None:
        return False
    try:
        merge_shards(target, count)
    except (HeldError, FileNotFoundError):
        return False  # another process that saw the last shard finish joins them
    return True


def clear_if_joined(target: Path) -> bool:
    """Remove shards whose rows are in ``target`` already, as of a process that came late; whether it is there."""
    try:
        with held(target):
            if not _is_joined(target):
                return False
            _clear(target)
    except HeldError:
        return False
    return True


def complete_shards(target: Path, count: int | None = None) -> list[Path] | None:
    """The files of a complete set of ``count`` shards (of any number where None), or None."""
    sizes = {int(match[1]) for file in _shard_files(target) if (match := re.fullmatch(r"\d+-of-(\d+)", file.stem))}
    for size in sorted(sizes & {count} if count else sizes):
        files = [Shard(index, size).path(target) for index in range(size)]
        if all(file.is_file() for file in files):
            return files
    return None


def _shard_files(target: Path) -> list[Path]:
    return sorted(folder_of(target).glob("*-of-*.h5"))


def _what_is_missing(target: Path) -> str:
    files = _shard_files(target)
    if not files:
        return f"has no finished shards in {folder_of(target)}; write them with ltpost extract --shard i/n"
    count = int(files[0].stem.rpartition("-")[2])
    missing = [str(index) for index in range(count) if not Shard(index, count).path(target).is_file()]
    return f"shards {', '.join(missing)} of {count} are not finished; run ltpost extract --shard i/{count} for them"


def adopt(path: Path, target: Path, rows: slice, spec: Spec) -> NDArray[np.uint8]:
    """Copy rows of earlier runs with other numbers of processes into the new partial file of ``path``.

    HDF5's own locks are off: they would keep another process from opening its file while this one reads it.

    Args:
        path: the shard, or the whole file.
        target: the whole file.
        rows: the rows of the whole file that belong to ``path``.
        spec: describes the extraction.

    Returns:
        ``done`` of the new file.
    """
    ours, given = partial_name(path), spec.attrs.get(IMAGES_STATE)
    others = [partial_name(target), *_shard_files(target), *sorted(folder_of(target).glob("*-of-*.h5.partial"))]
    for other in others:
        same_run = _count_of(other) == _count_of(ours) is not None  # other rows, perhaps being written right now
        if other in (ours, path) or same_run or not other.is_file():
            continue
        try:
            with h5py.File(other, "r", locking=False) as left, h5py.File(ours, "r+", locking=False) as new:
                same_files = left.attrs.get(IMAGES_STATE, given) == given
                if same_files and not differences(spec.attrs, left.attrs) and ("logits" in left) == spec.logits:
                    _copy_common(left, new, rows)
        except (OSError, KeyError):
            continue  # being written, or never flushed
    with h5py.File(ours, "r", locking=False) as new:
        return to_do_again(done_of(new))


def _count_of(shard: Path) -> int | None:
    """The n in the file name i-of-n; None for a whole file."""
    match = re.match(r"\d+-of-(\d+)\.", shard.name)
    return int(match[1]) if match else None


def _copy_common(left: h5py.File, new: h5py.File, rows: slice) -> None:
    begin = _begin(left)
    first, last = max(begin, rows.start), min(begin + len(left["labels"]), rows.stop)
    if first < last:
        copy_rows(left, first - begin, new, first - rows.start, last - first)


def _join(target: Path, shards: list[Path]) -> None:
    """Check that the shards fit together, and copy them into one file."""
    with contextlib.ExitStack() as stack:
        parts = [stack.enter_context(h5py.File(shard, "r", locking="best-effort")) for shard in shards]
        first, row = parts[0], 0
        for shard, part in zip(shards, parts, strict=True):
            differing = [] if part.attrs.get("state") == "complete" else ["state"]
            differing += differences(first.attrs, part.attrs) + _other_heads(first, part)
            if differing or _begin(part) != row:
                what = ", ".join(differing) or "rows"
                raise DataError(f"{shard}: does not belong to {shards[0].name} ({what} differ); extract it again")
            row += len(part["labels"])
        total = json.loads(first.attrs["dataset"])["rows"]
        if row != total:
            raise DataError(
                f"{folder_of(target)}: the shards must have {total} rows, but have {row}; extract them again"
            )
        start(target, _spec_of_all(parts))
        errors = {}
        with h5py.File(partial_name(target), "r+") as whole:
            for part in tqdm(parts, desc=f"merge {target.stem}", unit="shard", disable=None):
                copy_rows(part, 0, whole, _begin(part), len(part["labels"]))
                errors.update({_begin(part) + row: reason for row, reason in errors_of(part).items()})
    with FeatureWriter(target) as joined:
        count_training_rows(joined.file)
        joined.finish(errors)


def _other_heads(first: h5py.File, part: h5py.File) -> list[str]:
    """The parts of the classifier in which two shards differ."""
    keys = ("head/weight", "head/bias", "head/expert_bias")
    return [
        key
        for key in keys
        if (key in first) != (key in part) or (key in first and (first[key][:] != part[key][:]).any())
    ]


def _begin(file: h5py.File) -> int:
    """The first row of a shard in the whole file; 0 for a whole file."""
    return int(json.loads(file.attrs.get("shard", "{}")).get("start", 0))


def _spec_of_all(parts: list[h5py.File]) -> Spec:
    first = parts[0]

    def column(key: str) -> Any:
        return np.concatenate([part[key][:] for part in parts])

    def strings(values: Any) -> list[str]:
        return [value.decode() for value in values]

    head = None
    if "head/weight" in first:
        head = LinearHead(first["head/weight"][:], first["head/bias"][:] if "head/bias" in first else None)
    wide = first["logits"].shape[1] if head is None else head.num_classes
    return Spec(
        labels=column("labels"),
        head=head,
        shape=(wide, first["features"].shape[1]),
        dtype=first.attrs["dtype"],
        logits="logits" in first,
        expert_bias=first["head/expert_bias"][:] if "head/expert_bias" in first else None,
        class_counts=first["class_counts"][:] if "class_counts" in first else None,
        class_names=strings(first["class_names"][:]) if "class_names" in first else None,
        paths=strings(column("paths")) if "paths" in first else None,
        columns={key: column(key) for key in ("sample", "view") if key in first},
        attrs={key: value for key, value in first.attrs.items() if key not in ("shard", "created")},
        layers={
            name: LayerSpec(stored.shape[1], str(stored.dtype), dict(stored.attrs))
            for name, stored in first.get("layers", {}).items()
        },
    )
