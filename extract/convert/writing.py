"""A feature set as arrays or as a table of another program."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ltpost.data.features import FeatureSet
from ltpost.extract.convert.reading import LAYERS
from ltpost.extract.convert.tables import pandas_for
from ltpost.output import replacing


def _arrays(feature_set: FeatureSet) -> dict[str, Any]:
    """What there is, under our names; rows that could not be read are left out."""
    head = feature_set.head
    arrays = {
        "features": None if feature_set.num_features is None else np.asarray(feature_set.features[:]),
        "labels": feature_set.labels,
        "logits": np.asarray(feature_set.logits[:]) if feature_set.has_logits else None,
        "weight": None if head is None else head.weight,
        "bias": None if head is None else head.bias,
        "class_counts": feature_set.class_counts,
        "class_names": None if feature_set.class_names is None else np.array(feature_set.class_names),
        "paths": None if feature_set.paths is None else np.array(feature_set.paths),
        "sample": feature_set.sample,
        "view": feature_set.view,
        **{f"{LAYERS}{name}": layer.rows[:] for name, layer in feature_set.layers.items()},
    }
    return {key: value for key, value in arrays.items() if value is not None}


def _write_npz(feature_set: FeatureSet, path: Path) -> None:
    with replacing(path, keep_ending=True) as partial:
        np.savez(partial, **_arrays(feature_set))


#: columns of one value per row, and their names in a .csv file
_COLUMNS = {"labels": "label", "paths": "path", "sample": "sample", "view": "view"}


def _write_parquet(feature_set: FeatureSet, path: Path) -> None:
    """One row per row; head and counts have no place in a table of rows."""
    arrays = _arrays(feature_set)
    columns = {key: arrays[key] for key in _COLUMNS if key in arrays}
    matrices = [key for key in arrays if key in ("features", "logits") or key.startswith(LAYERS)]
    lists = {key: list(arrays[key].astype(np.float32, copy=False)) for key in matrices}
    with replacing(path, keep_ending=True) as partial:
        pandas_for(path).DataFrame({**columns, **lists}).to_parquet(partial)


def _write_csv(feature_set: FeatureSet, path: Path) -> None:
    """One row per row and one column per number, under the names that ``tables`` reads."""
    arrays = _arrays(feature_set)
    columns = {_COLUMNS[key]: arrays[key] for key in _COLUMNS if key in arrays}
    for key, prefix in (("features", "f"), ("logits", "logit")):
        if key in arrays:
            columns |= {f"{prefix}_{number}": column for number, column in enumerate(arrays[key].T)}
    with replacing(path, keep_ending=True) as partial:
        pandas_for(path).DataFrame(columns).to_csv(partial, index=False)


WRITERS: dict[str, Callable[[FeatureSet, Path], Any]] = {
    ".h5": lambda feature_set, path: feature_set.save(path),
    ".npz": _write_npz,
    ".parquet": _write_parquet,
    ".csv": _write_csv,
}
