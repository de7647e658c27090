"""Writing a feature file, in two halves: :func:`start_file` makes room, :func:`finish_file` gives it its name.

Data first goes to ``<name>.partial``, which takes the final name in one step when it is complete.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ltpost._version import __version__
from ltpost.errors import DataError
from ltpost.heads import Array, LinearHead

FORMAT = "ltpost-features"
FORMAT_VERSION = 1
#: the type of a column of text
TEXT = h5py.string_dtype()


def partial_name(path: Path) -> Path:
    """Where the rows of an unfinished ``path`` are."""
    return path.with_name(f"{path.name}.partial")


def start_file(
    path: Path,
    labels: NDArray[np.int64],
    datasets: Mapping[str, tuple[tuple[int, ...], Any]],
    *,
    head: LinearHead | None = None,
    expert_bias: Array | None = None,
    class_counts: Any = None,
    class_names: list[str] | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> Path:
    """Create ``<path>.partial`` with everything that is known before the first row, and room for the rest.

    Args:
        path: the final name.
        labels: (N,).
        datasets: name to (shape, dtype) of what is to be filled in; contiguous, uncompressed.
        head: the joint classifier.
        expert_bias: (E, C), of several experts; see :meth:`FeatureSet.expert`.
        class_counts: (C,).
        class_names: C names.
        attrs: provenance; ``format``, ``format_version``, ``state``, ``ltpost_version`` and ``created`` are set here.

    Returns:
        The path of the partial file, closed; open it with ``h5py.File(partial, "r+")``.
    """
    partial = partial_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(partial, "w") as file:
            file.attrs.update(
                {
                    "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
                    "ltpost_version": __version__,
                    **(attrs or {}),
                    "format": FORMAT,
                    "format_version": FORMAT_VERSION,
                    "state": "partial",
                }
            )
            file.create_dataset("labels", data=np.asarray(labels, dtype=np.int64))
            for key, (shape, dtype) in datasets.items():
                file.create_dataset(
                    key, shape=shape, dtype=dtype, dcpl=None if np.dtype(dtype).hasobject else _allocated_now()
                )
            if head is not None:
                file.create_dataset("head/weight", data=head.weight)
                if head.bias is not None:
                    file.create_dataset("head/bias", data=head.bias)
            if expert_bias is not None:
                file.create_dataset("head/expert_bias", data=np.asarray(expert_bias, dtype=np.float32))
            if class_counts is not None:
                file.create_dataset("class_counts", data=np.asarray(class_counts, dtype=np.int64))
            if class_names is not None:
                file.create_dataset("class_names", data=class_names, dtype=TEXT)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({error.strerror or error}); choose another place with --out"
        ) from None
    return partial


def _allocated_now() -> h5py.h5p.PropDCID:
    """Contiguous, with its place in the file from the start, and not filled before its writer does."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    return properties


def open_partial(partial: Path) -> h5py.File:
    """Open a file that :func:`start_file` has made, to fill it in."""
    return h5py.File(partial, "r+")


def finish_file(partial: Path, path: Path) -> None:
    """Mark a partial file complete and give it its final name in one step, on disk before anything says so."""
    with h5py.File(partial, "r+", locking=False) as file:
        file.attrs["state"] = "complete"
        file.flush()
        os.fsync(file.id.get_vfd_handle())
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
