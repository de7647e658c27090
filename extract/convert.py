"""Turns cached features of other programs into feature files, and back: pickles, .npz, Parquet."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ltpost.data.features import FeatureSet
from ltpost.data.load import load
from ltpost.data.rows import parts
from ltpost.errors import DataError, UsageError
from ltpost.extract.data.pickles import unpickle_arrays
from ltpost.extract.data.source import check_split, read_class_counts
from ltpost.extract.messages import reading
from ltpost.extract.run.lock import held
from ltpost.heads import LinearHead
from ltpost.output import replacing

#: names of our datasets in other files; each may end in _<split>
ALIASES = {
    "features": ("features", "feats", "feat", "x", "X"),
    "labels": ("labels", "label", "y", "targets"),
    "logits": ("logits",),
    "weight": ("weight", "fc.weight", "W"),
    "bias": ("bias", "fc.bias", "b"),
    "class_counts": ("class_counts", "cls_num_list"),
    "class_names": ("class_names",),
    "paths": ("paths", "path"),
    "sample": ("sample",),
    "view": ("view",),
}
SPLITS = ("train", "val", "test")
#: what the names of earlier layers begin with
LAYERS = "layers/"


def convert(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    split: str | None = None,
    ckpt: str | os.PathLike[str] | None = None,
    head_key: str | None = None,
    class_counts: str | os.PathLike[str] | None = None,
) -> Path:
    """Read cached features of one kind of file and write another kind. The endings of the file names choose the kinds.

    Args:
        source: .h5 (ours), .pkl (``feats``, ``labels``, ``idxs`` of facebookresearch/classifier-balancing; rows come
            back in the order of ``idxs``), .npz or .parquet (see ``ALIASES``, and ``layers/<name>``; there ``features``
            is a column of lists).
        out: .h5, .npz or .parquet.
        split: its name; default: the one in either file name.
        ckpt: a checkpoint to take the joint classifier from.
        head_key: name of the classifier in it; needed where several fit.
        class_counts: a file of training samples per class.

    Returns:
        The written file.

    Raises:
        UsageError: the ending of a file name is not a known one.
        DataError: the source is damaged or lacks something.
    """
    origin, target = Path(source), Path(out)
    read, write = _by_suffix(READERS, origin, "SOURCE"), _by_suffix(WRITERS, target, "OUT")
    if not origin.is_file():
        raise DataError(f"{origin}: no such file")
    if split is not None:
        check_split(split)
    if target.exists() and target.samefile(origin):
        raise UsageError(f"{target}: is the source itself; name another file to write")
    split = split or next((name for name in SPLITS for path in (origin, target) if name in path.stem), target.stem)
    feature_set = read(origin, split)
    if class_counts is not None:
        feature_set = _changed(feature_set, class_counts=read_class_counts(class_counts))
    if ckpt is not None:
        feature_set = _changed(feature_set, head=_head_of(ckpt, head_key, feature_set))
    _check_finite(feature_set)
    try:
        with held(target):
            write(feature_set, target)
    except OSError as error:
        raise DataError(f"{target}: cannot be written ({error.strerror or error})") from None
    return target


def _check_finite(feature_set: FeatureSet) -> None:
    """Raise DataError where a feature or a logit is NaN or infinite, which is best found before a file is written."""
    for part, _ in parts(len(feature_set), feature_set.block_rows()):
        if feature_set.num_features is not None:
            feature_set.check_finite("features", feature_set.read_features(part), part)
        if feature_set.has_logits:
            feature_set.read_logits(part)


def _by_suffix(table: Mapping[str, Any], path: Path, argument: str) -> Any:
    if path.suffix not in table:
        raise UsageError(f"{argument} must end in {', '.join(table)}, but is '{path.name}'")
    return table[path.suffix]


def _changed(feature_set: FeatureSet, **changes: Any) -> FeatureSet:
    """The same rows with another head or other counts, checked again. The biases of experts belong to their head."""
    columns = {key: getattr(feature_set, key) for key in _COLUMNS}
    if "head" in changes:
        columns["expert_bias"] = None
    rows = {
        "head": feature_set.head,
        "features": None if feature_set.num_features is None else feature_set.features,
        "logits": feature_set.logits if feature_set.has_logits else None,
    }
    return FeatureSet(**{**rows, **columns, "labels": feature_set.labels, **changes}, name=feature_set.name)


_COLUMNS = ("layers", "expert_bias", "class_counts", "class_names", "paths", "sample", "view", "split", "attrs")


def _head_of(ckpt: str | os.PathLike[str], head_key: str | None, feature_set: FeatureSet) -> LinearHead:
    from ltpost.extract.checkpoints.checkpoint import head_candidates, read_checkpoint

    checkpoint = read_checkpoint(ckpt)
    fitting = [c.name for c in head_candidates(checkpoint.state) if c.shape[1] == feature_set.num_features]
    key = checkpoint.module_name(head_key) if head_key else fitting[0] if len(fitting) == 1 else None
    if key is None or f"{key}.weight" not in checkpoint.state:
        raise UsageError(
            f"{ckpt}: which classifier takes {feature_set.num_features} features is not clear; name one of "
            f"{', '.join(fitting) or 'none that fit'} with head_key="
        )
    bias = checkpoint.state.get(f"{key}.bias")
    weight = checkpoint.state[f"{key}.weight"].float().numpy()
    return LinearHead(weight, None if bias is None else bias.float().numpy())


# -- reading -----------------------------------------------------------------------------------------------------------


def _feature_set(name: str, split: str, arrays: Mapping[str, Any]) -> FeatureSet:
    """A feature set from arrays with any of the known names."""
    fields: dict[str, Any] = {}
    for key, aliases in ALIASES.items():
        names = [*(f"{alias}_{split}" for alias in aliases), *aliases]
        present = next((alias for alias in names if alias in arrays), None)
        if present is not None:
            with reading(Path(name), f"features ('{present}')"):
                fields[key] = np.asarray(arrays[present])
    layers = {}
    for key in arrays:
        if str(key).startswith(LAYERS):
            with reading(Path(name), f"features ('{key}')"):
                layers[str(key).removeprefix(LAYERS)] = np.asarray(arrays[key])
    if "labels" not in fields or not {"features", "logits"} & set(fields):
        raise DataError(
            f"{name}: must hold 'features' (or 'feats', 'x'; with _{split} or without) and 'labels' (or 'y'), but "
            f"holds {' '.join(', '.join(map(str, arrays)).split()) or 'nothing'}"
        )
    for key in ("features", "logits"):
        if key in fields and fields[key].dtype not in (np.float16, np.float32):
            if fields[key].dtype.kind not in "biuf":
                raise DataError(f"{name}: '{key}' must hold numbers, but holds {fields[key].dtype}")
            with np.errstate(over="ignore"):  # infinity is refused before anything is written
                fields[key] = fields[key].astype(np.float32)
    weight, bias = fields.pop("weight", None), fields.pop("bias", None)
    names, paths = fields.pop("class_names", None), fields.pop("paths", None)
    with reading(Path(name), "a feature set"):
        try:
            head = None if weight is None else LinearHead(weight, bias)
        except DataError as error:
            raise DataError(f"{name}: {error}") from None
        return FeatureSet(
            **fields,
            head=head,
            class_names=None if names is None else _strings(names),
            paths=None if paths is None else np.array(_strings(paths), dtype=object),
            layers=layers,
            split=split,
            attrs={"converted_from": Path(name).name},
            name=name,
        )


def _strings(values: Any) -> list[str]:
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values.tolist()]


def _read_pickle(path: Path, split: str) -> FeatureSet:
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
    return _feature_set(str(path), split, arrays)


def _read_npz(path: Path, split: str) -> FeatureSet:
    with reading(path, "an .npz file"), path.open("rb") as stream, np.load(stream) as arrays:  # no pickles
        return _feature_set(str(path), split, {key: arrays[key] for key in arrays.files})


def _pandas() -> Any:
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise UsageError("Parquet needs pyarrow; install it with: pip install pyarrow") from None
    import pandas as pd

    return pd


def _read_parquet(path: Path, split: str) -> FeatureSet:
    pandas = _pandas()
    with reading(path, "Parquet"):
        table = pandas.read_parquet(path)
    lists = [key for key in table.columns if len(table) and isinstance(table[key].iloc[0], np.ndarray | list)]
    try:
        arrays = {
            key: np.stack(table[key].tolist()) if key in lists else table[key].to_numpy() for key in table.columns
        }
    except ValueError:
        raise DataError(f"{path}: the lists of a column must be equally long, but are not") from None
    return _feature_set(str(path), split, arrays)


READERS: dict[str, Callable[[Path, str], FeatureSet]] = {
    ".h5": lambda path, _: load(path),
    ".pkl": _read_pickle,
    ".npz": _read_npz,
    ".parquet": _read_parquet,
}


# -- writing -----------------------------------------------------------------------------------------------------------


def _arrays(feature_set: FeatureSet) -> dict[str, Any]:
    """The arrays of a feature set, by our names; unreadable rows are left out."""
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


def _write_parquet(feature_set: FeatureSet, path: Path) -> None:
    """Write one line per row; a table of rows has no place for head and counts."""
    arrays = _arrays(feature_set)
    columns = {key: arrays[key] for key in ("labels", "paths", "sample", "view") if key in arrays}
    matrices = [key for key in arrays if key in ("features", "logits") or key.startswith(LAYERS)]
    lists = {key: list(arrays[key].astype(np.float32, copy=False)) for key in matrices}
    with replacing(path, keep_ending=True) as partial:
        _pandas().DataFrame({**columns, **lists}).to_parquet(partial)


WRITERS: dict[str, Callable[[FeatureSet, Path], Any]] = {
    ".h5": lambda feature_set, path: feature_set.save(path),
    ".npz": _write_npz,
    ".parquet": _write_parquet,
}
