"""Opening a feature file (HDF5, see FORMAT.md). Big datasets stay on disk until they are used."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ltpost._version import __version__
from ltpost.data.features import FeatureSet
from ltpost.data.layers import Layer
from ltpost.data.rows import Rows, StoredDataset
from ltpost.data.write import FORMAT, FORMAT_VERSION, partial_name
from ltpost.errors import DataError
from ltpost.heads import Array, LinearHead


def load(path: str | os.PathLike[str], part: bool = False) -> FeatureSet:
    """Open a feature file. Big datasets stay on disk (memory-mapped) until they are used.

    A file written by hand with h5py (``features``, ``labels``, and where known ``head/weight``, ``head/bias``,
    ``class_counts``) will do; the full list is in FORMAT.md.

    Args:
        path: the file.
        part: it holds some of the rows of its split only, so that ``class_counts`` need not be theirs.

    Raises:
        DataError: the file breaks a rule of the format; the message says which, and what was found.
    """
    source = Path(path)
    if not source.is_file():
        raise DataError(f"{source}: no such feature file{_near(source)}")
    try:
        file = h5py.File(source, "r", locking="best-effort")
    except BlockingIOError:
        raise DataError(f"{source}: another process is writing this file; wait until it has finished") from None
    except OSError as error:
        reason = "is truncated" if "truncated" in str(error) else "is not an HDF5 file"
        raise DataError(f"{source}: {reason}; write it again with ltpost extract") from None
    with file:
        return _read(source, file, part)


def _near(source: Path) -> str:
    """What to do about a file that is not there."""
    if partial_name(source).is_file():
        return f", only an unfinished {partial_name(source).name}; run the same ltpost extract command again"
    others = sorted(other.name for other in source.parent.glob("*.h5")) if source.parent.is_dir() else []
    if others:
        return f"; {source.parent} has {', '.join(others)}"
    return "; write one with ltpost extract, or name the folder with --features"


def _read(source: Path, file: h5py.File, part: bool) -> FeatureSet:
    attrs = {key: _scalar(value) for key, value in file.attrs.items()}
    if attrs.get("format", FORMAT) != FORMAT:
        raise DataError(f"{source}: attribute 'format' must be '{FORMAT}', but is '{attrs['format']}'")
    version = attrs.get("format_version", FORMAT_VERSION)
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise DataError(
            f"{source}: has format_version {version}, and this ltpost {__version__} reads up to {FORMAT_VERSION}; "
            "upgrade with pip install -U ltpost"
        )
    if attrs.get("state", "complete") != "complete":
        raise DataError(
            f"{source}: attribute 'state' is '{attrs['state']}', the extraction did not finish; run it again"
        )
    for key in ("features", "logits", "labels", "head/weight", "head/bias", "class_counts"):
        if key in file and not isinstance(file[key], h5py.Dataset):
            raise DataError(f"{source}: '{key}' must be a dataset, but is a group")
    weight, bias = _array(file, "head/weight"), _array(file, "head/bias")
    if bias is not None and weight is None:
        raise DataError(f"{source}: has 'head/bias' but no 'head/weight' (C, D)")
    head = None
    if weight is not None:
        for key, value in (("head/weight", weight), ("head/bias", bias)):
            if value is not None and value.dtype.kind != "f":
                raise DataError(f"{source}: '{key}' must be floating point, but is {value.dtype}")
            if value is not None and not np.isfinite(value).all():
                raise DataError(f"{source}: '{key}' must be finite, but holds NaN or infinity")
        try:
            head = LinearHead(weight, bias)
        except DataError as error:
            raise DataError(f"{source}: {error}") from None
    names = _array(file, "class_names")
    return FeatureSet(
        _stored(source, file, "features"),
        _array(file, "labels"),
        logits=_stored(source, file, "logits"),
        head=head,
        class_counts=_array(file, "class_counts"),
        class_names=None if names is None else [_text(name) for name in names],
        paths=_stored(source, file, "paths"),
        sample=_array(file, "sample"),
        view=_array(file, "view"),
        valid=_array(file, "valid"),
        expert_bias=_array(file, "head/expert_bias"),
        layers=_layers(source, file),
        split=str(attrs.get("split", source.stem)),
        part=part or "shard" in attrs,
        attrs=attrs,
        name=str(source),
    )


def _array(file: h5py.File, key: str) -> Array | None:
    return np.asarray(file[key][()]) if key in file else None


def _stored(source: Path, file: h5py.File, key: str) -> Any:
    """A memory map of a contiguous dataset, else something that reads it when indexed."""
    if key not in file:
        return None
    dataset = file[key]
    if dataset.ndim == 0 or dataset.dtype.hasobject or dataset.id.get_offset() is None:
        return np.empty(dataset.shape, dataset.dtype) if dataset.size == 0 else StoredDataset(source, dataset)
    return np.memmap(source, dataset.dtype, "r", offset=dataset.id.get_offset(), shape=dataset.shape)


def _layers(source: Path, file: h5py.File) -> dict[str, Layer]:
    """The datasets of the group ``layers``, by name."""
    if "layers" not in file:
        return {}
    group = file["layers"]
    if not isinstance(group, h5py.Group):
        raise DataError(f"{source}: 'layers' must be a group of datasets (N, D_l), but is a dataset")
    layers = {}
    for name, dataset in group.items():
        if not isinstance(dataset, h5py.Dataset):
            raise DataError(f"{source}: 'layers/{name}' must be a dataset (N, D_l), but is a group")
        attrs = {key: _scalar(value) for key, value in dataset.attrs.items()}
        layers[name] = Layer(Rows(_stored(source, file, f"layers/{name}")), attrs)
    return layers


def _scalar(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    return value.item() if isinstance(value, np.generic) else value


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
