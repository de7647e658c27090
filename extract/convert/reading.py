"""Files of other programs as named arrays, and named arrays as a feature set."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ltpost.data.features import FeatureSet
from ltpost.errors import DataError, UsageError
from ltpost.extract.convert.probabilities import log_probabilities, two_classes
from ltpost.extract.convert.tables import read_table
from ltpost.extract.data.class_names import numbered, texts
from ltpost.extract.data.columns import TABLES
from ltpost.extract.data.pickles import unpickle_arrays
from ltpost.extract.messages import reading
from ltpost.heads import LinearHead

#: what others call our datasets; each may end in _<split>
ALIASES = {
    "features": ("features", "feats", "feat", "x", "X", "embeddings"),
    "labels": ("labels", "label", "y", "targets", "target"),
    "logits": ("logits", "logit"),
    "probabilities": ("probabilities", "probability", "probs", "prob", "proba"),
    "weight": ("weight", "fc.weight", "W"),
    "bias": ("bias", "fc.bias", "b"),
    "class_counts": ("class_counts", "cls_num_list"),
    "class_names": ("class_names", "classes"),
    "paths": ("paths", "path"),
    "sample": ("sample",),
    "view": ("view",),
}


#: what the names of earlier layers begin with
LAYERS = "layers/"


def named_arrays(name: str, split: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays under any of their names, under ours.

    Raises:
        DataError: one of them is no array.
    """
    fields: dict[str, Any] = {}
    for key, aliases in ALIASES.items():
        names = [*(f"{alias}_{split}" for alias in aliases), *aliases]
        present = next((alias for alias in names if alias in arrays), None)
        if present is not None:
            with reading(Path(name), f"features ('{present}')"):
                fields[key] = np.asarray(arrays[present])
    layers = {key: arrays[key] for key in arrays if str(key).startswith(LAYERS)}
    for key, values in layers.items():
        with reading(Path(name), f"features ('{key}')"):
            fields.setdefault("layers", {})[str(key).removeprefix(LAYERS)] = np.asarray(values)
    return fields


def feature_set_of(
    name: str, split: str, fields: dict[str, Any], names: list[str] | None, *, probabilities: bool, held: Sequence[str]
) -> FeatureSet:
    """A feature set of arrays under our names.

    Args:
        name: of the source.
        split: its name.
        fields: the arrays.
        names: the class names, which texts among the labels are numbered by; None sorts those.
        probabilities: the logits are probabilities.
        held: the names of everything in the source, for messages.

    Raises:
        DataError: something is missing or breaks a rule of the format.
    """
    fields = dict(fields)
    if probabilities and "probabilities" not in fields and "logits" in fields:
        fields["probabilities"] = fields.pop("logits")
    elif "logits" in fields:
        fields.pop("probabilities", None)
    if probabilities and "probabilities" not in fields:
        raise DataError(
            f"{name}: probabilities= needs columns p_0, p_1, … or logit_0, …, or an array of them; "
            "columns of a table that are called otherwise are named with column="
        )
    if "labels" not in fields or not {"features", "logits", "probabilities"} & set(fields):
        raise DataError(
            f"{name}: must hold 'features' (or 'feats', 'x', columns f_0, …; with _{split} or without) or logits "
            "(columns logit_0, …), and 'labels' (or 'y'), or columns named with column= and label_column=, but holds "
            f"{' '.join(', '.join(map(str, held)).split()) or 'nothing'}"
        )
    for key in ("features", "logits", "probabilities"):
        if key in fields and fields[key].dtype.kind in "iub":
            fields[key] = fields[key].astype(np.float32)
        if key in fields and fields[key].ndim == 1 and key != "features":
            fields[key] = two_classes(fields[key], are_probabilities=key == "probabilities")
    if "probabilities" in fields:
        fields["logits"] = log_probabilities(name, fields.pop("probabilities"))
    for key in ("features", "logits"):
        if key in fields and fields[key].dtype not in (np.float16, np.float32):
            if fields[key].dtype.kind not in "biuf":
                raise DataError(f"{name}: '{key}' must hold numbers, but holds {fields[key].dtype}")
            with np.errstate(over="ignore"):  # infinity is refused before anything is written
                fields[key] = fields[key].astype(np.float32)
    weight, bias = fields.pop("weight", None), fields.pop("bias", None)
    fields.pop("class_names", None)
    paths = fields.pop("paths", None)
    with reading(Path(name), "a feature set"):
        fields["labels"], names = numbered(name, fields["labels"], names)
        try:
            head = None if weight is None else LinearHead(weight, bias)
        except DataError as error:
            raise DataError(f"{name}: {error}") from None
        return FeatureSet(
            **fields,
            head=head,
            class_names=names,
            paths=None if paths is None else np.array(texts(paths), dtype=object),
            split=split,
            attrs={"converted_from": Path(name).name},
            name=name,
        )


def read_labels(file: str | os.PathLike[str]) -> Any:
    """Labels from an .npy file, or from a text file with one a line: whole numbers, or names of classes.

    Raises:
        DataError: it is neither.
    """
    source = Path(file)
    with reading(source, "labels"):
        if source.suffix == ".npy":
            return np.load(source, allow_pickle=False)
        lines = source.read_text(encoding="utf-8-sig").split("\n")
        lines = [line.strip() for line in (lines[:-1] if lines[-1] == "" else lines)]
        try:
            return np.array([int(line) for line in lines], np.int64)
        except ValueError:
            return np.array(lines, object)


# -- readers: path and split to named arrays ---------------------------------------------------------------------------


def _read_pickle(path: Path, _: str) -> dict[str, Any]:
    content = unpickle_arrays(path)
    if not isinstance(content, dict):
        raise DataError(
            f"{path}: must hold a dictionary with 'feats' and 'labels', but holds a {type(content).__name__}"
        )
    arrays = {key.decode() if isinstance(key, bytes) else str(key): value for key, value in content.items()}
    order = arrays.pop("idxs", None)
    if isinstance(order, list):
        order = np.asarray(order)
    if isinstance(order, np.ndarray) and order.ndim == 1 and len(np.unique(order)) == len(order):
        rows = np.argsort(order)  # a shuffled loader wrote them
        with reading(path, "a pickle of features"):
            arrays = {key: np.asarray(value)[rows] for key, value in arrays.items()}
    return arrays


def _read_npz(path: Path, _: str) -> dict[str, Any]:
    with reading(path, "an .npz file"), path.open("rb") as stream, np.load(stream) as arrays:  # no pickles
        return {key: arrays[key] for key in arrays.files}


def _read_npy(path: Path, holds: str) -> dict[str, Any]:
    with reading(path, "an .npy file"):
        return {holds: np.load(path, allow_pickle=False)}


#: ending to a reader of (path, what an .npy file holds)
READERS: dict[str, Callable[[Path, str], dict[str, Any]]] = {
    ".pkl": _read_pickle,
    ".npz": _read_npz,
    ".npy": _read_npy,
    ".csv": lambda path, _: read_table(path),
    ".parquet": lambda path, _: read_table(path),
}


def read_arrays(path: Path, holds: str, column: str | None, label_column: str | None) -> dict[str, Any]:
    """The named arrays of a file of another program.

    Args:
        path: of the file.
        holds: what an .npy file is.
        column: of a table, as for :func:`~ltpost.extract.convert.tables.read_table`.
        label_column: likewise.

    Raises:
        UsageError: columns are named, and it is no table.
    """
    if column is None and label_column is None:
        return READERS[path.suffix](path, holds)
    if path.suffix not in TABLES:
        raise UsageError(f"column= and label_column= are for tables ({', '.join(TABLES)}), but the source is {path}")
    return read_table(path, column, label_column)
