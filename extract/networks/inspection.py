"""Describes a checkpoint file: ``ltpost inspect-ckpt``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from torch import Tensor

from ltpost.errors import DataError, LtpostError
from ltpost.extract.checkpoints.checkpoint import Checkpoint, head_candidates, read_checkpoint
from ltpost.extract.checkpoints.container import read_container
from ltpost.extract.checkpoints.layouts import layout_of
from ltpost.extract.checkpoints.weight_sets import weight_sets
from ltpost.extract.messages import reading, some
from ltpost.extract.networks.builders import builders
from ltpost.extract.networks.hugging_face import weight_files
from ltpost.extract.networks.recognition import candidates


def describe(path: str | os.PathLike[str]) -> str:
    """A page of text: the container, the layout, candidates for architecture and classifier, unused tensors.

    Args:
        path: of a checkpoint file, or of a model folder of transformers.

    Raises:
        DataError: the file does not exist, or is not a checkpoint.
    """
    source = Path(path)
    if source.is_dir():
        return "\n".join(_folder(source))
    if not source.is_file():
        raise DataError(f"{source}: no such checkpoint file")
    container = read_container(source)
    layout, sets = layout_of(container), weight_sets(container)
    lines = [f"{source} ({source.stat().st_size / 2**20:.1f} MiB)", "", "container"]
    lines += [f"  {key}: {_kind(value)}" for key, value in list(container.items())[:20]]
    lines += [f"  … and {len(container) - 20} more"] if len(container) > 20 else []
    lines += ["", f"layout: {layout.name if layout else 'unknown'}"]
    lines += [f"weights: {sets[0]}, or {', '.join(sets[1:])} with --weights"] if len(sets) > 1 else []
    try:
        checkpoint = read_checkpoint(source)
    except LtpostError as error:
        return "\n".join([*lines, f"cannot be used: {error}"])
    names = candidates(checkpoint.state)
    hint = f" (the file names '{checkpoint.arch}')" if checkpoint.arch else ""
    lines += [f"architecture: {', '.join(names) or 'unknown, name it with --arch'}{hint}", "", "classifiers"]
    for head in head_candidates(checkpoint.state):
        size, bias = f"{head.shape[0]} x {head.shape[1]}", "bias" if head.bias else "no bias"
        lines.append(f"  {head.name}: {size}, {bias}{_remark(checkpoint, head.name)}")
    lines += ["", *_unused(checkpoint, names)]
    return "\n".join(lines).rstrip()


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        shape = "nested" if value.is_nested else tuple(value.shape)
        return f"tensor {shape} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, dict) and value:
        tensors = sum(isinstance(item, Tensor) for item in value.values())
        return f"{len(value)} entries, {tensors} of them tensors"
    text = repr(value)
    return text if len(text) < 60 else type(value).__name__


def _remark(checkpoint: Checkpoint, name: str) -> str:
    location = " / ".join(checkpoint.locations[f"{name}.weight"])
    remark = f"  ({location})"
    if checkpoint.normed == name:
        remark += ", normalised (D x C); its scale is not in the file, see --head-scale"
    if checkpoint.scales is not None:
        remark += f", multiplied by {' / '.join(checkpoint.scales)}"
    return remark


def _unused(checkpoint: Checkpoint, names: list[str]) -> list[str]:
    """A line about tensors that the only candidate for the architecture does not use."""
    if len(names) != 1:
        return []
    builder = next(builders(names[0]))
    used = builder.build(names[0], None).state_dict()
    unused = [name for name in checkpoint.state if name not in used and name != f"{checkpoint.normed}.weight"]
    return [f"unused by {names[0]}: {len(unused)} tensors" + (f" ({some(unused)})" if unused else "")]


def _folder(folder: Path) -> list[str]:
    """Lines on a model folder of transformers: its configuration, classes, files and classifiers; no model is made."""
    files = weight_files(folder)
    with reading(folder / "config.json", "the configuration of a model"):
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        names = list((config.get("id2label") or {}).values())
        kind = ", ".join(config.get("architectures") or ["unknown"])
        size = sum(file.stat().st_size for file in files) / 2**20
        lines = [f"{folder} (a model folder of transformers, {size:.1f} MiB of weights)", ""]
        lines += [f"architecture: {kind} ({config.get('model_type', 'unknown')})"]
        shown = f" ({some([str(name) for name in names])})" if names else ""
        lines += [f"classes: {len(names) or config.get('num_labels', 2)}{shown}", "", "files"]
    lines += [
        f"  {file.name}: {file.stat().st_size / 2**20:.2f} MiB" for file in sorted(folder.iterdir()) if file.is_file()
    ]
    lines += ["", "classifiers"]
    for file in files:
        for head in head_candidates(read_checkpoint(file).state):
            bias = "bias" if head.bias else "no bias"
            lines.append(f"  {head.name}: {head.shape[0]} x {head.shape[1]}, {bias}  ({file.name})")
    return lines
