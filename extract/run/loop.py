"""The loop: workers decode and cut images, the model runs, a thread writes. All three work at the same time."""

from __future__ import annotations

import collections
import contextlib
import json
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from ltpost.data.write import partial_name
from ltpost.errors import DataError, LtpostError
from ltpost.extract.data.source import Source, Unreadable
from ltpost.extract.messages import tell
from ltpost.extract.networks.backbone import WORKER_DIED, Backbone
from ltpost.extract.pixels.views import Views
from ltpost.extract.run.lock import held
from ltpost.extract.run.merge import adopt
from ltpost.extract.run.partial import DONE, MISSING, UNREADABLE, Spec, done_of, is_finished, prepare
from ltpost.extract.run.sanity import check_accuracy
from ltpost.extract.run.shards import Shard
from ltpost.extract.run.writer import FeatureWriter

_TOLD = 10  # unreadable images that are named one by one


@dataclass
class Batches(Dataset[Any]):
    """Item i is the batch from row ``starts[i]``: that row, pixels uint8 (n, h, w, channels), and unreadable rows."""

    source: Source
    views: Views
    batch_size: int
    starts: list[int]
    stop: int

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> tuple[int, Tensor, dict[int, str]] | LtpostError:
        try:
            return self._read(self.starts[index])
        except LtpostError as error:  # the exception of a worker would lose its type on the way
            return error

    def _read(self, start: int) -> tuple[int, Tensor, dict[int, str]]:
        views = self.views
        rows = range(start, min(start + self.batch_size, self.stop))
        first, last = rows[0] // views.count, rows[-1] // views.count
        pixels: list[NDArray[np.uint8] | None] = []
        bad: dict[int, str] = {}
        for sample, image in enumerate(self.source.images.read(slice(first, last + 1)), first):
            reason = image.reason if isinstance(image, Unreadable) else views.refusal(image)
            for row in range(max(rows[0], sample * views.count), min(rows[-1] + 1, (sample + 1) * views.count)):
                if reason is not None:
                    bad[row - start] = reason
                    pixels += [None] * views.variants
                else:
                    pixels += views.cut(image, sample, row - sample * views.count)
        return start, torch.from_numpy(self._stacked(pixels)), bad

    def _stacked(self, pixels: list[NDArray[np.uint8] | None]) -> NDArray[np.uint8]:
        """All images as one array. Images that could not be read are black."""
        shapes = {image.shape for image in pixels if image is not None}
        if len(shapes) > 1:
            sizes = sorted(f"{height} x {width}" for height, width, *_ in shapes)
            raise DataError(f"{self.source.name}: images differ in size ({sizes[0]}, {sizes[-1]}); give img_size=")
        side = self.views.preprocess.crop or 32
        batch = np.zeros((len(pixels), *(shapes.pop() if shapes else (side, side, 3))), np.uint8)
        for image, place in zip(pixels, batch, strict=True):
            if image is not None:
                place[:] = image
        return batch


class _Rows:
    """The datasets of a batch, copied from the device in the background."""

    def __init__(self, tensors: Mapping[str, Tensor]):
        self.tensors = {key: self._sent(x) for key, x in tensors.items()}
        device = next(iter(tensors.values())).device
        self.event = torch.cuda.Event() if device.type == "cuda" else None
        if self.event is not None:
            self.event.record(torch.cuda.current_stream(device))

    @staticmethod
    def _sent(x: Tensor) -> Tensor:
        if not x.is_cuda:
            return x.cpu()
        host = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
        return host.copy_(x, non_blocking=True)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Wait for the copy, and give (n, …) float32 of each dataset."""
        if self.event is not None:
            self.event.synchronize()
        return {key: x.numpy() for key, x in self.tensors.items()}


@dataclass
class Job:
    """An extraction; ``run`` computes a range of its rows."""

    source: Source
    views: Views
    batch_size: int
    backbone: Backbone
    spec: Spec
    workers: int
    restart: bool
    max_bad: int | None
    expect_top1: float | None

    def run(self, path: Path, rows: slice, target: Path | None = None, shard: Shard | None = None) -> Path:
        """Write ``rows`` of the source to ``path``, which is a shard of ``target`` or the whole file."""
        spec = self.spec
        if shard is not None:
            where = {"index": shard.index, "count": shard.count, "start": rows.start, "stop": rows.stop}
            paths = None if spec.paths is None else spec.paths[rows]
            attrs = {**spec.attrs, "shard": json.dumps(where)}
            columns = {key: column[rows] for key, column in spec.columns.items()}
            spec = replace(spec, labels=spec.labels[rows], paths=paths, columns=columns, attrs=attrs)
        with held(path):
            if shard is not None and not self.restart and is_finished(path, spec):
                return path
            done = prepare(path, spec, restart=self.restart)
            if not done.any() and not self.restart:
                done = adopt(path, target or path, rows, spec)
            try:
                with deaths_are_told():
                    return self._fill(path, rows, done, quiet=shard is not None and shard.index > 0)
            except BaseException as error:
                self._leave(path, error)
                raise

    def _fill(self, path: Path, rows: slice, done: NDArray[np.uint8], *, quiet: bool) -> Path:
        starts = [
            start
            for start in range(rows.start, rows.stop, self.batch_size)
            if (done[start - rows.start : start - rows.start + self.batch_size] == MISSING).any()
        ]
        batches = Batches(self.source, self.views, self.batch_size, starts, rows.stop)
        errors: dict[int, str] = {}
        with contextlib.ExitStack() as stack:
            stack.callback(self.source.images.close)
            bar = stack.enter_context(
                tqdm(
                    total=rows.stop - rows.start,
                    initial=int((done != MISSING).sum()),
                    unit="img",
                    desc=f"extract {path.stem}",
                    disable=True if quiet else None,
                )
            )
            writer: FeatureWriter | None = None
            for start, block, bad in self._computed(loader_of(batches, self.workers, self.backbone.device)):
                if writer is None:  # only now, as workers would inherit the open file
                    writer = stack.enter_context(FeatureWriter(path))
                marks = np.full(len(block["features"]), DONE, np.uint8)
                for position, reason in bad.items():
                    errors[start - rows.start + position] = reason
                    marks[position] = UNREADABLE
                    self._tell_unreadable(start + position, reason, len(errors))
                    for values in block.values():
                        values[position] = np.nan
                writer.write(start - rows.start, block, marks)
                bar.update(len(marks))
            writer = writer or stack.enter_context(FeatureWriter(path))
            writer.wait()
            bar.close()
            if "shard" not in writer.file.attrs:
                for message in check_accuracy(writer.file, self.expect_top1):
                    tell(message)
            return writer.finish(errors)

    def _computed(self, loader: DataLoader[Any]) -> Iterator[tuple[int, dict[str, NDArray[Any]], dict[int, str]]]:
        """First row, datasets and unreadable rows of each batch. A GPU gets its next batch before one is fetched."""
        ahead = 1 if self.backbone.device.type == "cuda" else 0
        launched: collections.deque[tuple[int, _Rows, dict[int, str]]] = collections.deque()
        for number, (start, pixels, bad) in enumerate(checked(loader)):
            launched.append((start, self._launch(pixels, verify=number == 0), bad))
            if len(launched) > ahead:
                yield self._fetched(launched.popleft())
        while launched:
            yield self._fetched(launched.popleft())

    def _fetched(self, batch: tuple[int, _Rows, dict[int, str]]) -> tuple[int, dict[str, NDArray[Any]], dict[int, str]]:
        start, rows, bad = batch
        return start, self._block(rows), bad

    def _launch(self, pixels: Tensor, *, verify: bool) -> _Rows:
        """Start a batch. With amp, the logits are those of the float32 classifier on the stored features."""
        backbone = self.backbone
        images = self.views.preprocess.normalise(pixels.to(backbone.device, non_blocking=True))
        outputs = backbone.outputs(images)
        if verify:
            backbone.verify(outputs.features, outputs.logits)
        tensors = {"features": outputs.features, "logits": outputs.logits}
        tensors.update({f"layers/{name}": layer for name, layer in outputs.layers.items()})
        if self.views.variants > 1:  # logits are linear in the features, so their means agree
            tensors = {key: x.unflatten(0, (-1, self.views.variants)).mean(dim=1) for key, x in tensors.items()}
        if not self.spec.logits:
            del tensors["logits"]
        elif backbone.amp and not backbone.gated:
            stored = tensors["features"].to(getattr(torch, self.spec.dtype))
            tensors["logits"] = backbone.linear(stored.float())
        return _Rows(tensors)

    def _block(self, rows: _Rows) -> dict[str, NDArray[Any]]:
        """The datasets of a batch, as they are stored.

        Raises:
            DataError: a feature is not finite, or beyond float16 where that is stored.
        """
        return {key: self._stored(key, x) for key, x in rows.arrays().items()}

    def _stored(self, key: str, values: NDArray[Any]) -> NDArray[Any]:
        dtype = self.spec.matrices[key][1]
        what = "the features" if key == "features" else f"'{key}'"
        if key != "logits" and not np.isfinite(values).all():
            raise DataError(f"{self.source.name}: {what} must be finite, but some are NaN or infinite; try amp=off")
        largest = float(np.abs(values).max(initial=0.0)) if dtype == "float16" else 0.0
        if largest > 65504:
            option = "dtype" if key == "features" else "layers_dtype"
            raise DataError(
                f"{self.source.name}: a value of {what} is {largest:.4g}, beyond float16 (65504); use {option}=float32"
            )
        return values.astype(dtype, copy=False)

    def _tell_unreadable(self, row: int, reason: str, number: int) -> None:
        name = self.spec.paths[row] if self.spec.paths is not None else self.source.name
        if number <= _TOLD:
            tell(f"warning: row {row} cannot be read ({name}: {reason})")
        if self.max_bad is not None and number > self.max_bad:
            raise DataError(
                f"{self.source.name}: more than {self.max_bad} images cannot be read (max_bad=), the last one "
                f"{name}: {reason}"
            )

    def _leave(self, path: Path, error: BaseException) -> None:
        """Remove the partial file of a run that failed before its first row; after Ctrl-C tell how many rows it has."""
        partial = partial_name(path)
        try:
            with h5py.File(partial, "r") as file:
                kept = int((done_of(file) != MISSING).sum())
        except (OSError, KeyError):
            return
        if kept == 0:
            partial.unlink(missing_ok=True)
        elif isinstance(error, KeyboardInterrupt):
            tell(
                f"interrupted; {kept} of {len(self.spec.labels)} rows are kept, and the same command goes on from there"
            )


def loader_of(batches: Any, workers: int, device: torch.device) -> DataLoader[Any]:
    """Read batches (:class:`Batches`, or another data set of them) in order, in ``workers`` processes."""
    return DataLoader(
        batches,
        batch_size=None,
        num_workers=min(workers, len(batches)),
        pin_memory=device.type == "cuda",
        worker_init_fn=_leave_interrupts_to_the_parent,
    )


def _leave_interrupts_to_the_parent(_: int) -> None:
    """Ignore Ctrl-C in a worker, which stops with its parent and prints no traceback of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = _not_of_a_parent_that_left


def _not_of_a_parent_that_left(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print no traceback for a worker that hands over a batch after the parent has stopped."""
    if not issubclass(kind, ConnectionError):
        sys.__excepthook__(kind, error, trace)


def checked(loader: DataLoader[Any]) -> Iterator[Any]:
    """The batches. An error that a worker returned is raised here."""
    for batch in loader:
        if isinstance(batch, LtpostError):
            raise batch
        yield batch


@contextlib.contextmanager
def deaths_are_told() -> Iterator[None]:
    """Turn the death of a worker into a DataError. Torch may raise it at any line of this process."""
    try:
        yield
    except RuntimeError as error:
        if WORKER_DIED not in str(error):
            raise
        raise DataError(f"a process that decodes images died ({error}); try workers=0") from None
