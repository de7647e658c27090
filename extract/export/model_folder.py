"""A rebalanced head into a copy of a model folder of transformers: its weights change, all other files stay."""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ltpost.data.features import FeatureSet
from ltpost.errors import DataError, UsageError
from ltpost.extract.checkpoints.container import sha256_of_file
from ltpost.extract.messages import reading
from ltpost.extract.networks.backbone import Backbone
from ltpost.extract.networks.hugging_face import is_model_folder, open_model_folder, weight_files
from ltpost.heads import LinearHead

INDEX = "model.safetensors.index.json"
_SAME = 2e-2  # of the largest logit, for weights that are stored in 16 bits


def weights_in(folder: Path, key: str | None) -> Path:
    """The file of a model folder that holds the classifier: the only one, or by the index of several.

    Args:
        folder: that ``save_pretrained`` wrote.
        key: name of the classifier, for a folder of several files.

    Raises:
        DataError: there is none.
    """
    files = weight_files(folder)
    index = folder / INDEX
    if len(files) == 1 or not index.is_file():
        return files[0]
    with reading(index, "an index of weights"):
        places: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    names = [name for name in places if key is not None and name.removesuffix(".weight") == key]
    if not names:
        raise UsageError(f"{index}: holds no '{key}.weight'; name the classifier with head_key=")
    file = folder / places[names[0]]
    if file.parent != folder or not file.is_file():
        raise DataError(f"{index}: says that '{names[0]}' is in {places[names[0]]}, which {folder} does not hold")
    return file


def without_origin(feature_set: FeatureSet | None, folder: Path) -> FeatureSet | None:
    """The features, once the folder is known to be theirs; their checkpoint is the first of its weight files.

    Raises:
        DataError: they come from another checkpoint.
    """
    sha = None if feature_set is None else feature_set.attrs.get("checkpoint_sha256")
    if feature_set is None or sha is None:
        return feature_set
    if sha != sha256_of_file(weight_files(folder)[0]):
        raise DataError(
            f"{folder}: is not the checkpoint that {feature_set.name} was extracted from "
            f"({feature_set.attrs.get('checkpoint')}); name that one with ckpt=, or the right features="
        )
    shown = copy.copy(feature_set)
    shown.attrs = {key: value for key, value in feature_set.attrs.items() if key != "checkpoint_sha256"}
    return shown


@contextmanager
def replacing_folder(source: Path, target: Path) -> Iterator[Path]:
    """A copy of a folder to change, which becomes ``target`` when the block ends well; it is removed when not.

    An earlier model folder of that name is replaced in the end.

    Raises:
        UsageError: ``target`` is the source, or holds something else.
        DataError: it cannot be written.
    """
    if target.exists() and target.samefile(source):
        raise UsageError(f"out={target}: is the checkpoint itself; choose another name")
    taken = target.exists() and (not target.is_dir() or (any(target.iterdir()) and not is_model_folder(target)))
    if taken:
        raise UsageError(f"out={target}: is there already, and no model folder; choose another name")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as work:
            place = Path(work) / "new"
            shutil.copytree(source, place, symlinks=False)
            yield place
            if target.exists():
                target.rename(Path(work) / "old")
            place.rename(target)
    except OSError as error:
        raise DataError(f"{target}: cannot be written ({error.strerror or error}); choose another out=") from None


def prove_folder(folder: Path, head: LinearHead, rows: Any, head_key: str | None) -> None:
    """The folder loaded afresh by transformers: its classifier must give the head's logits.

    Args:
        folder: the changed copy.
        head: that is in it.
        rows: some stored features (n, D), or None.
        head_key: name of the classifier, or None.

    Raises:
        DataError: it does not.
    """
    _, model, *_ = open_model_folder(folder)
    found = Backbone(model, head_key).head
    shown = np.eye(min(head.num_features, 256), head.num_features, dtype=np.float32) if rows is None else rows
    expected = head.logits(shown)
    difference = float(np.abs(found.logits(shown) - expected).max(initial=0.0))
    if found.shape != head.shape or not difference <= _SAME * max(1.0, float(np.abs(expected).max(initial=0.0))):
        raise DataError(f"{folder}: loaded by transformers, it gives other logits than the head (by {difference:.3g})")


def head_key_in(feature_set: FeatureSet | None, head_key: str | None) -> str | None:
    """Name of the classifier: as given, or as the features say."""
    if head_key is not None or feature_set is None or "head_key" not in feature_set.attrs:
        return head_key
    return str(feature_set.attrs["head_key"])
