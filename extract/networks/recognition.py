"""Recognizes the architecture of a checkpoint by the shapes of its tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

#: block, blocks per stage, groups, width per group
Spec = tuple[str, tuple[int, ...], int, int]


#: the ResNet, ResNeXt and wide ResNet family, with the names of torchvision, timm and classifier-balancing
FAMILY: dict[str, Spec] = {
    "resnet10": ("basic", (1, 1, 1, 1), 1, 64),
    "resnet18": ("basic", (2, 2, 2, 2), 1, 64),
    "resnet34": ("basic", (3, 4, 6, 3), 1, 64),
    "resnet50": ("bottleneck", (3, 4, 6, 3), 1, 64),
    "resnet101": ("bottleneck", (3, 4, 23, 3), 1, 64),
    "resnet152": ("bottleneck", (3, 8, 36, 3), 1, 64),
    "resnext50_32x4d": ("bottleneck", (3, 4, 6, 3), 32, 4),
    "resnext101_32x4d": ("bottleneck", (3, 4, 23, 3), 32, 4),
    "resnext152_32x4d": ("bottleneck", (3, 8, 36, 3), 32, 4),
    "resnext101_32x8d": ("bottleneck", (3, 4, 23, 3), 32, 8),
    "resnext101_64x4d": ("bottleneck", (3, 4, 23, 3), 64, 4),
    "wide_resnet50_2": ("bottleneck", (3, 4, 6, 3), 1, 128),
    "wide_resnet101_2": ("bottleneck", (3, 4, 23, 3), 1, 128),
}


#: the tensors of a network with a 3x3 stem do not show whether a max-pool follows, so each kind has a name
SMALL_STEMS = {"_cifar": "3x3 stem, no max-pool", "_cifar_pool": "3x3 stem, max-pool"}


def candidates(state: Mapping[str, Tensor]) -> list[str]:
    """The architectures whose tensors have these names and shapes; empty where none is known."""
    stem, first = state.get("conv1.weight"), state.get("layer1.0.conv1.weight")
    if stem is None or first is None or stem.ndim != 4:
        return []
    if tuple(stem.shape) == (16, 3, 3, 3) and "layer4.0.conv1.weight" not in state:
        depth = 2 + 2 * sum(_stages(state))
        return [f"cifar_resnet{depth}"] if (depth - 2) % 6 == 0 else []
    spec = _spec(state)
    names = [name for name, known in FAMILY.items() if known == spec]
    if tuple(stem.shape) == (64, 3, 7, 7):
        return names
    if tuple(stem.shape) == (64, 3, 3, 3):
        return [name + suffix for name in names for suffix in SMALL_STEMS]
    return []


def _stages(state: Mapping[str, Tensor]) -> tuple[int, ...]:
    """The number of blocks of each stage, from names layer<stage>.<block>."""
    blocks: dict[int, set[int]] = {}
    for key in state:
        if match := re.match(r"layer(\d+)\.(\d+)\.", key):
            blocks.setdefault(int(match[1]), set()).add(int(match[2]))
    return tuple(len(blocks[stage]) for stage in sorted(blocks))


def _spec(state: Mapping[str, Tensor]) -> Spec:
    if "layer1.0.conv3.weight" not in state:
        return "basic", _stages(state), 1, 64
    width, per_group = state["layer1.0.conv2.weight"].shape[:2]  # groups * per_group = width
    return "bottleneck", _stages(state), width // per_group, per_group
