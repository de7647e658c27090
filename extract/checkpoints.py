"""A checkpoint file to named tensors. ``LAYOUTS`` is the table: one short entry for each way a repository saves.

Nothing is unpickled but tensors and plain containers (``weights_only=True``), with a short list of inert types beside.
Every tensor remembers where in the file it lay, so that export can put another in its place.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ltpost.errors import DataError

#: the keys that lead to a tensor in the container
Location = tuple[str, ...]

#: what wrapping a model puts before the names of its tensors
PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "encoder.", "network.")


@dataclass(frozen=True)
class Layout:
    """One way to save a checkpoint.

    Args:
        name: for messages.
        matches: whether a container is saved so.
        parts: the mappings of tensors in it, as paths of keys; absent ones are skipped.
    """

    name: str
    matches: Callable[[Mapping[str, Any]], bool]
    parts: tuple[Location, ...]


def _has(*keys: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda container: all(_is_state(container.get(key)) for key in keys)


def _is_state(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(tensor, Tensor) for tensor in value.values())


LAYOUTS: tuple[Layout, ...] = (
    Layout("timm, averaged weights", _has("state_dict_ema"), (("state_dict_ema",),)),
    Layout("timm, averaged weights", _has("model_ema"), (("model_ema",),)),
    Layout("a state_dict beside other things", _has("state_dict"), (("state_dict",),)),
    Layout("a model beside other things", _has("model"), (("model",),)),
    Layout("a bare state_dict", _is_state, ((),)),
)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that has been read.

    Args:
        path: the file.
        state: name to tensor, wrappers' prefixes stripped.
        locations: name to where it lay in ``container``.
        container: the file's content.
        layout: how it was saved.
        sha256: of the file.
        arch: what the file itself says of the architecture, if anything.
    """

    path: Path
    state: dict[str, Tensor]
    locations: dict[str, Location]
    container: Mapping[str, Any] = field(repr=False)
    layout: Layout
    sha256: str
    arch: str | None = None

    def module_name(self, head_key: str) -> str:
        """A module as the model calls it, from its name in the file or in the model."""
        wanted = head_key.removesuffix(".weight").removesuffix(".bias")
        for short, location in self.locations.items():
            if location[-1].removesuffix(".weight") == wanted:
                return short.removesuffix(".weight")
        return wanted


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint of any layout in ``LAYOUTS``.

    Raises:
        DataError: no such file, not a checkpoint, or one that holds more than tensors and plain data.
    """
    source = Path(path)
    if not source.is_file():
        raise DataError(f"{source}: no such checkpoint file{_near(source)}; name it with --ckpt")
    container = _read_container(source)
    layout = next((layout for layout in LAYOUTS if layout.matches(container)), None)
    if layout is None:
        keys = ", ".join(list(map(str, container))[:8])
        raise DataError(f"{source}: holds no tensors that ltpost knows to find; its keys are {keys or 'none'}")
    state: dict[str, Tensor] = {}
    locations: dict[str, Location] = {}
    for part in layout.parts:
        tensors = container
        for key in part:
            tensors = tensors.get(key, {})
        names = {str(name): tensor for name, tensor in tensors.items() if isinstance(tensor, Tensor)}
        for short, name in _stripped(list(names)).items():
            state[short], locations[short] = names[name], (*part, name)
    arch = container.get("arch")
    return Checkpoint(
        source, state, locations, container, layout, _sha256(source), arch if isinstance(arch, str) else None
    )


def _stripped(names: list[str]) -> dict[str, str]:
    """Short name to name: prefixes that all names share are taken off."""
    short = {name: name for name in names}
    while prefix := next((p for p in PREFIXES if names and all(name.startswith(p) for name in short)), None):
        short = {name.removeprefix(prefix): full for name, full in short.items()}
    return short


def _near(source: Path) -> str:
    folder = source.parent
    others = sorted(p.name for p in folder.iterdir() if p.suffix in SUFFIXES) if folder.is_dir() else []
    return f" ({folder} has {', '.join(others[:5])})" if others else ""


SUFFIXES = (".pth", ".pt", ".th", ".tar", ".ckpt", ".bin", ".safetensors")


def _sha256(source: Path) -> str:
    digest = hashlib.sha256()
    with source.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def sha256_of_state(state: Mapping[str, Any]) -> str:
    """Of the names and values of a model's tensors."""
    digest = hashlib.sha256()
    for name, tensor in state.items():
        if isinstance(tensor, Tensor):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


# -- files -------------------------------------------------------------------------------------------------------------


def _read_container(source: Path) -> Mapping[str, Any]:
    content = _read_safetensors(source) if source.suffix == ".safetensors" else _read_torch(source)
    if isinstance(content, torch.nn.Module) or not isinstance(content, Mapping):
        raise DataError(
            f"{source}: must hold a dictionary with tensors, but holds a {type(content).__name__}; "
            "save model.state_dict() instead"
        )
    return content


def _read_safetensors(source: Path) -> Mapping[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(source)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{source}: not a readable safetensors file ({error})") from None


def _inert_types() -> list[Any]:
    """What a checkpoint may hold beside tensors: numpy arrays and scalars, and argparse's options. None runs code."""
    reconstruct = np.zeros(0).__reduce__()[0]
    dtypes = {type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")}
    old, new = "numpy.core.multiarray", "numpy._core.multiarray"
    scalar = np.float64(0).__reduce__()[0]
    numpy_names = [(thing, f"{module}.{thing.__name__}") for thing in (reconstruct, scalar) for module in (old, new)]
    return [*numpy_names, np.ndarray, np.dtype, *dtypes, argparse.Namespace]


def _read_torch(source: Path) -> Any:
    try:
        with torch.serialization.safe_globals(_inert_types()):
            return torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        names = _refused(source, str(error))
        if not names:
            raise DataError(f"{source}: is not a checkpoint that torch can read, or it is damaged") from None
        raise DataError(
            f"{source}: holds pickled {', '.join(names)}, and ltpost never runs pickled code. If you trust the file, "
            f"write its tensors anew: python -c \"import torch; c = torch.load('{source.name}', weights_only=False, "
            "map_location='cpu'); torch.save(c.get('state_dict', c), 'clean.pth')\""
        ) from None
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{source}: is not a checkpoint that torch can read, or it is damaged ({reason})") from None


def _refused(source: Path, message: str) -> list[str]:
    """The names that ``weights_only`` refused."""
    return sorted(set(re.findall(r"(?:GLOBAL|global:?|class|type) `?([\w.]+\.[\w.]+)`?", message)) - {"torch.load"})
