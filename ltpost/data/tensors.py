"""Rows of a feature set as tensors: held on the device if they fit, else read block by block from the file.

What this module does not do: choose rows (``fit.sampling``), or know what they are multiplied with.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltpost.data import distributed
from ltpost.data.features import FeatureSet
from ltpost.data.rows import BLOCK_ELEMENTS, Rows
from ltpost.errors import UsageError, first_line
from ltpost.heads import Array, LinearHead
from ltpost.heads.blocks import score_blocks

FEW_ROWS = 4096  # as good for a preconditioner as all rows (measured), if there are several of every class
RESIDENT_BYTES = 2**30  # of host memory for rows as float32; beyond it they stay in the file
RESIDENT_SHARE = 0.5  # of a GPU's free memory
READ_AHEAD = ("cuda",)  # not cpu: there the threads slow the products as much as they help (measured)
AHEAD = 2  # how many batches or blocks are read ahead, each by its own thread


def find_device(name: str) -> torch.device:
    """The device of ``--device``: cpu, cuda, cuda:1, or auto (cuda where there is one).

    Raises:
        UsageError: there is no such device, or it does not hold numbers that can be read back.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise RuntimeError("holds no numbers")
    except RuntimeError:
        raise UsageError(f"device= must be auto, cpu, cuda or cuda:<number>, but is '{name}'") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"device='{name}' was asked for, but this machine has {torch.cuda.device_count()} usable CUDA devices; "
            "use cpu"
        )
    if device.type != "cpu":
        try:
            torch.zeros(1, device=device)
        except Exception as error:  # noqa: BLE001,RUF100 - a device that is not here raises errors of any kind
            raise UsageError(
                f"device= must be a device of this machine, but is '{name}' ({first_line(error)})"
            ) from None
    return device


def fits(size: int, device: torch.device) -> bool:
    """Whether so many bytes, one number or more for every row, may be held on a device."""
    on_gpu = device.type == "cuda"
    return size <= (RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0] if on_gpu else RESIDENT_BYTES)


class Matrix:
    """(N, K) rows as tensors on a device, read in order (:meth:`blocks`) or by number (:meth:`batches`).

    Rows in memory are taken from there. Others are read from the file, on a GPU ahead of the caller.

    Args:
        stored: (N, S) rows: an array, often a memory map, or :class:`Rows`.
        blocks: all of ``stored``, once, in order, checked.
        finish: turns stored rows (n, S) on the device into (n, K) of ``dtype``.
        width: K.
        device: of the tensors.
        dtype: of the tensors.
        whole: all rows as a tensor that can be used as it is; nothing is copied then.
    """

    def __init__(
        self,
        stored: Any,
        blocks: Iterator[tuple[slice, Array]],
        finish: Callable[[Tensor], Tensor],
        width: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        whole: Tensor | None = None,
    ):
        self.shape, self.device, self.dtype = (len(stored), width), device, dtype
        self._stored = stored if isinstance(stored, Rows) else Rows(stored)
        self._finish = finish
        self._held = whole
        if whole is None and fits(len(stored) * width * dtype.itemsize, device):
            self._held = torch.empty(self.shape, dtype=dtype, device=device)
        for part, block in blocks:
            if self._held is not None and whole is None:
                self._held[part] = finish(as_tensor(block, device))

    def __len__(self) -> int:
        return self.shape[0]

    def blocks(self, columns: int, elements: int = BLOCK_ELEMENTS) -> Iterator[tuple[slice, Tensor]]:
        """All rows in order, about ``elements`` numbers at a time (on a GPU 64 Mi).

        ``columns`` is the width of the widest matrix that the caller makes from a block.
        """
        if self.device.type != "cpu":
            elements = 16 * BLOCK_ELEMENTS
        size = max(16, elements // max(columns, self.shape[1]))
        parts = [slice(start, min(start + size, len(self))) for start in range(0, len(self), size)]
        return zip(parts, self._each(parts), strict=True)

    def batches(self, rows: NDArray[np.int64], sizes: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """Row numbers and rows, on the device, ``sizes`` of the row numbers ``rows`` at a time; ``sizes`` add up."""
        numbers = torch.split(torch.from_numpy(rows).to(self.device), sizes)  # one copy: no step waits for it
        keys = np.split(rows, np.cumsum(sizes)[:-1]) if self._held is None else numbers
        return zip(numbers, self._each(keys), strict=True)

    def rows(self, part: slice) -> Tensor:
        """The rows of a slice; a view where they are held."""
        return self._held[part] if self._held is not None else self._finish(self._gather(part).to(self.device))

    def _each(self, keys: Sequence[Any]) -> Iterator[Tensor]:
        if self._held is not None:
            return map(self._held.__getitem__, keys)
        ahead = self.device.type in READ_AHEAD
        return map(self._finish, read_ahead(self._gather, keys, self.device) if ahead else map(self._gather, keys))

    def _gather(self, key: slice | NDArray[np.int64]) -> Tensor:
        """Stored rows in host memory; the memory is pinned if they go to a GPU."""
        size = len(range(*key.indices(len(self)))) if isinstance(key, slice) else len(key)
        dtype = getattr(torch, self._stored.dtype.name)
        rows = torch.empty(size, self._stored.shape[1], dtype=dtype, pin_memory=self.device.type == "cuda")
        self._stored.take(key, rows.numpy())
        return rows


def read_ahead(gather: Callable[[Any], Tensor], keys: Iterable[Any], device: torch.device) -> Iterator[Tensor]:
    """The rows of every key, in order, on the device; they are read and copied while the device works on earlier ones.

    Threads are ``AHEAD`` keys ahead of the caller, and copy on a stream of their own. torch's allocators use pinned and
    device memory again. The threads end when the iterator does; an error in a thread is raised here.
    """
    api = torch.get_device_module(device)
    work, copies = api.current_stream(device), api.Stream(device)
    threads, keys = ThreadPoolExecutor(AHEAD), iter(keys)

    def reached(stream: Any) -> Any:
        event = api.Event()
        event.record(stream)
        return event

    def send(key: Any, used: Any) -> tuple[Tensor, Any]:
        used.synchronize()  # else the caller could get far ahead of the device and fill its memory
        with api.stream(copies):
            return gather(key).to(device, non_blocking=True), reached(copies)

    def submit(count: int) -> list[Future[tuple[Tensor, Any]]]:
        return [threads.submit(send, key, reached(work)) for key in islice(keys, count)]

    try:
        waiting = deque(submit(AHEAD))
        while waiting:
            rows, sent = waiting.popleft().result()
            waiting.extend(submit(1))
            work.wait_event(sent)
            if rows.is_cuda:
                rows.record_stream(work)  # no other copy may use this memory before the work on it is done
            yield rows
    finally:
        threads.shutdown(cancel_futures=True)


def few_of_each(labels: NDArray[np.int64], most: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Evenly spaced rows of every class, at most ``most`` of each: no class is missed, however rare.

    Returns:
        Row numbers, ascending, and how many rows of its class each stands for.

    >>> few_of_each(np.array([0, 0, 0, 1, 0]), most=2)
    (array([0, 2, 3]), array([2., 2., 1.]))
    """
    counts = np.bincount(labels)
    by_class = np.argsort(labels, kind="stable")
    place = np.empty_like(labels)
    place[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    all_of_it = counts[labels]
    kept = np.minimum(all_of_it, most)
    rows = np.flatnonzero(place * kept % all_of_it < kept)
    return rows, all_of_it[rows] / kept[rows]


class FewRows:
    """A few rows of every class with weights that make them count like all rows: enough for a preconditioner.

    Args:
        matrix: (N, K) rows.
        labels: (N,) of them, int64.
        weights: (N,) of all rows.
        least: at least so many rows of every class that has them, however many classes there are.

    Attributes:
        share: the share of all rows that they are; the same in every process.
    """

    def __init__(self, matrix: Matrix, labels: Tensor, weights: Tensor, least: int):
        num_classes = int(labels.max()) + 1
        rows, times = few_of_each(labels.cpu().numpy(), max(least, FEW_ROWS // num_classes))
        few, total = distributed.sum_array(np.array([len(rows), len(matrix)]))
        self.share = float(few / total)
        self._matrix, self._rows = matrix, rows
        self._weights = weights[torch.from_numpy(rows).to(weights.device)] * torch.from_numpy(times).to(weights)

    def blocks(self, columns: int, elements: int = BLOCK_ELEMENTS) -> Iterator[tuple[Tensor, Tensor]]:
        """The rows (n, K), copied, and their weights (n,), about ``elements`` numbers at a time, as of a Matrix."""
        parts = torch.split(self._weights, max(16, elements // max(columns, self._matrix.shape[1])))
        batches = self._matrix.batches(self._rows, [len(part) for part in parts])
        return zip((x for _, x in batches), parts, strict=True)


def training_features(train: FeatureSet, device: torch.device, dtype: torch.dtype = torch.float32) -> Matrix:
    """Features (N, D)."""
    features = train.features
    in_memory = isinstance(features, np.ndarray) and features.flags.writeable and features.dtype == np.float32
    as_wanted = device.type == "cpu" and dtype == torch.float32
    whole = torch.from_numpy(features) if in_memory and as_wanted else None
    width = features.shape[1]
    return Matrix(features, train.feature_blocks(), lambda rows: rows.to(dtype), width, device, dtype, whole)


def training_logits(train: FeatureSet, device: torch.device) -> Matrix:
    """Logits (N, C) of the joint classifier: the stored ones, or computed (once, if they fit in memory)."""
    width = train.num_classes
    if train.has_logits:
        blocks = score_blocks(train.joint, train)
        return Matrix(train.logits, blocks, lambda rows: rows.float(), width, device)
    head = train.joint
    assert isinstance(head, LinearHead)  # without stored logits, joint is a classifier or an error
    weight = as_tensor(head.weight, device)
    bias = torch.zeros(len(weight), device=device) if head.bias is None else as_tensor(head.bias, device)

    def multiply(rows: Tensor) -> Tensor:
        return torch.addmm(bias, rows.float(), weight.T)

    return Matrix(train.features, train.feature_blocks(), multiply, width, device)


def as_tensor(block: Array, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """A copy or a view, whichever is needed; torch converts float16 about ten times as fast as numpy."""
    array = np.ascontiguousarray(block)
    if not array.flags.writeable:  # a memory map; torch warns about those
        array = array.copy()
    return torch.from_numpy(array).to(device).to(dtype)  # a GPU receives float16 as it is
