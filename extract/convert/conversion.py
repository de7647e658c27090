"""One kind of file of cached features to another: the library twin of ``ltpost convert``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ltpost.data.features import FeatureSet
from ltpost.data.load import load
from ltpost.data.rows import parts
from ltpost.errors import DataError, UsageError
from ltpost.extract.convert.probabilities import log_probabilities
from ltpost.extract.convert.reading import READERS, feature_set_of, named_arrays, read_arrays, read_labels
from ltpost.extract.convert.writing import WRITERS
from ltpost.extract.data.class_names import are_names, names_in_checkpoint, read_class_names, texts
from ltpost.extract.data.source import check_split, read_class_counts
from ltpost.extract.messages import reading, tell
from ltpost.extract.run.lock import held
from ltpost.heads import LinearHead

SPLITS = ("train", "val", "test")
HOLDS = ("features", "logits")


def convert(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    split: str | None = None,
    labels: str | os.PathLike[str] | None = None,
    holds: str = "features",
    probabilities: bool = False,
    column: str | None = None,
    label_column: str | None = None,
    class_names: Sequence[str] | str | os.PathLike[str] | None = None,
    ckpt: str | os.PathLike[str] | None = None,
    head_key: str | None = None,
    class_counts: str | os.PathLike[str] | None = None,
) -> Path:
    """Read cached features or logits of one kind of file and write another kind. The endings of the names say which.

    Labels may be texts. They are numbered by the class names: those given, else those that the source holds, or its
    columns (``logit_cat``), the checkpoint, or another feature file of the folder; else the sorted values.

    Args:
        source: .h5 (ours), .pkl (``feats``, ``labels``, ``idxs`` of facebookresearch/classifier-balancing; rows come
            back in the order of ``idxs``), .npz (see ``ALIASES``, and ``layers/<name>``), .npy, or a table, .csv or
            .parquet, with the column ``label`` and one column per number (``f_0``, … and ``logit_0``, …) or a column of
            lists. One column of scores alone is that of class 1 of two.
        out: .h5, .npz, .parquet or .csv.
        split: its name; default: the one that either file name holds.
        labels: a file of labels, .npy or one a line, for a source that has none.
        holds: what an .npy file is, "features" (N, D) or "logits" (N, C).
        probabilities: the logits are probabilities; each row is checked, and their logarithm is stored.
        column: of a table, the column of the scores (of class 1 of two), or one for each class with commas between,
            in the order of the classes; None finds them by their names.
        label_column: of a table; None finds it.
        class_names: C names, or a file of them: one a line, or JSON.
        ckpt: a checkpoint to take the joint classifier from.
        head_key: name of the classifier in it; needed where several fit.
        class_counts: a file of training samples per class.

    Returns:
        The written file.

    Raises:
        UsageError: a file name has no ending that is known.
        DataError: the source is damaged or lacks something.
    """
    origin, target = Path(source), Path(out)
    for path, table, argument in ((origin, (".h5", *READERS), "SOURCE"), (target, tuple(WRITERS), "OUT")):
        if path.suffix not in table:
            raise UsageError(f"{argument} must end in {', '.join(table)}, but is '{path.name}'")
    if holds not in HOLDS:
        raise UsageError(f"holds= must be one of {', '.join(HOLDS)}, but is '{holds}'")
    if not origin.is_file():
        raise DataError(f"{origin}: no such file")
    if split is not None:
        check_split(split)
    if target.exists() and target.samefile(origin):
        raise UsageError(f"{target}: is the source itself; name another file to write")
    split = split or next((name for name in SPLITS for path in (origin, target) if name in path.stem), target.stem)
    given = read_class_names(class_names) if isinstance(class_names, str | os.PathLike) else class_names
    names = None if given is None else list(given)
    if origin.suffix == ".h5":
        feature_set = _of_ours(origin, names, probabilities=probabilities)
    else:
        arrays = read_arrays(origin, "logits" if probabilities else holds, column, label_column)
        fields = named_arrays(str(origin), split, arrays)
        if labels is not None:
            fields["labels"] = read_labels(labels)
        names = names or _known_names(origin, fields, ckpt, target)
        feature_set = feature_set_of(str(origin), split, fields, names, probabilities=probabilities, held=list(arrays))
    for note in feature_set.notes:
        tell(f"warning: {note}; ltpost convert --probabilities does")
    if class_counts is not None:
        feature_set = _changed(feature_set, class_counts=read_class_counts(class_counts))
    if ckpt is not None and feature_set.num_features is not None:
        feature_set = _changed(feature_set, head=_head_of(ckpt, head_key, feature_set))
    _check_finite(feature_set)
    try:
        with held(target):
            WRITERS[target.suffix](feature_set, target)
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


def _of_ours(path: Path, names: list[str] | None, *, probabilities: bool) -> FeatureSet:
    feature_set = load(path)
    changes: dict[str, Any] = {} if names is None else {"class_names": names}
    if probabilities:
        if not feature_set.has_logits:
            raise DataError(f"{path}: probabilities= needs 'logits', which it does not hold")
        changes["logits"] = log_probabilities(str(path), np.asarray(feature_set.logits[:]))
    return _changed(feature_set, **changes) if changes else feature_set


def _known_names(
    source: Path, fields: dict[str, Any], ckpt: str | os.PathLike[str] | None, target: Path
) -> list[str] | None:
    """The class names of the source, of the checkpoint or, for labels that are texts, of another file of the folder."""
    if "class_names" in fields:
        with reading(source, "features ('class_names')"):
            return texts(fields["class_names"])
    if ckpt is not None:
        from ltpost.extract.checkpoints.container import read_container

        stored = names_in_checkpoint(read_container(Path(ckpt))) if Path(ckpt).is_file() else None
        if stored is not None:
            return stored
    with reading(source, "labels"):
        named = are_names(fields.get("labels", 0))
    return _names_beside(target) if named else None


def _names_beside(target: Path) -> list[str] | None:
    """The class names of another feature file in the folder of ``target``, which belongs to it."""
    for file in sorted(target.parent.glob("*.h5")) if target.parent.is_dir() else []:
        try:
            names = load(file).class_names if file != target else None
        except DataError:
            continue
        if names is not None:
            return names
    return None


def _changed(feature_set: FeatureSet, **changes: Any) -> FeatureSet:
    """The same rows with another head or other counts, checked anew. The biases of experts belong to their head."""
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
