"""Finds the classifiers of a checkpoint that a head replaces."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ltpost.data.features import FeatureSet
from ltpost.errors import DataError, UsageError
from ltpost.extract.checkpoints.checkpoint import Checkpoint, head_candidates, is_gated, read_checkpoint, read_experts
from ltpost.extract.joint import parted
from ltpost.extract.networks.classifier import keys_of
from ltpost.heads import LinearHead


@dataclass(frozen=True)
class Part:
    """A classifier in a checkpoint and the head that replaces it: the whole head, or an expert's part.

    Args:
        checkpoint: the original one.
        expert: its number among the experts of the file, or None.
        key: name of the classifier in ``checkpoint.state``.
        columns: its columns of the features.
        head: the new classifier over those columns.
    """

    checkpoint: Checkpoint
    expert: int | None
    key: str
    columns: slice
    head: LinearHead


def parts_in(source: Path, head: LinearHead, head_key: str | None, feature_set: FeatureSet | None) -> list[Part]:
    """Every classifier that the head replaces: one, those of all experts, or several of one network."""
    attrs = {} if feature_set is None else feature_set.attrs
    expert, weights = attrs.get("expert"), attrs.get("weights")
    if expert == "all":
        places = [(one, number, _fc(one)) for number, one in enumerate(read_experts(source, weights))]
    else:
        expert = None if expert is None else int(expert)
        checkpoint = read_checkpoint(source, expert, weights)
        places = [(checkpoint, expert, key) for key in _classifiers(checkpoint, head, head_key, feature_set)]
    shapes = [_shape(checkpoint, key) for checkpoint, _, key in places]
    if (shapes[0][0], sum(width for _, width in shapes)) != head.shape or len({count for count, _ in shapes}) > 1:
        keys = ", ".join(f"'{key}.weight'" for _, _, key in places)
        sizes = ", ".join(map(str, shapes))
        raise DataError(f"{source}: {keys} is {sizes}, but the head is {head.shape} (C, D)")
    split = parted(head, [width for _, width in shapes])
    return [Part(*place, *part) for place, part in zip(places, split, strict=True)]


def _fc(checkpoint: Checkpoint) -> str:
    return "fc" if "fc.weight" in checkpoint.state else "linear"


def _shape(checkpoint: Checkpoint, key: str) -> tuple[int, int]:
    """(C, D) of a classifier."""
    rows, columns = checkpoint.state[f"{key}.weight"].shape
    return (columns, rows) if checkpoint.normed == key else (rows, columns)


def _classifiers(
    checkpoint: Checkpoint, head: LinearHead, head_key: str | None, feature_set: FeatureSet | None
) -> list[str]:
    """Names of the classifiers in ``checkpoint.state``; several where the network averages their logits."""
    if is_gated(checkpoint.state):
        raise DataError(
            f"{checkpoint.path}: its classifier is gated by a confidence of each image (DisAlign), so a linear head "
            "cannot take its place; write the head alone with format=safetensors"
        )
    if head_key is None and feature_set is not None and "head_key" in feature_set.attrs:
        head_key = str(feature_set.attrs["head_key"]).removesuffix(".1" if checkpoint.normed else "")
        sha = feature_set.attrs.get("checkpoint_sha256", checkpoint.sha256)
        if sha != checkpoint.sha256:
            raise DataError(
                f"{checkpoint.path}: is not the checkpoint that {feature_set.name} was extracted from "
                f"({feature_set.attrs.get('checkpoint')}); name that one with ckpt=, or the right features="
            )
    if head_key is not None:
        keys = [checkpoint.module_name(key) for key in keys_of(head_key)]
        for key in keys:
            if f"{key}.weight" not in checkpoint.state:
                raise UsageError(f"head_key={head_key}: {checkpoint.path} has no '{key}.weight'; {_table(checkpoint)}")
        return keys
    fitting = [c.name for c in head_candidates(checkpoint.state) if c.shape == head.shape]
    if len(fitting) != 1:
        raise UsageError(
            f"{checkpoint.path}: {len(fitting) or 'no'} tensors could be the classifier {head.shape}; name it with "
            f"head_key=; {_table(checkpoint)}"
        )
    return fitting


def _table(checkpoint: Checkpoint) -> str:
    rows = [
        f"  {c.name}  {c.shape[0]} x {c.shape[1]}{'' if c.bias else ', no bias'}"
        for c in head_candidates(checkpoint.state)
    ]
    return "candidates (name, outputs x inputs):\n" + "\n".join(rows or ["  none"])
