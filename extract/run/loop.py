"""The loop: a feed reads, the model runs, a thread writes. All three work at the same time."""

from __future__ import annotations

import collections
import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from ltpost.data.write import partial_name
from ltpost.errors import DataError
from ltpost.extract.messages import tell
from ltpost.extract.networks.backbone import WORKER_DIED, Backbone
from ltpost.extract.run.feed import Batch, Feed
from ltpost.extract.run.lock import held
from ltpost.extract.run.merge import adopt
from ltpost.extract.run.partial import (
    DONE,
    MISSING,
    UNREADABLE,
    Spec,
    count_training_rows,
    done_of,
    is_finished,
    prepare,
)
from ltpost.extract.run.sanity import check_accuracy
from ltpost.extract.run.shards import Shard
from ltpost.extract.run.spool import Spool
from ltpost.extract.run.writer import FeatureWriter

_TOLD = 10  # unreadable images that are named one by one
#: by which features of the same row may differ, relative to the largest: rows in another batch are rounded otherwise
_SAME = 0.02
_BLOCK_ROWS = 4096


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

    feed: Feed
    backbone: Backbone
    spec: Spec
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
        size = self.feed.batch_size
        missing = {
            start: bool((done[start - rows.start : start - rows.start + size] == MISSING).any())
            for start in range(rows.start, rows.stop, size)
        }
        finished = [] if self.feed.proven else [start for start, is_missing in missing.items() if not is_missing]
        again = set(finished[:1] + finished[-1:])  # is this the data set of the rows that are there?
        starts = [start for start, is_missing in missing.items() if is_missing or start in again]
        errors: dict[int, str] = {}
        with contextlib.ExitStack() as stack:
            stack.callback(self.feed.close)
            bar = stack.enter_context(
                tqdm(
                    total=rows.stop - rows.start,
                    initial=int((done != MISSING).sum()),
                    unit=self.feed.unit,
                    desc=f"extract {path.stem}",
                    disable=True if quiet else None,
                )
            )
            writer: FeatureWriter | None = None
            for start, block, bad in self._computed(self.feed.batches(starts, rows.stop, self.backbone.device)):
                if writer is None:  # only now, as workers would inherit the open file
                    writer = stack.enter_context(FeatureWriter(path))
                if start in again:
                    self._compare(writer.file, start - rows.start, block)
                    continue
                marks = np.full(len(block["features"]), DONE, np.uint8)
                for position, reason in bad.items():
                    errors[start - rows.start + position] = reason
                    marks[position] = UNREADABLE
                    self._tell_unreadable(start + position, reason, len(errors))
                    for key in block.keys() - {"labels"}:
                        block[key][position] = np.nan
                writer.write(start - rows.start, block, marks)
                bar.update(len(marks))
            writer = writer or stack.enter_context(FeatureWriter(path))
            writer.wait()
            bar.close()
            return self._finish(writer, errors)

    def _finish(self, writer: FeatureWriter, errors: dict[int, str]) -> Path:
        """Check the accuracy where all rows are there, and give the file its name."""
        if "shard" not in writer.file.attrs:
            count_training_rows(writer.file)
            for message in check_accuracy(writer.file, self.expect_top1):
                tell(message)
        return writer.finish(errors)

    def run_once(self, path: Path, batches: Iterator[Batch]) -> Path:
        """Write rows that come once, and whose number is known at the end; nothing is kept of an interrupted run."""
        with held(path), Spool(path.parent) as spool, deaths_are_told():
            bar = spool.enter_context(tqdm(unit=self.feed.unit, desc=f"extract {path.stem}", disable=None))
            for _, block, _ in self._computed(batches):
                spool.add(block)
                bar.update(len(block["labels"]))
            bar.close()
            blocks = spool.arrays()
            identity = {**json.loads(self.spec.attrs["dataset"]), "rows": spool.rows}
            attrs = {**self.spec.attrs, "dataset": json.dumps(identity)}
            prepare(path, replace(self.spec, labels=np.asarray(blocks["labels"]), attrs=attrs), restart=True)
            try:
                with FeatureWriter(path) as writer:
                    for start in range(0, spool.rows, _BLOCK_ROWS):
                        part = {key: block[start : start + _BLOCK_ROWS] for key, block in blocks.items()}
                        writer.write(start, part, np.full(len(part["labels"]), DONE, np.uint8))
                    writer.wait()
                    return self._finish(writer, {})
            except BaseException:
                partial_name(path).unlink(missing_ok=True)
                raise

    def _compare(self, file: h5py.File, start: int, block: dict[str, NDArray[Any]]) -> None:
        """Raise DataError unless the rows of an earlier run are these rows."""
        stored = file["features"][start : start + len(block["features"])].astype(np.float32)
        ours = block["features"].astype(np.float32)
        same = np.abs(stored - ours).max(initial=0) <= _SAME * max(1e-6, float(np.abs(stored).max(initial=0)))
        if not same or ("labels" in block and (file["labels"][start : start + len(ours)] != block["labels"]).any()):
            raise DataError(
                f"{self.feed.name}: sample {start} is not what the unfinished run has stored: the data set is another "
                "one, or its samples are random (augmentation); discard the finished rows with restart="
            )

    def _computed(self, batches: Iterator[Batch]) -> Iterator[tuple[int, dict[str, NDArray[Any]], Mapping[int, str]]]:
        """First row, datasets and unreadable rows of each batch. A GPU gets its next batch before one is fetched."""
        ahead = 1 if self.backbone.device.type == "cuda" else 0
        launched: collections.deque[tuple[Batch, _Rows]] = collections.deque()
        for number, batch in enumerate(batches):
            launched.append((batch, self._launch(batch.inputs, verify=number == 0)))
            if len(launched) > ahead:
                yield self._fetched(*launched.popleft())
        while launched:
            yield self._fetched(*launched.popleft())

    def _fetched(self, batch: Batch, rows: _Rows) -> tuple[int, dict[str, NDArray[Any]], Mapping[int, str]]:
        labels = {} if batch.labels is None else {"labels": batch.labels}
        return batch.start, self._block(rows) | labels, batch.bad

    def _launch(self, inputs: Any, *, verify: bool) -> _Rows:
        """Start a batch. With amp, the logits are those of the float32 classifier on the stored features."""
        backbone = self.backbone
        outputs = backbone.outputs(self.feed.arguments(inputs, backbone.device))
        if verify:
            backbone.verify(outputs.features, outputs.logits)
        tensors = {"features": outputs.features, "logits": outputs.logits}
        tensors.update({f"layers/{name}": layer for name, layer in outputs.layers.items()})
        if self.feed.variants > 1:  # logits are linear in the features, so their means agree
            tensors = {key: x.unflatten(0, (-1, self.feed.variants)).mean(dim=1) for key, x in tensors.items()}
        if not self.spec.logits:
            del tensors["logits"]
        elif backbone.amp and not backbone.gated:
            stored = tensors["features"].to(getattr(torch, self.spec.dtype))
            tensors["logits"] = backbone.linear(stored.float())
        return _Rows(tensors)

    def _block(self, rows: _Rows) -> dict[str, NDArray[Any]]:
        """The datasets of a batch, as stored; float16 only where it fits."""
        return {key: self._stored(key, x) for key, x in rows.arrays().items()}

    def _stored(self, key: str, values: NDArray[Any]) -> NDArray[Any]:
        dtype = self.spec.matrices[key][1]
        what = "the features" if key == "features" else f"'{key}'"
        if key != "logits" and not np.isfinite(values).all():
            raise DataError(f"{self.feed.name}: {what} must be finite, but some are NaN or infinite; try amp=off")
        largest = float(np.abs(values).max(initial=0.0)) if dtype == "float16" else 0.0
        if largest > 65504:
            option = "dtype" if key == "features" else "layers_dtype"
            raise DataError(
                f"{self.feed.name}: a value of {what} is {largest:.4g}, beyond float16 (65504); use {option}=float32"
            )
        return values.astype(dtype, copy=False)

    def _tell_unreadable(self, row: int, reason: str, number: int) -> None:
        name = self.spec.paths[row] if self.spec.paths is not None else self.feed.name
        if number <= _TOLD:
            tell(f"warning: row {row} cannot be read ({name}: {reason})")
        if self.max_bad is not None and number > self.max_bad:
            raise DataError(
                f"{self.feed.name}: more than {self.max_bad} images cannot be read (max_bad=), the last one "
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


@contextlib.contextmanager
def deaths_are_told() -> Iterator[None]:
    """Turn the death of a worker into a DataError. Torch may raise it at any line of this process."""
    try:
        yield
    except RuntimeError as error:
        if WORKER_DIED not in str(error):
            raise
        raise DataError(f"a process that decodes images died ({error}); try workers=0") from None
