"""A split that is in memory, or open in another file, written as a feature file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ltpost.data import write
from ltpost.data.matrices import Matrices
from ltpost.data.rows import parts
from ltpost.output import replacing


def save_split(target: Path, rows: Matrices, columns: Mapping[str, Any], **known: Any) -> None:
    """Write a feature file; an existing one is replaced only when the new one is complete.

    Args:
        target: the file.
        rows: features, logits, layers and labels.
        columns: those of ``sample``, ``view`` (N,) and ``paths`` (N strings) that there are.
        **known: the head, counts, names and attributes; see :func:`~ltpost.data.write.create_file`.
    """
    matrices = {"features": rows.stored_features, "logits": rows.stored_logits}
    datasets: dict[str, tuple[tuple[int, ...], Any]] = {}
    for key, matrix in matrices.items():
        if matrix is not None:
            datasets[key] = (matrix.shape, np.float32 if key == "logits" else matrix.dtype)
    datasets.update({f"layers/{key}": (layer.shape, layer.dtype) for key, layer in rows.layers.items()})
    datasets.update({key: ((len(rows),), write.TEXT if key == "paths" else np.int64) for key in columns})
    with replacing(target) as partial:
        write.create_file(partial, rows.labels, datasets, **known)
        with write.open_checked(partial, "r+") as file:
            for key, matrix in matrices.items():
                if matrix is not None:
                    for part, index in parts(len(rows), rows.block_rows()):
                        file[key][part] = matrix[index].astype(datasets[key][1], copy=False)
            for key, layer in rows.layers.items():
                layer.write(file[f"layers/{key}"])
            for key, values in columns.items():
                file[key][:] = values
            file.attrs["state"] = "complete"
