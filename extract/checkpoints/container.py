"""The content of a checkpoint file. Nothing is unpickled but tensors, arrays, plain containers, argparse's options."""

from __future__ import annotations

import argparse
import hashlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ltpost.errors import DataError, first_line
from ltpost.extract.checkpoints.layouts import Container
from ltpost.extract.data.pickles import filled, substitutes
from ltpost.extract.messages import reading

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
    from safetensors.torch import load_file

    with reading(source, "a safetensors file"):
        return load_file(source)


_NOT_A_CHECKPOINT = "is not a checkpoint that torch can read, or it is damaged"
#: a program that keeps tensors, plain values and the state of models and optimizers, and leaves objects out
_REMEDY = (
    "import torch; c = torch.load('{source}', weights_only=False, map_location='cpu'); "
    "c = c if isinstance(c, dict) else c.state_dict(); "
    "c = {{k: v.state_dict() if hasattr(v, 'state_dict') else v for k, v in c.items()}}; "
    "plain = ('builtins', 'collections', 'numpy', 'torch'); "
    "torch.save({{k: v for k, v in c.items() if type(v).__module__.split('.')[0] in plain}}, 'clean.pth')"
)


def _read_torch(source: Path) -> Any:
    _check_sums(source)
    try:
        with torch.serialization.safe_globals([*substitutes(), argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of the pickle's protocol
            content = torch.load(source, map_location="cpu", weights_only=True)
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
    with reading(source, "a checkpoint"):
        return filled(content)


_FOLDER = 0x10  # the attribute of DOS


def _check_sums(source: Path) -> None:
    """Refuse a zip file of which a part has not the checksum that stands beside it, or is marked as a folder.

    torch does not look: it gives what is there, and for a folder what happens to be in memory.

    Raises:
        DataError: there is such a part.
    """
    with reading(source, "a checkpoint"):
        if zipfile.is_zipfile(source):
            with zipfile.ZipFile(source) as archive:
                for part in archive.infolist():
                    if part.file_size and (part.external_attr & _FOLDER or part.is_dir()):
                        raise DataError(f"{source}: {_NOT_A_CHECKPOINT} ('{part.filename}' is marked as a folder)")
                    if part.CRC:  # else it was written with torch.serialization.set_crc32_options(False)
                        with archive.open(part) as stream:
                            while stream.read(2**20):
                                pass


def _refused(source: Path, message: str) -> list[str]:
    """The names of the types that ``weights_only`` refused."""
    return sorted(set(re.findall(r"(?:GLOBAL|global:?|class|type) `?([\w.]+\.[\w.]+)`?", message)) - {"torch.load"})
