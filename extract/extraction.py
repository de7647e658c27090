"""From a checkpoint or a model, and images, to a feature file: the library twin of ``ltpost extract``."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
from ltpost.extract import architectures
from ltpost.extract.backbone import Backbone, choose_device
from ltpost.extract.checkpoints import Checkpoint, read_checkpoint
from ltpost.extract.data import Source, check_labels, open_source, read_class_counts
from ltpost.extract.preprocess import Preprocess
from ltpost.extract.writer import DONE, UNREADABLE, FeatureWriter
from ltpost.features import start_file

#: logits of the train split are stored up to this size; beyond, the file would be mostly logits that nobody reads
TRAIN_LOGITS_BYTES = 2**30
DTYPES = ("float32", "float16")


def extract_features(
    model: nn.Module | str | os.PathLike[str],
    data: str | os.PathLike[str] = "data",
    split: str = "val",
    out: str | os.PathLike[str] = "features",
    *,
    arch: str | None = None,
    head_key: str | None = None,
    list_file: str | os.PathLike[str] | None = None,
    root: str | os.PathLike[str] | None = None,
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
        list_file: lines ``path label``, paths relative to ``root``.
        root: default ``data``.
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

    Returns:
        The feature file.

    Raises:
        UsageError: an argument cannot be used.
        DataError: a file is not as it has to be; an existing feature file is left as it was.
    """
    if dtype not in DTYPES:
        raise UsageError(f"--dtype must be float32 or float16, but is '{dtype}'")
    if batch_size < 1:
        raise UsageError(f"--batch-size must be at least 1, but is {batch_size}")
    source = open_source(data, split, list_file, root)
    checkpoint = None if isinstance(model, nn.Module) else read_checkpoint(model)
    if checkpoint is None:
        assert isinstance(model, nn.Module)
        name, preprocess = type(model).__name__, architectures.own_preprocess(model)
        first = next(model.parameters(), None)
        where = first.device if first is not None and device == "auto" else choose_device(device)
    else:
        if head_key is not None:
            head_key = checkpoint.module_name(head_key)
        name, model, preprocess = open_model(checkpoint, arch, head_key)
        where = choose_device(device)
    preprocess = preprocess.changed(
        img_size=img_size, crop_pct=crop_pct, interpolation=interpolation, mean=mean, std=std
    )
    target = Path(out) if Path(out).suffix in (".h5", ".hdf5") else Path(out) / f"{split}.h5"
    with _left_as_it_was(model):
        backbone = Backbone(model, head_key, device=where, amp=amp)
        num_classes = backbone.head.num_classes
        check_labels(source.name, source.labels, num_classes)
        counts = _class_counts(source, class_counts, num_classes)
        names = source.class_names
        if names is not None and len(names) != num_classes:
            raise DataError(
                f"{source.name}: has {len(names)} class names, but the classifier has {num_classes} classes; without a "
                "train folder that has all classes the labels would be shifted"
            )
        attrs = {
            "split": split,
            "arch": name if arch is None else arch,
            **({} if checkpoint is None else _provenance(checkpoint)),
            "head_key": backbone.head_key,
            "transform": json.dumps(preprocess.to_json()),
            "dataset": json.dumps({"name": source.name, "sha256": source.fingerprint, "rows": len(source)}),
            "dtype": dtype,
            "amp": amp,
            "torch_version": str(torch.__version__),
        }
        if logits is None:
            logits = split != "train" or len(source) * num_classes * 4 <= TRAIN_LOGITS_BYTES
        batches = _Batches(source, preprocess, batch_size)
        tell(f"{name}, classifier '{backbone.head_key}', on {where}; {preprocess}")
        return _run(batches, backbone, target, _workers(workers, source), dtype, logits, counts, names, attrs)


def tell(message: str) -> None:
    """A line on stderr."""
    print(f"ltpost: {message}", file=sys.stderr)  # noqa: T201


def open_model(
    checkpoint: Checkpoint, arch: str | None = None, head_key: str | None = None
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
        model, preprocess = architectures.build(arch, checkpoint.state, num_classes)
    except DataError as error:
        raise DataError(f"{checkpoint.path}: {error}") from None
    unused = [key for key in checkpoint.state if key not in model.state_dict()]
    if unused:
        tell(f"{checkpoint.path}: {len(unused)} tensors are not used by {arch} ({', '.join(unused[:3])}, …)")
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return arch, model, preprocess


def _provenance(checkpoint: Checkpoint) -> dict[str, str]:
    return {"checkpoint": checkpoint.path.name, "checkpoint_sha256": checkpoint.sha256}


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


def _workers(workers: int | None, source: Source) -> int:
    if workers is not None:
        return workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, cores) if source.images.dear else 0


# -- the loop ----------------------------------------------------------------------------------------------------------


@dataclass
class _Batches(Dataset[Any]):
    """Item i is batch i: first row, pixels uint8 (n, h, w, channels), and the rows that could not be read."""

    source: Source
    preprocess: Preprocess
    batch_size: int

    def __len__(self) -> int:
        return -(-len(self.source) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[int, Tensor, dict[int, str]] | LtpostError:
        try:
            return self._read(index)
        except LtpostError as error:  # a worker's exceptions lose their type on the way, its results do not
            return error

    def _read(self, index: int) -> tuple[int, Tensor, dict[int, str]]:
        start = index * self.batch_size
        rows = slice(start, min(start + self.batch_size, len(self.source)))
        pixels, bad = self.source.images.read(rows, self.preprocess)
        shapes = {image.shape for position, image in enumerate(pixels) if position not in bad}
        if len(shapes) > 1:
            sizes = sorted(f"{height} x {width}" for height, width, *_ in shapes)
            raise DataError(f"{self.source.name}: images differ in size ({sizes[0]}, {sizes[-1]}); give --img-size")
        side = self.preprocess.crop or 32
        shape = shapes.pop() if shapes else (side, side, 3)
        for position in bad:
            pixels[position] = np.zeros(shape, np.uint8)
        return start, torch.from_numpy(np.stack(pixels)), bad


def _run(
    batches: _Batches,
    backbone: Backbone,
    target: Path,
    workers: int,
    dtype: str,
    logits: bool,
    counts: NDArray[np.int64] | None,
    names: list[str] | None,
    attrs: dict[str, Any],
) -> Path:
    total = len(batches.source)
    loader = DataLoader(
        batches,
        batch_size=None,
        num_workers=min(workers, len(batches)),
        pin_memory=backbone.device.type == "cuda",
    )
    writer: FeatureWriter | None = None
    with contextlib.ExitStack() as stack:
        stack.callback(batches.source.images.close)
        bar = stack.enter_context(tqdm(total=total, unit="img", desc=f"extract {target.stem}", disable=None))
        for start, pixels, bad in _checked(loader):
            features, scores = backbone(batches.preprocess.normalise(pixels.to(backbone.device, non_blocking=True)))
            rows = {"features": _stored(features, dtype, target)}
            if writer is None:
                backbone.verify(features, scores)
                _start(target, batches.source, backbone, dtype, logits, counts, names, attrs)
                writer = stack.enter_context(FeatureWriter(target))
            if logits:
                stored = torch.from_numpy(rows["features"]).to(features) if backbone.amp else features
                rows["logits"] = (backbone.linear(stored) if backbone.amp else scores).cpu().numpy()
            done = np.full(len(pixels), DONE, np.uint8)
            for position, reason in bad.items():
                done[position] = UNREADABLE
                row = start + position
                tell(f"warning: row {row} cannot be read ({_path(batches.source, row)}: {reason})")
                for block in rows.values():
                    block[position] = np.nan
            writer.write(start, rows, done)
            bar.update(len(pixels))
        assert writer is not None
        return writer.finish()


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


def _path(source: Source, row: int) -> str:
    return source.paths[row] if source.paths is not None else source.name


def _start(
    target: Path,
    source: Source,
    backbone: Backbone,
    dtype: str,
    logits: bool,
    counts: NDArray[np.int64] | None,
    names: list[str] | None,
    attrs: dict[str, Any],
) -> None:
    total, head = len(source), backbone.head
    datasets: dict[str, tuple[tuple[int, ...], Any]] = {"features": ((total, head.num_features), dtype)}
    if logits:
        datasets["logits"] = ((total, head.num_classes), "float32")
    datasets["done"] = ((total,), "uint8")
    if source.paths is not None:
        datasets["paths"] = ((total,), h5py.string_dtype())
    partial = start_file(
        target, source.labels, datasets, head=head, class_counts=counts, class_names=names, attrs=attrs
    )
    with h5py.File(partial, "r+") as file:
        if source.paths is not None:
            file["paths"][:] = source.paths


def _stored(features: Tensor, dtype: str, target: Path) -> NDArray[Any]:
    """Features as they are stored; float16 only where they fit."""
    rows = features.cpu().numpy()
    if not np.isfinite(rows).all():
        raise DataError(f"{target}: the backbone gives NaN or infinite features; try --amp off or bf16")
    if dtype == "float16":
        largest = float(np.abs(rows).max(initial=0.0))
        if largest > 65504:
            raise DataError(f"{target}: a feature is {largest:.4g}, beyond float16 (65504); use --dtype float32")
    return rows.astype(dtype)
