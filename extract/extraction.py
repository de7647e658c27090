"""From a checkpoint or a model, and images, to a feature file: the library twin of ``ltpost extract``."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from ltpost.errors import DataError, LtpostError, UsageError
from ltpost.extract import architectures, sanity
from ltpost.extract.backbone import Backbone, choose_device
from ltpost.extract.checkpoints import Checkpoint, read_checkpoint, sha256_of_state
from ltpost.extract.data import check_preset, open_source, preset
from ltpost.extract.lock import held
from ltpost.extract.preprocess import Preprocess
from ltpost.extract.shards import Shard, adopt, launched, merge_if_complete, parse_shard
from ltpost.extract.source import Source, Unreadable, check_labels, read_class_counts
from ltpost.extract.views import Views
from ltpost.extract.writer import DONE, MISSING, UNREADABLE, FeatureWriter, Spec, differences, done_of, prepare
from ltpost.features import partial_name

#: logits of the train split are stored up to this size; beyond, the file would be mostly logits that nobody reads
TRAIN_LOGITS_BYTES = 2**30
DTYPES = ("float32", "float16")
_TOLD = 10  # unreadable images, one by one
#: s of LDAM's NormedLinear (kaidic/LDAM-DRW, losses.py), which its checkpoints do not hold
HEAD_SCALE = 30.0


def extract_features(
    model: nn.Module | str | os.PathLike[str],
    data: str | os.PathLike[str] = "data",
    split: str = "val",
    out: str | os.PathLike[str] = "features",
    *,
    arch: str | None = None,
    head_key: str | None = None,
    expert: int | None = None,
    head_scale: float = HEAD_SCALE,
    dataset: str | None = None,
    list_file: str | os.PathLike[str] | None = None,
    root: str | os.PathLike[str] | None = None,
    class_order: str = "string",
    class_counts: Sequence[int] | NDArray[np.int64] | str | os.PathLike[str] | None = None,
    img_size: int | None = None,
    crop_pct: float | None = None,
    interpolation: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    device: str = "auto",
    amp: str = "off",
    dtype: str = "float32",
    logits: bool | None = None,
    batch_size: int = 64,
    workers: int | None = None,
    views: int = 1,
    augment: str | None = None,
    tta: str = "off",
    seed: int = 0,
    max_bad: int | None = None,
    expect_top1: float | None = None,
    shard: str | tuple[int, int] | None = None,
    restart: bool = False,
) -> Path:
    """Run the images of one split through a backbone and store what enters its classifier.

    Args:
        model: a checkpoint file, or a module that gives logits (n, C); it is left as it was.
        data: a folder with ``<split>/<class>/…``, ``<split>.npz`` or ``<split>.txt``, or an .npz file.
        split: "train", "val", "test", …
        out: a folder, which gets ``<split>.h5``, or a file name ending in .h5.
        arch: architecture of a checkpoint: a torchvision or timm name, ``cifar_resnet32``, or ``module:factory``;
            None reads it from the shapes.
        head_key: name of the classifier module; None finds it.
        expert: which one, of a checkpoint with several experts.
        head_scale: s of a cosine classifier (LDAM's NormedLinear), which checkpoints do not hold; the features are then
            stored as they enter it, normalised.
        dataset: "imagenet-lt", "places-lt", "inat18" or "cifar100-lt": sets mean and std, and checks C.
        list_file: lines ``path label``, or a .csv or .parquet table, with paths relative to ``root``.
        root: default ``data``.
        class_order: how class folders are sorted, "string" (torchvision) or "natural" (timm).
        class_counts: (C,) training samples per class, or a file of them; None counts the train split beside.
        img_size: side of the centre crop in pixels; None takes the architecture's.
        crop_pct: img_size over the resized shorter side, in (0, 1].
        interpolation: "bilinear", "bicubic", …
        mean: of the channels, for pixels in 0..1.
        std: likewise.
        device: "auto", "cpu", "cuda", "cuda:1", …
        amp: "off", "bf16" or "fp16"; logits are then those of the float32 classifier on the stored features.
        dtype: of the stored features, "float32" or "float16".
        logits: whether to store logits; None does, unless those of a train split would take more than 1 GiB.
        batch_size: images at a time.
        workers: processes that decode images; None chooses.
        views: rows per image, which carry ``sample`` and ``view``.
        augment: "standard" (random crop and flip) or "none"; None augments several views of the train split.
        tta: "flip" or "five-crop" averages the features, and so the logits, of fixed variants of an image.
        seed: of the augmentation.
        max_bad: stop when more images than this cannot be read; None marks them and goes on.
        expect_top1: top-1 of the joint classifier, a fraction or percent; more than a point away is an error.
        shard: "i/n" or (i, n): only part i of n, 0 <= i < n, for :func:`merge_shards`; None asks torchrun's and srun's
            variables, and then the last process joins the parts.
        restart: discard the rows that an interrupted run has left, instead of going on from there.

    Returns:
        The feature file, or the shard's.

    Raises:
        UsageError: an argument cannot be used.
        DataError: a file is not as it has to be; an existing feature file is left as it was.
    """
    if dtype not in DTYPES:
        raise UsageError(f"--dtype must be float32 or float16, but is '{dtype}'")
    if batch_size < 1:
        raise UsageError(f"--batch-size must be at least 1, but is {batch_size}")
    part = launched() if shard is None else parse_shard(shard) if isinstance(shard, str) else Shard(*shard)
    source = open_source(data, split, list_file, root, class_order, dataset)
    if dataset is not None:
        mean, std = mean or preset(dataset).mean, std or preset(dataset).std
    target = Path(out) if Path(out).suffix in (".h5", ".hdf5") else Path(out) / f"{split}.h5"
    where = choose_device(device, part.local if part else None)
    attrs: dict[str, Any] = {"split": split}
    if isinstance(model, nn.Module):
        arch, preprocess = type(model).__name__, architectures.own_preprocess(model)
        attrs["model_sha256"] = sha256_of_state(model.state_dict())
        first = next(model.parameters(), None)
        where = first.device if first is not None and device == "auto" else where
    else:
        checkpoint = read_checkpoint(model, expert)
        head_key = None if head_key is None else checkpoint.module_name(head_key)
        arch, model, preprocess = open_model(checkpoint, arch, head_key, head_scale)
        if checkpoint.normed:
            head_key, attrs["head_scale"] = f"{checkpoint.normed}.1", head_scale
        if expert is not None:
            attrs["expert"] = expert
        attrs |= {"layout": checkpoint.layout.name} | {
            "checkpoint": checkpoint.path.name,
            "checkpoint_sha256": checkpoint.sha256,
        }
    preprocess = preprocess.changed(
        img_size=img_size, crop_pct=crop_pct, interpolation=interpolation, mean=mean, std=std
    )
    augment = augment or ("standard" if views > 1 and tta == "off" and split == "train" else "none")
    shown = Views(preprocess, views, augment, tta, seed)
    if shown != Views(preprocess):
        attrs["views"] = json.dumps(shown.to_json())
    with _left_as_it_was(model):
        backbone = Backbone(model, head_key, device=where, amp=amp)
        head = backbone.head
        if dataset is not None:
            check_preset(dataset, head.num_classes)
        check_labels(source.name, source.labels, head.num_classes)
        if logits is None:
            logits = split != "train" or len(source) * views * head.num_classes * 4 <= TRAIN_LOGITS_BYTES
        total = len(source) * views
        spec = Spec(
            labels=np.repeat(source.labels, views),
            head=head,
            dtype=dtype,
            logits=logits,
            class_counts=_class_counts(source, class_counts, head.num_classes),
            class_names=_class_names(source, head.num_classes),
            paths=None if source.paths is None else [path for path in source.paths for _ in range(views)],
            columns={}
            if views == 1
            else {"sample": np.repeat(np.arange(len(source)), views), "view": np.tile(np.arange(views), len(source))},
            attrs=attrs
            | {
                "arch": arch,
                "head_key": backbone.head_key,
                "transform": json.dumps(preprocess.to_json()),
                "dataset": json.dumps({"name": source.name, "sha256": source.fingerprint, "rows": total}),
                **({} if source.class_order is None else {"class_order": source.class_order}),
                "dtype": dtype,
                "amp": amp,
                "torch_version": str(torch.__version__),
            },
        )
        if part is None or part.index == 0:
            tell(f"{arch}, classifier '{backbone.head_key}', on {where}; {preprocess}")
        job = _Job(source, shown, batch_size, backbone, spec, _workers(workers, source), restart, max_bad, expect_top1)
        if part is None:
            return job.run(target, slice(0, total))
        path = job.run(part.path(target), part.rows(total, batch_size), target, part)
        if shard is None and merge_if_complete(target, part.count):
            return target
        return path


def tell(message: str) -> None:
    """A line on stderr."""
    print(f"ltpost: {message}", file=sys.stderr)  # noqa: T201


def open_model(
    checkpoint: Checkpoint, arch: str | None = None, head_key: str | None = None, head_scale: float = HEAD_SCALE
) -> tuple[str, nn.Module, Preprocess]:
    """Name of the architecture, the model with the checkpoint's tensors, and its evaluation transform.

    Raises:
        UsageError: the architecture cannot be told, or not without doubt; the message lists the candidates.
        DataError: the tensors do not fill the architecture.
    """
    weight = checkpoint.state.get(f"{head_key}.weight")
    num_classes = None if weight is None else len(weight)
    if arch is None:
        names = architectures.candidates(checkpoint.state)
        if not names and checkpoint.arch is not None and architectures.known(checkpoint.arch):
            names = [checkpoint.arch]
        if len(names) > 1:
            raise UsageError(
                f"{checkpoint.path}: its tensors fit several architectures ({', '.join(names)}); choose with --arch"
            )
        if not names:
            said = f"; the file says '{checkpoint.arch}'" if checkpoint.arch else ""
            raise UsageError(
                f"{checkpoint.path}: the architecture cannot be told from its tensors{said}; name it with --arch "
                "(of torchvision, timm, cifar_resnet32, …, or your own package.module:factory)"
            )
        arch = names[0]
    try:
        if checkpoint.normed:
            model, preprocess = architectures.build_normed(arch, checkpoint.state, checkpoint.normed, head_scale)
        else:
            model, preprocess = architectures.build(arch, checkpoint.state, num_classes)
    except DataError as error:
        raise DataError(f"{checkpoint.path}: {error}") from None
    used = {*model.state_dict(), f"{checkpoint.normed}.weight"}
    unused = [key for key in checkpoint.state if key not in used]
    essential = checkpoint.layout.essential
    if essential and any(key.startswith(essential) for key in unused):
        raise DataError(
            f"{checkpoint.path}: {checkpoint.layout.name} has tensors '{essential}…' that {arch} has no place for; "
            "give a model that has them as --arch package.module:factory"
        )
    if unused:
        tell(f"{checkpoint.path}: {len(unused)} of its tensors are not used by {arch} ({architectures.some(unused)})")
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return arch, model, preprocess


@contextlib.contextmanager
def _left_as_it_was(model: nn.Module) -> Iterator[None]:
    """Training flags of a model are restored."""
    flags = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, flag in flags.items():
            module.training = flag


def _class_counts(source: Source, given: Any, num_classes: int) -> NDArray[np.int64] | None:
    if given is None:
        counts = source.class_counts(num_classes)
        if counts is None:
            tell(
                f"warning: {source.name}: no train split beside it, so no class counts are stored: many/medium/few is "
                "'–' and logit adjustment cannot run; give --class-counts FILE"
            )
        return counts
    name = "class_counts"
    if isinstance(given, str | os.PathLike):
        name, given = str(given), read_class_counts(given)
    counts = np.asarray(given, dtype=np.int64)
    if counts.shape != (num_classes,):
        raise DataError(f"{name}: must have one count for each of {num_classes} classes, but has {len(counts)}")
    return counts


def _class_names(source: Source, num_classes: int) -> list[str] | None:
    names = source.class_names
    if names is not None and len(names) != num_classes:
        raise DataError(
            f"{source.name}: has {len(names)} class names, but the classifier has {num_classes} classes; without a "
            "train folder that has all classes the labels would be shifted"
        )
    return names


def _workers(workers: int | None, source: Source) -> int:
    if workers is not None:
        return workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, cores) if source.images.dear else 0


# -- the loop ----------------------------------------------------------------------------------------------------------


@dataclass
class _Batches(Dataset[Any]):
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
        except LtpostError as error:  # a worker's exceptions lose their type on the way, its results do not
            return error

    def _read(self, start: int) -> tuple[int, Tensor, dict[int, str]]:
        views = self.views
        rows = range(start, min(start + self.batch_size, self.stop))
        first, last = rows[0] // views.count, rows[-1] // views.count
        pixels: list[NDArray[np.uint8] | None] = []
        bad: dict[int, str] = {}
        for sample, image in enumerate(self.source.images.read(slice(first, last + 1)), first):
            for row in range(max(rows[0], sample * views.count), min(rows[-1] + 1, (sample + 1) * views.count)):
                if isinstance(image, Unreadable):
                    bad[row - start] = image.reason
                    pixels += [None] * views.variants
                else:
                    pixels += views.cut(image, sample, row - sample * views.count)
        return start, torch.from_numpy(self._stacked(pixels)), bad

    def _stacked(self, pixels: list[NDArray[np.uint8] | None]) -> NDArray[np.uint8]:
        """One array of all; black where there is nothing."""
        shapes = {image.shape for image in pixels if image is not None}
        if len(shapes) > 1:
            sizes = sorted(f"{height} x {width}" for height, width, *_ in shapes)
            raise DataError(f"{self.source.name}: images differ in size ({sizes[0]}, {sizes[-1]}); give --img-size")
        side = self.views.preprocess.crop or 32
        batch = np.zeros((len(pixels), *(shapes.pop() if shapes else (side, side, 3))), np.uint8)
        for image, place in zip(pixels, batch, strict=True):
            if image is not None:
                place[:] = image
        return batch


@dataclass
class _Job:
    """An extraction; ``run`` does a range of its rows."""

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
            if shard is not None and not self.restart and _is_finished(path, spec):
                return path
            done = prepare(path, spec, restart=self.restart)
            if not done.any() and not self.restart:
                done = adopt(path, target or path, rows, spec)
            try:
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
        batches = _Batches(self.source, self.views, self.batch_size, starts, rows.stop)
        loader = DataLoader(
            batches,
            batch_size=None,
            num_workers=min(self.workers, len(batches)),
            pin_memory=self.backbone.device.type == "cuda",
        )
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
            for start, pixels, bad in _checked(loader):
                features, scores = self._compute(pixels, verify=writer is None)
                if writer is None:  # not before the loader has started its workers, who would inherit the open file
                    writer = stack.enter_context(FeatureWriter(path))
                block = {"features": features} | ({"logits": scores} if self.spec.logits else {})
                marks = np.full(len(features), DONE, np.uint8)
                for position, reason in bad.items():
                    errors[start - rows.start + position] = reason
                    marks[position] = UNREADABLE
                    self._tell_unreadable(start + position, reason, len(errors))
                    for values in block.values():
                        values[position] = np.nan
                writer.write(start - rows.start, block, marks)
                bar.update(len(features))
            writer = writer or stack.enter_context(FeatureWriter(path))
            writer.wait()
            bar.close()
            if "shard" not in writer.file.attrs:
                for message in sanity.check(writer.file, self.expect_top1):
                    tell(message)
            return writer.finish(errors)

    def _compute(self, pixels: Tensor, *, verify: bool) -> tuple[NDArray[Any], NDArray[Any]]:
        """Features as stored, and float32 logits; with amp those of the float32 classifier on the stored features."""
        backbone = self.backbone
        images = self.views.preprocess.normalise(pixels.to(backbone.device, non_blocking=True))
        features, scores = backbone(images)
        if verify:
            backbone.verify(features, scores)
        if self.views.variants > 1:  # logits are linear in the features, so their means agree
            features, scores = (x.unflatten(0, (-1, self.views.variants)).mean(dim=1) for x in (features, scores))
        stored = self._stored(features)
        if backbone.amp:
            scores = backbone.linear(torch.from_numpy(stored).to(features))
        return stored, scores.cpu().numpy()

    def _stored(self, features: Tensor) -> NDArray[Any]:
        """Features as they are stored; float16 only where they fit."""
        rows = features.cpu().numpy()
        if not np.isfinite(rows).all():
            raise DataError(
                f"{self.source.name}: the features must be finite, but some are NaN or infinite; try --amp off"
            )
        if self.spec.dtype == "float16":
            largest = float(np.abs(rows).max(initial=0.0))
            if largest > 65504:
                raise DataError(
                    f"{self.source.name}: a feature is {largest:.4g}, beyond float16 (65504); use --dtype float32"
                )
        return rows.astype(self.spec.dtype)

    def _tell_unreadable(self, row: int, reason: str, number: int) -> None:
        name = self.spec.paths[row] if self.spec.paths is not None else self.source.name
        if number <= _TOLD:
            tell(f"warning: row {row} cannot be read ({name}: {reason})")
        if self.max_bad is not None and number > self.max_bad:
            raise DataError(
                f"{self.source.name}: more than {self.max_bad} images cannot be read (--max-bad), the last one "
                f"{name}: {reason}"
            )

    def _leave(self, path: Path, error: BaseException) -> None:
        """A run that failed before its first row leaves nothing; else it says what is kept."""
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


def _is_finished(path: Path, spec: Spec) -> bool:
    """Whether a shard is there already."""
    try:
        with h5py.File(path, "r") as file:
            return not differences(file.attrs, spec.attrs)
    except OSError:
        return False


def _checked(loader: DataLoader[Any]) -> Iterator[tuple[int, Tensor, dict[int, str]]]:
    """The batches; what went wrong in a worker is raised here."""
    try:
        for batch in loader:
            if isinstance(batch, LtpostError):
                raise batch
            yield batch
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise DataError(f"a process that decodes images died ({error}); try --workers 0") from None
