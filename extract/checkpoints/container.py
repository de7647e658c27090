"""The content of a checkpoint file. Nothing is unpickled but tensors, plain containers and a few inert types."""

from __future__ import annotations

import argparse
import hashlib
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ltpost.errors import DataError
from ltpost.extract.checkpoints.layouts import Container
from ltpost.extract.messages import first_line

SUFFIXES = (".pth", ".pt", ".th", ".tar", ".ckpt", ".bin", ".safetensors")


def sha256_of_file(source: Path) -> str:
    """The sha256 of the bytes of a file."""
    digest = hashlib.sha256()
    with source.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def sha256_of_state(state: Mapping[str, Any]) -> str:
    """The sha256 of the names and values of a model's tensors."""
    digest = hashlib.sha256()
    for name, tensor in state.items():
        if isinstance(tensor, Tensor):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def read_container(source: Path) -> Container:
    """The content of a checkpoint file. Only tensors and plain data are unpickled."""
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
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError) as error:
        raise DataError(f"{source}: not a readable safetensors file ({first_line(error)})") from None


_NOT_A_CHECKPOINT = "is not a checkpoint that torch can read, or it is damaged"
#: a program that keeps tensors, plain values and the state of models and optimizers, and leaves objects out
_REMEDY = (
    "import torch; c = torch.load('{source}', weights_only=False, map_location='cpu'); "
    "c = c if isinstance(c, dict) else c.state_dict(); "
    "c = {{k: v.state_dict() if hasattr(v, 'state_dict') else v for k, v in c.items()}}; "
    "plain = ('builtins', 'collections', 'numpy', 'torch'); "
    "torch.save({{k: v for k, v in c.items() if type(v).__module__.split('.')[0] in plain}}, 'clean.pth')"
)


def _inert_types() -> list[Any]:
    """Types that a checkpoint may hold beside tensors: numpy arrays, scalars, argparse's options. None runs code."""
    reconstruct = np.zeros(0).__reduce__()[0]
    dtypes = {type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")}
    old, new = "numpy.core.multiarray", "numpy._core.multiarray"
    scalar = np.float64(0).__reduce__()[0]
    numpy_names = [(thing, f"{module}.{thing.__name__}") for thing in (reconstruct, scalar) for module in (old, new)]
    return [*numpy_names, np.ndarray, np.dtype, *dtypes, argparse.Namespace]


def _read_torch(source: Path) -> Any:
    try:
        with torch.serialization.safe_globals(_inert_types()), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of the pickle's protocol
            return torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        names = _refused(source, str(error))
        if not names:
            raise DataError(f"{source}: {_NOT_A_CHECKPOINT}") from None
        raise DataError(
            f"{source}: holds pickled {', '.join(names)}, and ltpost never runs pickled code. If you trust the file, "
            f'write a copy without these objects: python -c "{_REMEDY.format(source=source.name)}"'
        ) from None
    except Exception as error:  # noqa: BLE001,RUF100 - torch raises errors of any kind on damaged files
        raise DataError(f"{source}: {_NOT_A_CHECKPOINT} ({first_line(error)})") from None


def _refused(source: Path, message: str) -> list[str]:
    """The names of the types that ``weights_only`` refused."""
    return sorted(set(re.findall(r"(?:GLOBAL|global:?|class|type) `?([\w.]+\.[\w.]+)`?", message)) - {"torch.load"})
