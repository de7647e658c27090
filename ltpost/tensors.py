"""Rows of a feature set as tensors: held on the device where they fit, else read block by block from the file.

What this module does not do: choose rows (``sampling``), or know what they are multiplied with (``methods``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ltpost.errors import UsageError
from ltpost.features import BLOCK_ELEMENTS, FeatureSet
from ltpost.head import Array

RESIDENT_BYTES = 2**30  # of host memory for rows as float32; beyond it they stay in the file


def find_device(name: str) -> torch.device:
    """The device of ``--device``: cpu, cuda, cuda:1, or auto (cuda where there is one).

    Raises:
        UsageError: there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"device must be auto, cpu, cuda or cuda:<number>, but is '{name}'") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"device '{name}' was asked for, but this machine has {torch.cuda.device_count()} usable CUDA devices; "
            "use --device cpu"
        )
    return device


class Matrix:
    """(N, K) rows that are read in order (:meth:`blocks`) or by number (:meth:`rows`), as tensors on a device.

    Args:
        read: gives the rows of a slice or an array of row numbers, on the device.
        checked: what is read, once, in order, to see that it is finite.
        shape: (N, K).
        device: where the tensors are wanted.
        dtype: of the tensors.
        whole: all rows, where they are in memory as they are wanted; nothing is copied then.
    """

    def __init__(
        self,
        read: Callable[[Any], Tensor],
        checked: Iterator[tuple[slice, Array]],
        shape: tuple[int, int],
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        whole: Tensor | None = None,
    ):
        self.shape, self.device, self.dtype = shape, device, dtype
        self._read = read
        size = shape[0] * shape[1] * torch.empty(0, dtype=dtype).element_size()
        limit = torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else RESIDENT_BYTES
        self._held = whole
        if whole is None and size <= limit:
            self._held = torch.empty(shape, dtype=dtype, device=device)
        for part, _ in checked:
            if self._held is not None and whole is None:
                self._held[part] = read(part)

    def __len__(self) -> int:
        return self.shape[0]

    def blocks(self, columns: int, elements: int = BLOCK_ELEMENTS) -> Iterator[tuple[slice, Tensor]]:
        """All rows in order, about ``elements`` numbers at a time (on a GPU 64 Mi).

        ``columns`` is the width of the widest thing that the caller makes of a block.
        """
        if self.device.type != "cpu":
            elements = 16 * BLOCK_ELEMENTS
        size = max(16, elements // max(columns, self.shape[1]))
        for start in range(0, len(self), size):
            part = slice(start, min(start + size, len(self)))
            yield part, self.rows(part)

    def rows(self, key: slice | Tensor) -> Tensor:
        """The rows of a slice (a view where they are held) or of an int64 tensor of row numbers."""
        if self._held is not None:
            return self._held[key]
        return self._read(key if isinstance(key, slice) else key.cpu().numpy())


def training_features(train: FeatureSet, device: torch.device, dtype: torch.dtype = torch.float32) -> Matrix:
    """Features (N, D)."""
    features = train.features
    in_memory = isinstance(features, np.ndarray) and features.flags.writeable and features.dtype == np.float32
    as_wanted = device.type == "cpu" and dtype == torch.float32
    whole = torch.from_numpy(features) if in_memory and as_wanted else None
    return Matrix(
        lambda key: as_tensor(features[key], device, dtype),
        train.feature_blocks(),
        (len(train), features.shape[1]),
        device,
        dtype,
        whole,
    )


def training_logits(train: FeatureSet, device: torch.device) -> Matrix:
    """Logits (N, C) of the joint classifier: the stored ones, else computed (once where they fit)."""
    shape = (len(train), train.num_classes)
    if train.has_logits:
        logits = train.logits
        return Matrix(lambda key: as_tensor(logits[key], device), train.score_blocks(), shape, device)
    head = train.require_head("LWS rescales")
    features, weight = train.features, as_tensor(head.weight, device)
    bias = torch.zeros(len(weight), device=device) if head.bias is None else as_tensor(head.bias, device)
    return Matrix(
        lambda key: torch.addmm(bias, as_tensor(features[key], device), weight.T),
        train.feature_blocks(),
        shape,
        device,
    )


def as_tensor(block: Array, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """A copy or a view, whichever is needed; torch converts float16 about ten times faster than numpy."""
    array = np.ascontiguousarray(block)
    if not array.flags.writeable:  # a memory map; torch warns about those
        array = array.copy()
    return torch.from_numpy(array).to(device).to(dtype)  # float16 travels to a GPU as such
