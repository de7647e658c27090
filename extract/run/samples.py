"""Samples of a data set or a loader of somebody's own as rows for the loop; labels come with them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from ltpost.errors import DataError
from ltpost.extract.data.batches import Arguments, BatchReader
from ltpost.extract.data.columns import ColumnRows, open_columns
from ltpost.extract.data.loaders import OrderedBatches, PassingBatches, open_loader
from ltpost.extract.data.source import check_labels
from ltpost.extract.messages import tell
from ltpost.extract.networks.collating import Sounds, Tokens
from ltpost.extract.networks.hugging_face import names_of
from ltpost.extract.networks.opening import Network
from ltpost.extract.run.feed import Batch, Known


@dataclass
class SampleFeed:
    """Batches of a loader, see :class:`~ltpost.extract.run.feed.Feed`.

    Args:
        loader: in order, or once as they come.
        reader: a batch to arguments and labels.
        class_names: the names that the data know, or None.
        rows: texts or sounds on disk, which tell their counts and prove what they are; None for data of the user.
        collate: how those become inputs.
    """

    loader: OrderedBatches | PassingBatches
    reader: BatchReader
    class_names: Sequence[str] | None = None
    rows: ColumnRows | None = None
    collate: Tokens | Sounds | None = None
    variants: int = 1
    _num_classes: int = 0
    _cut: int = 0

    @property
    def name(self) -> str:
        """Of the data set."""
        return self.loader.name

    @property
    def batch_size(self) -> int:
        """Rows at a time."""
        return self.loader.batch_size if isinstance(self.loader, OrderedBatches) else 0

    def __len__(self) -> int:
        return len(self.loader) if isinstance(self.loader, OrderedBatches) else 0

    def __str__(self) -> str:
        return self.reader.describe(self.loader.first()) if self.collate is None else str(self.collate)

    @property
    def unit(self) -> str:
        """Of the progress bar."""
        return "row" if self.collate is None else self.collate.unit

    @property
    def proven(self) -> bool:
        """Whether a fingerprint covers the rows."""
        return self.rows is not None

    @property
    def in_order(self) -> bool:
        """Whether samples have numbers, so that a later run can go on."""
        return isinstance(self.loader, OrderedBatches)

    def first(self) -> Arguments:
        """What the model is called with for the first rows."""
        return self.reader.read(self.loader.first())[0]

    def known(self, num_classes: int) -> Known:
        """Names and provenance; labels are 0 until they are read."""
        self._num_classes = num_classes
        names = None if self.class_names is None else list(self.class_names)
        names = names if names is not None and len(names) == num_classes else None
        identity: dict[str, Any] = {"name": self.name}
        if self.in_order:  # of the first batch; the loop compares another one with what an earlier run has stored
            sha256 = self.first().sha256() if self.rows is None else self.rows.fingerprint
            identity |= {"sha256": sha256, "rows": len(self)}
        attrs = {"dataset": json.dumps(identity)}
        counts = None
        if self.rows is not None:
            attrs["transform"] = json.dumps({"prepared": str(self.collate)})
            if self.rows.train_labels is not None:
                check_labels(f"{self.name}: train", self.rows.train_labels, num_classes)
                counts = np.bincount(self.rows.train_labels, minlength=num_classes)
        return Known(np.zeros(len(self), np.int64), class_counts=counts, class_names=names, attrs=attrs)

    def batches(self, starts: Sequence[int], stop: int, device: torch.device) -> Iterator[Batch]:
        """See :class:`~ltpost.extract.run.feed.Feed`."""
        assert isinstance(self.loader, OrderedBatches)
        for start, batch in zip(starts, self.loader.batches(starts, stop), strict=True):
            expected = min(start + self.batch_size, stop) - start
            found = self._batch(start, batch)
            assert found.labels is not None
            if len(found.labels) != expected:
                raise DataError(
                    f"{self.name}: a batch of {expected} samples must give {expected} labels, but gives "
                    f"{len(found.labels)}; where collate_fn leaves out samples or makes several of one, pass a list or "
                    "a generator of the batches"
                )
            yield found

    def passing(self) -> Iterator[Batch]:
        """All batches once, whatever their sizes."""
        assert isinstance(self.loader, PassingBatches)
        start = 0
        for batch in self.loader.batches():
            found = self._batch(start, batch)
            yield found
            start += found.inputs.rows

    def example(self, device: torch.device) -> Arguments:
        """The first batch."""
        return self.first().to(device)

    def arguments(self, inputs: Arguments, device: torch.device) -> Arguments:
        """The same on the device."""
        return inputs.to(device)

    def close(self) -> None:
        """Say how many texts or sounds were cut."""
        if self._cut and self.collate is not None:
            tell(f"{self._cut} {self.collate.unit}s are {self.collate.limit()}, and were cut (max_length)")
        self._cut = 0

    def _batch(self, start: int, batch: Any) -> Batch:
        arguments, labels = self.reader.read(batch)
        check_labels(self.name, labels, self._num_classes)
        if self.collate is None:
            return Batch(start, arguments, {}, labels)
        self._cut += batch["cut"]
        return Batch(start, arguments, batch.get("unreadable", {}), labels)


def feed_of_loader(network: Network, data: Any, given: Mapping[str, Any], names: list[str] | None) -> SampleFeed:
    """The rows of a data set or a loader of the user.

    Args:
        network: what they go to.
        data: see :func:`~ltpost.extract.data.loaders.open_loader`.
        given: ``batch_size``, ``workers``, ``inputs`` and ``labels`` of :func:`~ltpost.extract.extract_features`.
        names: the class names that are given, or None.
    """
    loader = open_loader(data, given["batch_size"], given["workers"] or 0)
    own = _names_of(data) or names_of(network.model)
    reader = BatchReader(network.model, given["inputs"], given["labels"], names or own, loader.name)
    return SampleFeed(loader, reader, own)


def feed_of_columns(network: Network, given: Mapping[str, Any], names: list[str] | None) -> SampleFeed:
    """The rows of a table of texts or sounds.

    Args:
        network: of transformers, which knows how they become its inputs.
        given: arguments of :func:`~ltpost.extract.extract_features`.
        names: the class names that are given, or None.
    """
    collate = network.collate
    assert collate is not None
    places = {key: given[key] for key in ("list_file", "root", "column", "label_column")}
    kind, names = "text" if isinstance(collate, Tokens) else "audio", names or names_of(network.model)
    rows = open_columns(given["data"], given["split"], kind, **places, class_names=names)
    collate = replace(collate, root=rows.root) if isinstance(collate, Sounds) else collate
    size = given["batch_size"]
    batches = DataLoader(rows, batch_size=size, num_workers=given["workers"] or 0, collate_fn=collate)  # type: ignore[arg-type]
    reader = BatchReader(network.model, name=rows.name)
    return SampleFeed(OrderedBatches(batches, size), reader, rows.class_names, rows, collate)


def _names_of(data: Any) -> list[str] | None:
    """The class names that a data set of torchvision knows."""
    names = getattr(getattr(data, "dataset", data), "classes", None)
    texts = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    return list(names) if texts and names else None
