"""Reading head files (``saving`` writes them)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ltpost.errors import DataError
from ltpost.heads.aggregated import AggregatedHead, ExpertHead, InstanceWeightedHead, experts_from_state
from ltpost.heads.causal_norm import CausalNormHead
from ltpost.heads.changed import ChangedHead
from ltpost.heads.gated import GatedHead
from ltpost.heads.joint import JointHead
from ltpost.heads.linear import LinearHead
from ltpost.heads.mixed import MixedHead
from ltpost.heads.neighbours import NeighbourHead
from ltpost.heads.normalized import NormalizedMeanHead
from ltpost.heads.pairwise import PairwiseHead
from ltpost.heads.protocol import Array, Head, Spec
from ltpost.heads.prototypes import PrototypeHead
from ltpost.heads.rescaled import RescaledHead
from ltpost.heads.routed import RoutedHead, gates_from_tensors
from ltpost.heads.saving import ENTRY, is_finite
from ltpost.heads.summed import SummedHead

_TYPES = ("F16", "F32", "F64", "I32")
_LARGEST = float(np.finfo(np.float32).max)
_DEEPEST = 20  # heads in heads in heads


def _rescaled(spec: Spec, tensors: Mapping[str, Array]) -> RescaledHead:
    head = RescaledHead(head_from_state(spec["base"], tensors), tensors.get("scale"), tensors.get("offset"))
    if "weight" in tensors and spec["base"]["kind"] == "joint":
        layer = head._linear = LinearHead(tensors["weight"], tensors.get("bias"))
        if layer.num_classes != head.num_classes:
            raise DataError(f"'weight' must have C = {head.num_classes} rows, but has {layer.num_classes}")
    return head


def _aggregated(spec: Spec, tensors: Mapping[str, Array]) -> AggregatedHead:
    experts = experts_from_state(spec["experts"], tensors, head_from_state)
    return AggregatedHead(experts, tensors["scale"], tensors.get("offset"))


def _instance_weighted(spec: Spec, tensors: Mapping[str, Array]) -> InstanceWeightedHead:
    experts = experts_from_state(spec["experts"], tensors, head_from_state)
    return InstanceWeightedHead(experts, spec["space"], spec["similarity"], spec["strength"])


def _routed(spec: Spec, tensors: Mapping[str, Array]) -> RoutedHead:
    experts = experts_from_state(spec["experts"], tensors, head_from_state)
    return RoutedHead(experts, gates_from_tensors(tensors, len(experts) - 1), spec["top"], spec["threshold"])


#: kind of a head, as its spec says, to the function that builds it from spec and tensors
KINDS: dict[str, Callable[[Spec, Mapping[str, Array]], Head]] = {
    "linear": LinearHead.from_state,
    "joint": JointHead.from_state,
    "rescaled": _rescaled,
    "gated": GatedHead.from_state,
    "normalized-mean": NormalizedMeanHead.from_state,
    "expert": lambda spec, tensors: ExpertHead(head_from_state(spec["head"], tensors), int(spec["number"])),
    "aggregated": _aggregated,
    "instance-weighted": _instance_weighted,
    "routed": _routed,
    "causal-norm": CausalNormHead.from_state,
    "mixed": lambda spec, tensors: MixedHead.from_state(spec, tensors, head_from_state),
    "pairwise": lambda spec, tensors: PairwiseHead(head_from_state(spec["base"], tensors), tensors["spread"]),
    "changed": ChangedHead.from_state,
    "summed": lambda spec, tensors: SummedHead.from_state(spec, tensors, head_from_state),
    "prototypes": PrototypeHead.from_state,
    "neighbours": NeighbourHead.from_state,
}


def _number(value: Any) -> bool:
    """Finite as float32, too."""
    return type(value) in (int, float) and abs(value) <= _LARGEST


def _integer(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _list(value: Any) -> bool:
    return isinstance(value, list) and bool(value)


def _one_of(*values: Any) -> Callable[[Any], bool]:
    return lambda value: type(value) in (str, bool) and value in values


_FLAG = _one_of(True, False)
#: kind of a head to the entries of its spec that are no heads, and what each must be
ENTRIES: dict[str, dict[str, Callable[[Any], bool]]] = {
    "joint": {"num_classes": _integer, "fingerprint": lambda value: value is None or isinstance(value, str)},
    "gated": {"unit": _FLAG},
    "expert": {"number": _integer},
    "aggregated": {"experts": _list},
    "instance-weighted": {
        "experts": _list,
        "space": _one_of("softmax", "logits"),
        "similarity": _one_of("cosine", "dot"),
        "strength": _number,
    },
    "routed": {"experts": _list, "top": _integer, "threshold": _number},
    "causal-norm": {"alpha": _number, "parts": _integer, "scale": _number, "gamma": _number},
    "mixed": {"weight": _number},
    "changed": {"power": _number, "unit": _FLAG, "source": lambda value: isinstance(value, str)},
    "summed": {"heads": _list, "weights": lambda value: _list(value) and all(map(_number, value))},
    "neighbours": {"k": _integer, "temperature": _number},
}


def head_from_state(spec: Spec, tensors: Mapping[str, Array]) -> Head:
    """The head that ``Head.state`` describes.

    Raises:
        DataError: an entry of the spec is of another type or out of its range, or tensors do not fit.
        KeyError: an unknown kind, or a tensor that its kind needs is missing.
    """
    kind = spec["kind"]
    for name, fits in ENTRIES.get(kind, {}).items():
        if not fits(spec[name]):
            raise DataError(f"'{name}' of a head of kind '{kind}' cannot be {str(spec[name])[:40]!r}; fit it again")
    return KINDS[kind](spec, tensors)


def _built(spec: Spec, tensors: Mapping[str, Array]) -> Head:
    """The head of a file, sound as far as can be seen without rows."""
    head = head_from_state(spec, tensors)
    if head.num_classes < 1:
        raise DataError(f"must have classes, but has {head.num_classes}")
    head.linear()
    head.state()
    return head


def load_head(path: str | os.PathLike[str]) -> Head:
    """Read a head file.

    Args:
        path: what ``head.save`` wrote, or any safetensors file with ``weight`` (C, D) and optionally ``bias`` (C,).

    Raises:
        DataError: there is no such file, or it does not hold a head.
    """
    from safetensors import SafetensorError, safe_open

    source = Path(path)
    if not source.is_file():
        raise DataError(
            f"{source}: no such head file; ltpost tnorm, compare and others write heads/<method>.safetensors"
        )
    try:
        with safe_open(source, framework="numpy") as file:
            entry = (file.metadata() or {}).get(ENTRY)
            tensors = {name: _tensor(file, name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except DataError as error:
        raise DataError(f"{source}: {error}") from None
    except (SafetensorError, OSError, RuntimeError, LookupError, ValueError, TypeError, MemoryError) as error:
        raise DataError(f"{source}: is not a readable safetensors file ({error})") from None
    spec, info = _described(source, entry)
    if spec["kind"] == "linear" and "weight" not in tensors:
        raise DataError(f"{source}: must hold a tensor 'weight' (C, D), but holds {sorted(tensors) or 'nothing'}")
    try:
        with np.errstate(all="ignore"):  # what leaves the range of float32 is said where rows are read
            head = _built(spec, tensors)
    except DataError as error:
        raise DataError(f"{source}: {error}") from None
    except Exception as error:  # the one place where any damage to a head file ends as a sentence
        reason = " ".join(repr(error).split())[:200]
        raise DataError(f"{source}: is not a head that this ltpost can read ({reason}); fit it again") from None
    head.info.update(info)
    return head


def _tensor(file: Any, name: str) -> Array:
    """One tensor of a head file, finite as float32."""
    kind = file.get_slice(name).get_dtype()
    if kind not in _TYPES:
        raise DataError(f"tensor '{name}' must be one of {', '.join(_TYPES)}, but is {kind}; save it as F32")
    tensor: Array = file.get_tensor(name)
    if not is_finite(tensor):
        raise DataError(f"tensor '{name}' must be finite as float32, but holds NaN, infinity or a larger number")
    return tensor


def _described(source: Path, entry: str | None) -> tuple[Spec, dict[str, Any]]:
    """Spec and info of a head file; a file without them is a linear layer."""
    if entry is None:
        return {"kind": "linear"}, {}
    try:
        described = json.loads(entry)
        spec, info = described["spec"], described["info"]
        if isinstance(spec["kind"], str) and isinstance(info, dict) and _depth(spec) <= _DEEPEST:
            return spec, info
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise DataError(f"{source}: its metadata entry '{ENTRY}' is damaged; fit the head again")


def _depth(spec: Any) -> int:
    """How many dictionaries and lists are inside each other."""
    inner = spec.values() if isinstance(spec, dict) else spec if isinstance(spec, list) else None
    return 0 if inner is None else 1 + max(map(_depth, inner), default=0)
