"""Which layers to store where the user says ``auto``, and how each is pooled where nothing is said.

Networks are chains of blocks, in stages. The last stage of a trained network memorises its training rows, earlier ones
do so less: the taps are the end of the stage before the last one, and the first and the middle block of the last one.
Networks without stages (transformers) are tapped at a half, two thirds and five sixths of their depth. The choice was
measured on one ResNet-32 (``benchmarks/layers.py``); how far it holds for large networks is open.

Blocks are found by running the network once, not by a list of architectures. What a stage gives is what its last block
gives; what a block gives is not what one of its parts gives, as it adds its input to that.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ltpost.errors import UsageError
from ltpost.extract.data.batches import Arguments
from ltpost.extract.networks.backbone import Backbone
from ltpost.extract.networks.experts import SideBySide
from ltpost.extract.networks.taps import (
    Grid,
    Tap,
    Taps,
    channels_first,
    convolutions,
    module_of,
    parse_taps,
    poolings,
    tensor_of,
    unique,
)

#: parts of the depth of a network without stages
DEPTHS = (1 / 2, 2 / 3, 5 / 6)
_VALUES = 4096  # of an output, that are compared
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class Seen:
    """What a module gave: its shape, some of its values, and the grid of the convolution before it."""

    shape: tuple[int, ...]
    values: Tensor
    grid: Grid

    @classmethod
    def of(cls, output: Tensor, grid: Grid) -> Seen:
        """Copied now, as the output may be changed in place later."""
        step = max(1, output.numel() // _VALUES)
        return cls(tuple(output.shape), output.flatten()[::step].clone(), Grid(grid.size))

    @property
    def size(self) -> tuple[int, ...]:
        """Height and width of a map, or the number of tokens."""
        return channels_first(self.shape)[1:] if len(self.shape) == 4 else self.shape[1:2]

    def equals(self, other: Seen) -> bool:
        """Whether both gave the same."""
        return self.shape == other.shape and torch.equal(self.values, other.values)


def tap(backbone: Backbone, layers: str, inputs: Arguments) -> dict[Tap, int]:
    """Let a network give some layers too, and tell how many columns each has.

    Args:
        backbone: its ``taps`` are set.
        layers: "auto", or taps with commas between; see :func:`~ltpost.extract.networks.taps.parse_taps`.
        inputs: a few rows, on its device, as the network takes them.

    Raises:
        UsageError: it has no such module, or auto finds no layer.
        DataError: an output cannot be pooled so.
    """
    taps = resolved(layers, backbone.model, lambda: backbone.eager(inputs))
    backbone.taps = Taps(backbone.model, taps)
    found = backbone.eager(inputs).layers
    return {one: found[one.name].shape[1] for one in taps}


def resolved(text: str, model: nn.Module, run: Callable[[], object]) -> list[Tap]:
    """The taps that ``text`` names, each with its pooling.

    Args:
        text: "auto", or taps with commas between; see :func:`~ltpost.extract.networks.taps.parse_taps`.
        model: the network.
        run: runs it on a few images.

    Raises:
        UsageError: it has no such module, or auto finds no layer.
    """
    if text.strip() == "auto":
        seen = observed(model, run, [name for name, _ in model.named_modules() if name])
        taps = [Tap(path) for path in auto_paths(model, seen)]
        if not taps:
            raise UsageError(
                f"layers=auto finds no earlier layer in {type(model).__name__}; name modules, as in layers=layer2@4"
            )
    else:
        taps = parse_taps(text)
        open_taps = [tap.module for tap in taps if not tap.pooling]
        seen = observed(model, run, open_taps) if open_taps else {}
    full: list[Tap] = []
    for tap in taps:
        known = None if tap.pooling else seen.get(tap.module)
        full += [tap] if known is None else [Tap(tap.module, how) for how in poolings(known.shape, known.grid)]
    return unique(full)


def observed(model: nn.Module, run: Callable[[], object], paths: Iterable[str]) -> dict[str, Seen]:
    """What modules give that run once and give a map, tokens or a vector, in the order in which they end."""
    seen: dict[str, Seen | None] = {}
    grid = Grid()

    def keep(path: str, output: Any) -> None:
        tensor = tensor_of(output)
        usable = tensor is not None and tensor.ndim in (2, 3, 4) and path not in seen
        seen[path] = Seen.of(tensor, grid) if tensor is not None and usable else None

    hooks = [module.register_forward_hook(grid) for module in convolutions(model)]
    for path in dict.fromkeys(paths):
        module = module_of(model, path)
        hooks.append(module.register_forward_hook(lambda _, args, output, path=path: keep(path, output)))
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return {path: one for path, one in seen.items() if one is not None}


def auto_paths(model: nn.Module, seen: Mapping[str, Seen]) -> list[str]:
    """The modules that auto chooses; of each of several experts.

    Args:
        model: the network.
        seen: what all its modules gave.
    """
    if isinstance(model, SideBySide):
        parts = [f"experts.{number}." for number in range(len(model.experts))]
        own = [{path: one for path, one in seen.items() if path.startswith(part)} for part in parts]
    else:
        own = [dict(seen)]
    return [path for one in own for path in _chosen(model, one)]


def _chosen(model: nn.Module, seen: Mapping[str, Seen]) -> list[str]:
    inner = {path: one for path, one in seen.items() if len(one.shape) > 2 and math.prod(one.size) > 1}
    blocks = _blocks(model, inner)
    sizes = [inner[path].size for path in blocks]
    last = next((i for i in range(len(blocks), 0, -1) if sizes[i - 1] != sizes[-1]), 0)  # where the last stage begins
    stage = blocks[last:]
    if last:
        chosen = [blocks[last - 1], *(stage[place] for place in (0, (len(stage) - 1) // 2) if len(stage) > 1)]
    else:
        places = [math.ceil(len(blocks) * depth) - 1 for depth in DEPTHS]
        chosen = [blocks[place] for place in places if place < len(blocks) - 1]
    return list(dict.fromkeys(_outermost(path, inner, blocks) for path in chosen))


def _blocks(model: nn.Module, seen: Mapping[str, Seen]) -> Sequence[str]:
    """The blocks of a network in order: numbered modules with parts; where there are none, all modules without parts.

    A block without a connection around it hands on what its last part gives; others of its class tell what it is. Where
    some are of a class of their own, plain containers are no blocks but what stands between the stages.
    """
    parts = {path: any(True for _ in model.get_submodule(path).children()) for path in seen}
    numbered = [path for path in seen if parts[path] and _is_numbered(model, path)]
    if not numbered:
        return [path for path in seen if not parts[path]]
    whole = {
        path
        for path in numbered
        if not any(_inside(other, path) and seen[other].equals(seen[path]) for other in numbered)
    }
    classes = {type(model.get_submodule(path)) for path in whole} - set(_CONTAINERS)
    blocks = {path for path in numbered if type(model.get_submodule(path)) in classes} or whole
    return [path for path in seen if path in blocks and not any(_inside(path, other) for other in blocks)]


def _is_numbered(model: nn.Module, path: str) -> bool:
    """Whether a module is in a list: ``blocks.3``, ``layer4`` beside ``layer3``, or a first one; not ``dinov2``."""
    above, _, name = path.rpartition(".")
    stem = name.rstrip("0123456789")
    alike = [
        other
        for other, _ in model.get_submodule(above).named_children()
        if re.fullmatch(rf"{re.escape(stem)}\d+", other)
    ]
    return name in alike and (len(alike) > 1 or name in (f"{stem}0", f"{stem}1"))


def _inside(path: str, other: str) -> bool:
    return path.startswith(f"{other}.")


def _outermost(path: str, seen: Mapping[str, Seen], blocks: Sequence[str]) -> str:
    """The largest module that gives what this block gives, and has no block after it: a stage, for its last block."""
    later = blocks[blocks.index(path) + 1 :]
    return next(
        other
        for other in sorted(seen, key=len)
        if _inside(f"{path}.", other) and seen[other].equals(seen[path]) and not any(_inside(b, other) for b in later)
    )
