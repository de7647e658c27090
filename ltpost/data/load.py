"""Opening a feature file (HDF5, see FORMAT.md). Big datasets stay on disk until they are used."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ltpost._version import __version__
from ltpost.data import checks
from ltpost.data.features import FeatureSet
from ltpost.data.hdf5 import File
from ltpost.data.layers import Layer
from ltpost.data.rows import Rows, decoded
from ltpost.data.write import FORMAT, FORMAT_VERSION, partial_name
from ltpost.errors import DataError
from ltpost.heads import Array, LinearHead
from ltpost.heads.saving import is_finite

#: root attributes that are read; others are left alone
ATTRIBUTES = (
    "format", "format_version", "state", "split", "arch", "checkpoint", "checkpoint_sha256", "model_sha256", "head_key",
    "head_scale", "layout", "weights", "transform", "dataset", "class_order", "dtype", "amp", "views", "expert",
    "experts", "expert_widths", "shard", "drawn_from", "drawn_val", "drawn_seed", "layers", "layers_dtype",
    "ltpost_version", "torch_version", "created",
)  # fmt: skip


#: attributes of a layer that are read
LAYER_ATTRIBUTES = ("module", "pooling")


def load(path: str | os.PathLike[str], part: bool = False) -> FeatureSet:
    """Open a feature file. Big datasets stay on disk (memory-mapped) until they are used.

    A file written by hand with h5py (``features``, ``labels``, and where known ``head/weight``, ``head/bias``,
    ``class_counts``) will do; the full list is in FORMAT.md.

    Args:
        path: the file.
        part: the file holds a part of its split, so that ``class_counts`` need not count its rows.

    Raises:
        DataError: the file breaks a rule of the format; the message says which, and what was found.
    """
    source = Path(path)
    if source.is_dir():
        raise DataError(f"{source}: is a folder, not a feature file{_near(source / 'any')}")
    if not source.is_file():
        raise DataError(f"{source}: no such feature file{_near(source)}")
    with File(source) as file:
        return _read(source, file, part)


def names_in(path: str | os.PathLike[str]) -> list[str] | None:
    """The class names in a feature file, of which nothing else is read; None where there are none, or no such file."""
    try:
        with File(Path(path)) as file:
            return _text(file, "class_names")
    except (DataError, FileNotFoundError):  # whoever reads the rows of this file says what is wrong with it
        return None


def _text(file: File, key: str) -> list[str] | None:
    """A column of text, decoded."""
    column = file.values(key)
    return None if column is None or column.ndim != 1 else [decoded(value) for value in column]


def _near(source: Path) -> str:
    """What to do about a file that is not there."""
    if source.name and partial_name(source).is_file():
        return f", only an unfinished {partial_name(source).name}; run the same ltpost extract command again"
    others = sorted(other.name for other in source.parent.glob("*.h5")) if source.parent.is_dir() else []
    if others:
        return f"; {source.parent} has {', '.join(others)}"
    return "; write one with ltpost extract"


def _read(source: Path, file: File, part: bool) -> FeatureSet:
    attrs = {name: value for name in ATTRIBUTES if (value := file.attribute(name)) is not None}

    def require(holds: bool, requirement: str) -> None:
        checks.require(str(source), holds, requirement)

    for name in ("format_version", "experts"):
        value = attrs.get(name, 1)
        require(
            not isinstance(value, str) and float(value).is_integer() and value >= 1,
            f"attribute '{name}' must be a whole number from 1 on, but is {value!r}",
        )
        attrs.update({name: int(value)} if name in attrs else {})
    form, state = attrs.get("format", FORMAT), attrs.get("state", "complete")
    version = attrs.get("format_version", FORMAT_VERSION)
    require(form == FORMAT, f"attribute 'format' must be '{FORMAT}', but is {form!r}")
    require(
        version <= FORMAT_VERSION,
        f"has format_version {version}, and this ltpost {__version__} reads up to {FORMAT_VERSION}; "
        "upgrade with pip install -U ltpost",
    )
    require(state == "complete", f"attribute 'state' is {state!r}, the extraction did not finish; run it again")
    names, paths = file.values("class_names"), file.stored("paths")
    for key, column in (("class_names", names), ("paths", paths)):
        of_text = column is None or (len(column.shape) == 1 and column.dtype.kind in "SO")
        require(of_text, f"'{key}' must be a column of text")
    return FeatureSet(
        file.stored("features"),
        file.values("labels"),
        logits=file.stored("logits"),
        head=_head(source, file),
        class_counts=file.values("class_counts"),
        class_names=_text(file, "class_names"),
        paths=paths,
        sample=file.values("sample"),
        view=file.values("view"),
        valid=file.values("valid"),
        expert_bias=_floats(source, file, "head/expert_bias"),
        layers=_layers(file),
        split=str(attrs.get("split", source.stem)),
        part=part or "shard" in attrs,
        attrs=attrs,
        name=str(source),
    )


def _head(source: Path, file: File) -> LinearHead | None:
    """The joint classifier, where it is stored."""
    weight, bias = _floats(source, file, "head/weight"), _floats(source, file, "head/bias")
    if weight is None:
        checks.require(str(source), bias is None, "has 'head/bias' but no 'head/weight' (C, D)")
        return None
    try:
        return LinearHead(weight, bias)
    except DataError as error:
        raise DataError(f"{source}: {error}") from None


def _floats(source: Path, file: File, key: str) -> Array | None:
    """A dataset as float32, finite."""
    value = file.values(key)
    if value is None:
        return None
    name = str(source)
    checks.require(name, value.dtype.kind == "f", f"'{key}' must be floating point, but is {value.dtype}")
    checks.require(name, is_finite(value), checks.FINITE.format(key))
    return value.astype(np.float32)


def _layers(file: File) -> dict[str, Layer]:
    """The pooled features of earlier layers, by name."""
    layers = {}
    for name in file.members("layers"):
        key = f"layers/{name}"
        attrs = {attribute: file.attribute(attribute, key) for attribute in LAYER_ATTRIBUTES}
        stored = file.stored(key)
        layers[name] = Layer(
            stored if isinstance(stored, Rows) else Rows(stored), {k: v for k, v in attrs.items() if v is not None}
        )
    return layers
