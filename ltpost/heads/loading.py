"""Reading head files (``saving`` writes them)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ltpost.errors import DataError
from ltpost.heads.gated import GatedHead
from ltpost.heads.joint import JointHead
from ltpost.heads.linear import LinearHead
from ltpost.heads.normalized import NormalizedMeanHead
from ltpost.heads.protocol import Array, Head, Spec
from ltpost.heads.rescaled import RescaledHead
from ltpost.heads.saving import ENTRY


def _rescaled(spec: Spec, tensors: Mapping[str, Array]) -> RescaledHead:
    head = RescaledHead(head_from_state(spec["base"], tensors), tensors.get("scale"), tensors.get("offset"))
    if "weight" in tensors and spec["base"]["kind"] == "joint":
        head._linear = LinearHead(tensors["weight"], tensors.get("bias"))
    return head


#: kind of a head, as its spec says, to the function that builds it from spec and tensors
KINDS: dict[str, Callable[[Spec, Mapping[str, Array]], Head]] = {
    "linear": LinearHead.from_state,
    "joint": JointHead.from_state,
    "rescaled": _rescaled,
    "gated": GatedHead.from_state,
    "normalized-mean": NormalizedMeanHead.from_state,
}


def head_from_state(spec: Spec, tensors: Mapping[str, Array]) -> Head:
    """The head that ``Head.state`` describes.

    Raises:
        KeyError: an unknown kind, or a tensor that its kind needs is missing.
    """
    return KINDS[spec["kind"]](spec, tensors)


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
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            entry = (file.metadata() or {}).get(ENTRY)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{source}: is not a readable safetensors file ({error})") from None
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise DataError(f"{source}: tensor '{name}' must be finite, but holds NaN or infinity")
    spec, info = _described(source, entry)
    if spec["kind"] == "linear" and "weight" not in tensors:
        raise DataError(f"{source}: must hold a tensor 'weight' (C, D), but holds {sorted(tensors) or 'nothing'}")
    try:
        head = head_from_state(spec, tensors)
    except DataError as error:
        raise DataError(f"{source}: {error}") from None
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DataError(f"{source}: is not a head that this ltpost can read ({error!r}); fit it again") from None
    head.info.update(info)
    return head


def _described(source: Path, entry: str | None) -> tuple[Spec, dict[str, Any]]:
    """Spec and info of a head file; a file without them is a linear layer."""
    if entry is None:
        return {"kind": "linear"}, {}
    try:
        described = json.loads(entry)
        spec, info = described["spec"], described["info"]
        if isinstance(spec["kind"], str) and isinstance(info, dict):
            return spec, info
    except (ValueError, KeyError, TypeError):
        pass
    raise DataError(f"{source}: its metadata entry '{ENTRY}' is damaged; fit the head again")
