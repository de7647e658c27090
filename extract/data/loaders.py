"""Batches from a data set or a loader of somebody's own: in order where samples have numbers, else as they come."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    WeightedRandomSampler,
)

from ltpost.errors import DataError, UsageError
from ltpost.extract.messages import tell


@dataclass
class OrderedBatches:
    """Batches of a data set whose samples have numbers: row i is sample i, so that a later run can go on.

    Args:
        loader: over a data set with ``__len__`` and ``__getitem__``; its own sampler is not used.
        batch_size: samples at a time.
    """

    loader: DataLoader[Any]
    batch_size: int

    def __len__(self) -> int:
        return len(self.loader.dataset)  # type: ignore[arg-type]

    @property
    def name(self) -> str:
        """For messages."""
        dataset = self.loader.dataset
        return str(getattr(dataset, "name", None) or f"{type(dataset).__name__} of {len(self)} samples")

    def first(self) -> Any:
        """The first batch, read in this process."""
        numbers = range(min(self.batch_size, len(self)))
        dataset = self.loader.dataset
        samples = (
            dataset.__getitems__(list(numbers)) if hasattr(dataset, "__getitems__") else [dataset[i] for i in numbers]
        )
        return self.loader.collate_fn(samples)

    def batches(self, starts: Sequence[int], stop: int) -> Iterator[Any]:
        """The batches that begin at ``starts``, each up to ``stop``; read as the loader reads its own."""
        if not starts:
            return
        given = self.loader
        again: DataLoader[Any] = DataLoader(
            given.dataset,
            batch_sampler=[range(start, min(start + self.batch_size, stop)) for start in starts],  # type: ignore[arg-type]
            num_workers=given.num_workers,
            collate_fn=given.collate_fn,
            pin_memory=given.pin_memory,
            timeout=given.timeout,
            worker_init_fn=given.worker_init_fn,
            multiprocessing_context=given.multiprocessing_context,
            generator=given.generator,
            prefetch_factor=given.prefetch_factor,
        )
        yield from again


@dataclass
class PassingBatches:
    """Batches that come once, in an order of their own; how many rows there are is known at the end."""

    loader: Iterable[Any]
    _first: list[Any] | None = None

    @property
    def name(self) -> str:
        """For messages."""
        of = getattr(self.loader, "dataset", self.loader)
        return type(of).__name__

    def first(self) -> Any:
        """The first batch; the iteration has then begun."""
        if self._first is None:
            self._iterator = iter(self.loader)
            try:
                self._first = [next(self._iterator)]
            except StopIteration:
                raise DataError(f"{self.name}: gives no batches") from None
        return self._first[0]

    def batches(self) -> Iterator[Any]:
        """All batches, the first too."""
        self.first()
        yield from chain(self._first or [], self._iterator)


def open_loader(data: Any, batch_size: int, workers: int) -> OrderedBatches | PassingBatches:
    """What reads a data set, a loader, or any iterable of batches.

    Args:
        data: a data set (``torch.utils.data.Dataset`` or of the package datasets): samples. A DataLoader, or anything
            else that can be iterated: batches. A DataLoader that shuffles is read in the order of its data set.
        batch_size: of a data set; a loader has its own.
        workers: processes that read a data set; a loader has its own.

    Raises:
        UsageError: it can be neither, or a sampler that repeats rows draws them.
        DataError: it is empty.
    """
    if _is_dataset(data):
        data = DataLoader(data, batch_size=batch_size, num_workers=workers)
    if not hasattr(data, "__iter__") and not hasattr(data, "__getitem__"):
        raise UsageError(f"data= must be a path, a data set or batches to iterate over, but is a {type(data).__name__}")
    if not isinstance(data, DataLoader):
        return PassingBatches(data)
    with contextlib.suppress(TypeError):
        if len(data.dataset) == 0:  # type: ignore[arg-type]
            raise DataError(f"{type(data.dataset).__name__}: holds no samples")
    _check_sampler(data)
    if not _covers_in_any_order(data):
        if data.drop_last:
            tell("warning: the loader leaves out its last rows (drop_last=True); pass its data set to have them all")
        return PassingBatches(data)
    if not isinstance(data.sampler, SequentialSampler):
        tell("the rows of the loader are stored in the order of its data set")
    return OrderedBatches(data, int(data.batch_size or 1))


def _is_dataset(data: Any) -> bool:
    return isinstance(data, Dataset) or type(data).__module__.split(".")[0] == "datasets"


def _check_sampler(loader: DataLoader[Any]) -> None:
    sampler = loader.sampler
    if isinstance(sampler, WeightedRandomSampler) or (isinstance(sampler, RandomSampler) and sampler.replacement):
        raise UsageError(
            f"data=: the loader draws rows with a {type(sampler).__name__}, which repeats some and leaves out others; "
            "pass its data set"
        )


def _covers_in_any_order(loader: DataLoader[Any]) -> bool:
    """Whether a loader gives every sample of a data set, where samples have numbers.

    A DistributedSampler repeats some to make the parts of its processes even. Its data set is read in order, of which
    each process takes its own part.
    """
    if isinstance(loader.dataset, IterableDataset) or type(loader.batch_sampler) is not BatchSampler:
        return False
    if isinstance(loader.sampler, RandomSampler):
        return loader.sampler.num_samples == len(loader.dataset)  # type: ignore[arg-type]
    return isinstance(loader.sampler, SequentialSampler | DistributedSampler)  # the latter, over all processes
