"""Reads a checkpoint file as named tensors.

Nothing is unpickled but tensors and plain containers (``weights_only=True``), with a short list of inert types beside.
Each tensor keeps its place in the file, so that export can put another one there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ltpost.errors import DataError, UsageError
from ltpost.extract.checkpoints.container import SUFFIXES, read_container, sha256_of_file
from ltpost.extract.checkpoints.layouts import Container, Layout, Location, at, experts_at, is_state, layout_of
from ltpost.extract.checkpoints.stored_accuracy import stored_accuracy
from ltpost.extract.checkpoints.weight_sets import one_set, weight_sets

#: prefixes that wrappers of a model add to the names of its tensors
PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "encoder.", "network.")


#: a counter that torch's AveragedModel keeps beside the tensors of the model
AVERAGED_COUNT = "n_averaged"

#: the types of tensors that models hold
_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool, torch.uint8, torch.int8, torch.int16,
          torch.int32, torch.int64)  # fmt: skip

#: RIDE and SADE: names of expert e in the shared network, and in a network of its own
_EXPERT = (
    (r"^layer(\d)s\.{e}\.", r"layer\1."),
    (r"^linears\.{e}\.", "fc."),
    (r"^(layer\ds|linears|expert_help_pred_\w+|shared_expert_help_pred_\w+)\.", None),
)


def _one_expert(container: Container, expert: int) -> Layout:
    place, experts = experts_at(container) or ((), [])
    if expert not in experts:
        listed = ", ".join(map(str, experts))
        raise UsageError(f"expert= must be one of {listed} or all for this file, but is {expert}")
    rename = tuple((pattern.replace("{e}", str(expert)), new) for pattern, new in _EXPERT)
    return Layout(f"expert {expert} of {len(experts)} (RIDE, SADE)", is_state, (place,), rename)


def read_experts(path: str | os.PathLike[str], weights: str | None = None) -> list[Checkpoint]:
    """The experts of a RIDE or SADE checkpoint, each as a checkpoint of its own.

    Raises:
        DataError: it is not one.
    """
    experts = number_of_experts(path)
    if not experts:
        raise DataError(f"{path}: has no experts (tensors linears.0.weight, …); leave expert= out")
    return [read_checkpoint(path, expert, weights) for expert in experts]


def number_of_experts(path: str | os.PathLike[str]) -> list[int]:
    """The numbers of the experts in a checkpoint file; empty where it has none."""
    place = experts_at(read_container(Path(path))) if Path(path).is_file() else None
    return [] if place is None else place[1]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that has been read.

    Args:
        path: the file.
        state: name to tensor, wrappers' prefixes stripped; factors of the classifier are multiplied in.
        locations: name to its place in ``container``.
        container: the content of the file.
        layout: how the file was saved.
        sha256: of the file.
        arch: the name of the architecture that the file holds, or None.
        scales: the place of factors that multiply the classifier, or None.
        normed: name of a classifier whose weight is (D, C) and, like its input, normalised (LDAM's NormedLinear).
        accuracy: the key of an accuracy that the file holds, and its value as a fraction; or None.
        weights: where the file holds several sets of weights, the key of this one; or None.
    """

    path: Path
    state: dict[str, Tensor]
    locations: dict[str, Location]
    container: Container = field(repr=False)
    layout: Layout
    sha256: str
    arch: str | None = None
    scales: Location | None = None
    normed: str | None = None
    accuracy: tuple[str, float] | None = None
    weights: str | None = None

    def module_name(self, head_key: str) -> str:
        """The model's name of a module, from its name in the file or in the model."""
        wanted = head_key.removesuffix(".weight").removesuffix(".bias")
        for short, location in self.locations.items():
            if location[-1].removesuffix(".weight") == wanted:
                return short.removesuffix(".weight")
        return wanted


def read_checkpoint(path: str | os.PathLike[str], expert: int | None = None, weights: str | None = None) -> Checkpoint:
    """Read a checkpoint of any layout in ``LAYOUTS``.

    Args:
        path: the file.
        expert: the number of one expert, of a network with several.
        weights: the key of one set of weights, of a file with several (``state_dict_ema``, ``state_dict``); None takes
            the averaged or the best one.

    Raises:
        DataError: the file does not exist, is not a checkpoint, holds more than tensors and plain data, or has a
            classifier that is not linear.
    """
    source = Path(path)
    if not source.is_file():
        raise DataError(f"{source}: no such checkpoint file{_near(source)}")
    container = whole = read_container(source)
    sets = weight_sets(container)
    if weights is not None or len(sets) > 1:
        container = one_set(container, sets, weights or sets[0], source)
    layout = layout_of(container)
    if layout is None:
        keys = ", ".join(list(map(str, container))[:8])
        raise DataError(f"{source}: holds no tensors where ltpost looks for them; its keys are {keys or 'none'}")
    if expert is not None:
        if not layout.name.startswith("RIDE"):
            raise UsageError(
                f"expert={expert}: {source} has no experts (tensors linears.0.weight, …); leave expert= out"
            )
        layout = _one_expert(container, expert)
    if layout.refuse:
        raise DataError(f"{source}: {layout.refuse}")
    state, locations = _collect(container, layout, source)
    scales = locations.pop(layout.scales, None) if layout.scales else None
    if scales is not None:
        _multiply(state, state.pop(str(layout.scales)).flatten(), source)
    _canonical_head(state, locations)
    arch = container.get("arch")
    arch = arch if isinstance(arch, str) else None
    normed = _normed_head(state)
    default = weights is None or weights == sets[0]
    return Checkpoint(
        source,
        state,
        locations,
        whole,
        layout,
        sha256_of_file(source),
        arch,
        scales,
        normed,
        stored_accuracy(container, source.name) if default else None,
        (weights or sets[0]) if len(sets) > 1 else None,
    )


def _collect(container: Container, layout: Layout, source: Path) -> tuple[dict[str, Tensor], dict[str, Location]]:
    state: dict[str, Tensor] = {}
    locations: dict[str, Location] = {}
    for part in layout.parts:
        tensors = at(container, *part)
        items = tensors.items() if isinstance(tensors, Mapping) else ()
        names = {
            name: tensor
            for name, tensor in items
            if isinstance(name, str) and isinstance(tensor, Tensor) and name != AVERAGED_COUNT
        }
        for short, name in _stripped(list(names)).items():
            new = _renamed(short, layout.rename)
            if new is not None:
                new = new if part != ("state_dict_block",) else f"block.{new}"
                state[new], locations[new] = _dense(new, names[name], source), (*part, name)
    return state, locations


def _dense(name: str, tensor: Tensor, source: Path) -> Tensor:
    """The tensor itself, if it is dense and of a type that models hold.

    Raises:
        DataError: it is sparse, quantized, nested, without content, or of a type that models do not compute with.
    """
    plain = tensor.layout == torch.strided and not (tensor.is_quantized or tensor.is_meta or tensor.is_nested)
    if not plain or tensor.dtype not in _TYPES:
        kind = "nested" if tensor.is_nested else str(tensor.dtype if plain else tensor.layout).removeprefix("torch.")
        raise DataError(f"{source}: tensor '{name}' must be a plain tensor of float32 or the like, but is {kind}")
    return tensor


def _stripped(names: list[str]) -> dict[str, str]:
    """Short names to names, without the prefixes that all names share."""
    short = {name: name for name in names}
    while prefix := next((p for p in PREFIXES if names and all(name.startswith(p) for name in short)), None):
        short = {name.removeprefix(prefix): full for name, full in short.items()}
    return short


def _renamed(name: str, rename: tuple[tuple[str, str | None], ...]) -> str | None:
    for pattern, new in rename:
        if new is None and re.search(pattern, name):
            return None
        name = re.sub(pattern, new or "", name) if new is not None else name
    return name


def _multiply(state: dict[str, Tensor], scales: Tensor, source: Path) -> None:
    """Multiply w_c and b_c by s_c, as LWS and MiSLAS do."""
    weight, bias = state.get("fc.weight"), state.get("fc.bias")
    fits = weight is not None and weight.ndim == 2 and (bias is None or bias.shape == scales.shape)
    if weight is None or not fits or len(weight) != len(scales):
        raise DataError(f"{source}: has {len(scales)} factors for its classifier, but no 'fc.weight' with as many rows")
    state["fc.weight"] = weight * scales[:, None].to(weight)
    if bias is not None:
        state["fc.bias"] = bias * scales.to(weight)


def _canonical_head(state: dict[str, Tensor], locations: dict[str, Location]) -> None:
    """Rename the classifier of a ResNet to ``fc``, and that of a CIFAR ResNet to ``linear``."""
    if "layer3.0.conv1.weight" not in state:
        return
    right, other = ("fc", "linear") if "layer4.0.conv1.weight" in state else ("linear", "fc")
    if f"{right}.weight" in state:
        return
    for kind in ("weight", "bias"):
        if f"{other}.{kind}" in state:
            state[f"{right}.{kind}"] = state.pop(f"{other}.{kind}")
            locations[f"{right}.{kind}"] = locations.pop(f"{other}.{kind}")


def is_gated(state: Mapping[str, Tensor]) -> bool:
    """Whether logits are DisAlign's (1 + c s) z + c b. The confidence c of each image makes them not linear."""
    return "confidence_layer.weight" in state


def _normed_head(state: Mapping[str, Tensor]) -> str | None:
    """The name of LDAM's NormedLinear, which is (D, C) without a bias where a linear layer is (C, D); or None."""
    norms = [tensor for key, tensor in state.items() if re.search(r"layer\d\.\d+\.bn\d\.weight$", key)]
    for name in ("fc", "linear"):
        weight = state.get(f"{name}.weight")
        if weight is not None and weight.ndim == 2 and norms and norms[-1].ndim and f"{name}.bias" not in state:
            dimension = len(norms[-1])
            if weight.shape[0] == dimension != weight.shape[1]:
                return name
    return None


@dataclass(frozen=True)
class HeadCandidate:
    """A tensor that may be a classifier's weight: ``name`` without ``.weight``, its shape, whether it has a bias."""

    name: str
    shape: tuple[int, int]
    bias: bool


def head_candidates(state: Mapping[str, Tensor]) -> list[HeadCandidate]:
    """The 2-D weights whose names are not those of the backbone's blocks."""
    candidates = []
    for key, tensor in state.items():
        name = key.removesuffix(".weight")
        if tensor.ndim == 2 and key.endswith(".weight") and not re.search(r"(block|layer|stage)s?[._]?\d", name):
            candidates.append(HeadCandidate(name, (len(tensor), tensor.shape[1]), f"{name}.bias" in state))
    return candidates


def _near(source: Path) -> str:
    folder = source.parent
    others = sorted(p.name for p in folder.iterdir() if p.suffix in SUFFIXES) if folder.is_dir() else []
    return f" ({folder} has {', '.join(others[:5])})" if others else ""
