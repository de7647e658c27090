"""The partial file of an extraction: starts it, and decides whether a later run may go on with it."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ltpost.data.write import create_file, partial_name
from ltpost.errors import DataError
from ltpost.heads import LinearHead
from ltpost.output import final_place, replacing

MISSING, DONE, UNREADABLE = 0, 1, 2


_COPY_ROWS = 4096


#: attribute of a partial file: it changes when an image is replaced under the same name
IMAGES_STATE = "images_state"
#: attributes of the file that must be equal for rows to belong together, beside the data set
FINGERPRINT = (
    "arch", "checkpoint_sha256", "model_sha256", "weights", "head_key", "transform", "dtype", "amp", "expert", "views",
    "layers", "layers_dtype",
)  # fmt: skip


@dataclass(frozen=True)
class LayerSpec:
    """A dataset ``layers/<name>``: its columns, its type, and where it comes from."""

    width: int
    dtype: str
    attrs: Mapping[str, str]


@dataclass(frozen=True)
class Spec:
    """All that is known of a feature file before its first row.

    Args:
        labels: (N,).
        head: the joint classifier, (C, D), or None where the logits are not linear in the features.
        shape: (C, D).
        dtype: type of the stored features.
        logits: whether logits are stored.
        expert_bias: (E, C) of several experts, or None.
        class_counts: (C,), or None.
        class_names: C names, or None.
        paths: N names, or None.
        columns: further datasets of N integers each.
        attrs: provenance, for the attributes of the file.
        layers: the layers that are stored, by name.
    """

    labels: NDArray[np.int64]
    head: LinearHead | None
    shape: tuple[int, int]
    dtype: str
    logits: bool
    expert_bias: NDArray[np.float32] | None
    class_counts: NDArray[np.int64] | None
    class_names: list[str] | None
    paths: Sequence[str] | None
    columns: Mapping[str, NDArray[np.int64]]
    attrs: Mapping[str, Any]
    layers: Mapping[str, LayerSpec] = field(default_factory=dict)

    @property
    def matrices(self) -> dict[str, tuple[tuple[int, int], str]]:
        """Name, shape and type of the datasets that the rows fill."""
        total, (num_classes, num_features) = len(self.labels), self.shape
        found = {"features": ((total, num_features), self.dtype)}
        if self.logits:
            found["logits"] = ((total, num_classes), "float32")
        return found | {f"layers/{name}": ((total, layer.width), layer.dtype) for name, layer in self.layers.items()}

    def row_bytes(self, *, layers: bool = True) -> int:
        """What a row takes in the file, with or without its layers; names of files apart."""
        matrices = {key: value for key, value in self.matrices.items() if layers or not key.startswith("layers/")}
        return sum(width * np.dtype(dtype).itemsize for (_, width), dtype in matrices.values()) + 16


def prepare(path: Path, spec: Spec, *, restart: bool = False) -> NDArray[np.uint8]:
    """Open the unfinished partial file of an earlier run of ``spec``, or start a new one.

    Returns:
        ``done`` (N,) of that file.

    Raises:
        DataError: the unfinished file belongs to another extraction, or the disk has no room for a new one.
    """
    partial = partial_name(path)
    if partial.is_file() and not restart:
        done = _resumable(partial, spec)
        if done is not None:
            return done
    start(path, spec)
    return np.zeros(len(spec.labels), np.uint8)


def start(path: Path, spec: Spec) -> None:
    """Create the partial file of ``spec`` at its full size, and reserve its room on the disk."""
    total, (num_classes, num_features) = len(spec.labels), spec.shape
    # the file has ``done``, with zeros, from its first moment on: a file without it was being finished
    datasets: dict[str, tuple[tuple[int, ...], Any]] = {**spec.matrices, "done": ((total,), "uint8")}
    with replacing(
        partial_name(final_place(path)), "place with out=", called=path
    ) as new:  # a half-made one has no name
        with new.open("r+b") as file:  # HDF5 does not survive a full disk, so try before it starts
            _keep_room(file.fileno(), total * spec.row_bytes() + 4 * num_classes * num_features + 2**14)
        create_file(
            new,
            spec.labels,
            datasets,
            head=spec.head,
            expert_bias=spec.expert_bias,
            class_counts=spec.class_counts,
            class_names=spec.class_names,
            attrs=spec.attrs,
        )
        with h5py.File(new, "r+", locking=False) as file:
            file["done"][:] = 0
            if spec.paths is not None:
                file.create_dataset("paths", data=list(spec.paths), dtype=h5py.string_dtype())
            for key, column in spec.columns.items():
                file.create_dataset(key, data=column)
            for name, layer in spec.layers.items():
                file[f"layers/{name}"].attrs.update(layer.attrs)
            file.flush()
            _keep_room(file.id.get_vfd_handle(), file.id.get_filesize())


def _keep_room(descriptor: int, size: int) -> None:
    """Reserve disk space for the file, where the file system supports it."""
    if hasattr(os, "posix_fallocate") and size:
        os.posix_fallocate(descriptor, 0, size)


def _resumable(partial: Path, spec: Spec) -> NDArray[np.uint8] | None:
    """``done`` of an unfinished file, or None where the file cannot be read at all."""
    try:
        with h5py.File(partial, "r+", locking=False) as file:
            differing = differences(file.attrs, spec.attrs)
            if spec.head is not None and not np.array_equal(file["head/weight"][:], spec.head.weight):
                differing.append("head")
            if ("logits" in file) != spec.logits:
                differing.append("logits")
            if any(key not in file for key in (*spec.columns, *(() if spec.paths is None else ("paths",)))):
                return None  # killed while it was being created
            if differing:
                raise DataError(
                    f"{partial}: is the unfinished file of another extraction ({', '.join(differing)} differ); finish "
                    "that one, or discard it with restart="
                )
            if any("module" not in file[f"layers/{name}"].attrs for name in spec.layers):
                return None
            if (given := spec.attrs.get(IMAGES_STATE)) != file.attrs.get(IMAGES_STATE, given):
                raise DataError(
                    f"{partial}: image files have been replaced since the unfinished run, by their sizes and times; "
                    "discard its rows with restart="
                )
            file.pop("class_counts", None)
            if spec.class_counts is not None:
                file.create_dataset("class_counts", data=spec.class_counts)
            done = done_of(file)
            _reopen(file, done)
    except (OSError, KeyError, RuntimeError):
        return None  # killed before its first flush
    return to_do_again(done)


def _reopen(file: h5py.File, done: NDArray[np.uint8]) -> None:
    """Undo the first steps of finishing, after a run that was killed before the file got its final name."""
    file.attrs["state"] = "partial"
    for key in ("valid", "errors"):
        file.pop(key, None)
    if "done" not in file:
        file.create_dataset("done", data=done)
    file.flush()


def is_finished(path: Path, spec: Spec) -> bool:
    """Whether ``path`` is a complete file of the same extraction."""
    try:
        with h5py.File(path, "r") as file:
            same = not differences(file.attrs, spec.attrs) and ("logits" in file) == spec.logits
            return same and file.attrs.get("state") == "complete"
    except OSError:
        return False


def to_do_again(done: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``done`` for another run, which tries unreadable rows again."""
    return np.where(done == DONE, DONE, MISSING).astype(np.uint8)


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """The attributes in which two files differ, but must agree if they are of one extraction."""
    differing = [key for key in FINGERPRINT if ours.get(key) != theirs.get(key)]
    one, other = (json.loads(attrs.get("dataset", "{}")) for attrs in (ours, theirs))
    if any(one.get(key) != other.get(key) for key in ("sha256", "rows")):
        differing.append("dataset")
    return differing


def count_training_rows(file: h5py.File) -> None:
    """Store the class counts of a whole training split whose labels have come with its rows."""
    if file.attrs.get("split") == "train" and "class_counts" not in file:
        classes = (file["head/weight"] if "head/weight" in file else file["logits"]).shape
        num_classes = classes[0] if "head/weight" in file else classes[1]
        file.create_dataset("class_counts", data=np.bincount(file["labels"][:], minlength=num_classes))


def done_of(file: h5py.File) -> NDArray[np.uint8]:
    """DONE, UNREADABLE or MISSING for every row of a partial or complete file."""
    if "done" in file:
        return np.asarray(file["done"][:])
    if "valid" in file:
        return np.where(file["valid"][:], DONE, UNREADABLE).astype(np.uint8)
    return np.full(len(file["labels"]), DONE, np.uint8)


def copy_rows(source: h5py.File, begin: int, target: h5py.File, start: int, count: int) -> None:
    """Copy the finished rows among rows ``begin…`` of one file to rows ``start…`` of another."""
    done = done_of(source)[begin : begin + count]
    edges = np.flatnonzero(np.diff(done, prepend=MISSING, append=MISSING))
    for first, last in itertools.pairwise(edges):
        for row in range(first, last if done[first] != MISSING else first, _COPY_ROWS):
            stop = min(row + _COPY_ROWS, last)
            for key in ("labels", *matrices_of(target)):
                target[key][start + row : start + stop] = source[key][begin + row : begin + stop]
            target["done"][start + row : start + stop] = done[row:stop]


def matrices_of(file: h5py.File) -> list[str]:
    """The names of the datasets that the rows of a file fill."""
    layers = [f"layers/{name}" for name in file["layers"]] if "layers" in file else []
    return [*(key for key in ("features", "logits") if key in file), *layers]


def errors_of(file: h5py.File) -> dict[int, str]:
    """The reasons why rows could not be read, by row."""
    if "errors" not in file:
        return {}
    rows, reasons = file["errors/row"][:], file["errors/reason"][:]
    return {int(row): reason.decode() for row, reason in zip(rows, reasons, strict=True)}
