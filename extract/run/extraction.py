"""Turns a checkpoint or a model, and images, into a feature file: the library twin of ``ltpost extract``."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ltpost.errors import DataError, UsageError
from ltpost.extract.checkpoints.checkpoint import read_checkpoint
from ltpost.extract.data.class_order import class_counts_of, in_class_order
from ltpost.extract.data.forms import open_source
from ltpost.extract.data.presets import check_preset, note_on_statistics, statistics_of
from ltpost.extract.data.source import Source, check_split
from ltpost.extract.messages import tell
from ltpost.extract.networks.backbone import Backbone, choose_device
from ltpost.extract.networks.opening import HEAD_SCALE, open_network
from ltpost.extract.pixels.views import Views
from ltpost.extract.run.layers import cost_of_layers, tapped
from ltpost.extract.run.loop import Job
from ltpost.extract.run.merge import merge_if_complete
from ltpost.extract.run.partial import IMAGES_STATE, Spec, is_finished
from ltpost.extract.run.sanity import check_expected
from ltpost.extract.run.shards import Shard, launched, parse_shard

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
    expert: int | str | None = None,
    head_scale: float = HEAD_SCALE,
    dataset: str | None = None,
    list_file: str | os.PathLike[str] | None = None,
    root: str | os.PathLike[str] | None = None,
    class_order: str | None = None,
    class_counts: Sequence[int] | NDArray[np.int64] | str | os.PathLike[str] | None = None,
    img_size: int | None = None,
    crop_pct: float | None = None,
    interpolation: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    channels: str | None = None,
    weights: str | None = None,
    device: str = "auto",
    amp: str = "off",
    compile: bool = False,
    dtype: str = "float32",
    logits: bool | None = None,
    layers: str | None = None,
    layers_dtype: str = "float16",
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
    """Run the images of one split through a backbone, and store the features that enter its classifier.

    Args:
        model: a checkpoint file, or a module that gives logits (n, C); the module is left as it was.
        data: a folder with ``<split>/<class>/…``, ``<split>.npz`` or ``<split>.txt``, or an .npz file.
        split: "train", "val", "test", …
        out: a folder, which gets ``<split>.h5``, or a file name ending in .h5.
        arch: architecture of a checkpoint: a torchvision or timm name, ``cifar_resnet32``, or ``module:factory``;
            None recognizes it by the shapes.
        head_key: name of the classifier module, or of several with commas between whose logits are averaged; None
            finds it.
        expert: the number of one expert, of a checkpoint with several; "all" puts their features side by side, so that
            the joint classifier is the mean of theirs.
        head_scale: s of a cosine classifier (LDAM's NormedLinear), which checkpoints do not hold; the stored features
            are then normalised.
        dataset: "imagenet-lt", "places-lt", "inat18" or "cifar100-lt": sets mean and std, and checks C.
        list_file: lines ``path label``, or a .csv or .parquet table, with paths relative to ``root``.
        root: default ``data``.
        class_order: how classes are numbered: by their names, sorted as "string" (torchvision's folders) or "natural"
            (timm's), or by "frequency" in the train split. None sorts folders as strings, and leaves labels of lists
            and arrays as they are.
        class_counts: (C,) training samples per class, in the numbering of the data, or a file of them; None counts the
            train split beside the data.
        img_size: side of the centre crop in pixels; None takes that of the architecture.
        crop_pct: img_size over the resized shorter side, in (0, 1].
        interpolation: "bilinear", "bicubic", …
        mean: of the channels, for pixels in 0..1.
        std: standard deviation of the channels, for pixels in 0..1.
        channels: "rgb", or "bgr" for networks that take the channels in reverse, after mean and std; None takes the
            network's.
        weights: the key of one set of weights, of a checkpoint with several (``state_dict_ema``, ``state_dict``); None
            takes the averaged or the best one.
        device: "auto", "cpu", "cuda", "cuda:1", …
        amp: "off", "bf16" or "fp16"; stored logits are those of the float32 classifier on the stored features.
        compile: run the model through torch.compile, and compare its first batch with the plain model's.
        dtype: type of the stored features, "float32" or "float16".
        logits: whether to store logits; None does, unless those of a train split would take more than 1 GiB.
        layers: modules whose pooled outputs are stored too, as ``layers/<name>``, from the same forward pass: "auto",
            or paths with commas between, each with a pooling where wanted, "layer2@4,layer3.0@2,blocks.5@cls"; see
            :mod:`ltpost.extract.networks.taps`.
        layers_dtype: type of the stored layers, "float16" or "float32".
        batch_size: the number of images in a batch.
        workers: processes that decode images; None chooses.
        views: rows per image; the columns ``sample`` and ``view`` number them.
        augment: "standard" (random crop and flip) or "none"; None augments several views of the train split.
        tta: "flip" or "five-crop" averages the features, logits and layers of fixed variants of an image; with as many
            ``views`` as there are variants (2, 5) each of them is a row instead.
        seed: seed of the augmentation.
        max_bad: stop when more images than this cannot be read; None marks them and goes on.
        expect_top1: top-1 of the joint classifier, a fraction or percent; more than a point away is an error.
        shard: "i/n" or (i, n): only part i of n, 0 <= i < n, for :func:`merge_shards`; None reads the
            variables of torchrun and srun, and then the last process joins the parts.
        restart: discard the rows that an interrupted run has left, instead of going on from there.

    Returns:
        The feature file, or the file of the shard.

    Raises:
        UsageError: an argument cannot be used.
        DataError: a file does not fulfil a requirement; an existing feature file is left as it was.
    """
    for option, value in (("dtype", dtype), ("layers_dtype", layers_dtype)):
        if value not in DTYPES:
            raise UsageError(f"{option}= must be float32 or float16, but is '{value}'")
    if batch_size < 1:
        raise UsageError(f"batch_size= must be at least 1, but is {batch_size}")
    if workers is not None and workers < 0:
        raise UsageError(f"workers= must be at least 0, but is {workers}")
    if max_bad is not None and max_bad < 0:
        raise UsageError(f"max_bad= must be at least 0, but is {max_bad}")
    check_expected(expect_top1)
    check_split(split)
    if not isinstance(model, nn.Module) and not Path(model).exists():
        read_checkpoint(model)  # a missing file is reported before the data are read
    part = launched() if shard is None else parse_shard(shard) if isinstance(shard, str) else Shard(*shard)
    source = open_source(data, split, list_file, root, class_order, dataset)
    network = open_network(model, arch, head_key, expert=expert, head_scale=head_scale, weights=weights)
    preprocess = network.preprocess.changed(
        img_size=img_size,
        crop_pct=crop_pct,
        interpolation=interpolation,
        **statistics_of(dataset, mean, std),
        channels=channels,
    )
    augment = augment or ("standard" if views > 1 and tta == "off" and split == "train" else "none")
    shown = Views(preprocess, views, augment, tta, seed)
    if views > 1 and augment == "none" and tta == "off":
        tell(f"warning: without --augment standard the {views} views of an image are all the same")
    target = Path(out) if Path(out).suffix in (".h5", ".hdf5") else Path(out) / f"{split}.h5"
    total = len(source) * views
    with left_as_it_was(network.model) as device_now:
        own = isinstance(model, nn.Module) and device == "auto"
        where = device_now if own else choose_device(device, part.local if part else None)
        backbone = Backbone(
            network.model, network.head_key, device=where, amp=amp, gated=network.gated, compiled=compile
        )
        head = backbone.head
        if dataset is not None:
            check_preset(dataset, head.num_classes)
        if mean is None and std is None and (note := note_on_statistics(dataset, preprocess, head.num_classes)):
            tell(note)
        _check_class_names(source, head.num_classes)
        counts = class_counts_of(source, class_counts, head.num_classes)
        if counts is None:
            tell(
                f"warning: {source.name}: no train split beside it, so no class counts are stored: many/medium/few is "
                "'–' and logit adjustment cannot run; give --class-counts FILE"
            )
        source, counts = in_class_order(source, class_order, counts, head.num_classes)
        if network.gated:
            logits = True
        stored_layers = {} if layers is None else tapped(backbone, layers, layers_dtype, source, shown)
        if logits is None:
            logits = split != "train" or total * head.num_classes * 4 <= TRAIN_LOGITS_BYTES
        spec = Spec(
            labels=np.repeat(source.labels, views),
            head=None if network.gated else head,
            shape=head.shape,
            dtype=dtype,
            logits=logits,
            expert_bias=getattr(network.model, "expert_bias", backbone.expert_bias),
            class_counts=counts,
            class_names=source.class_names,
            paths=None if source.paths is None else [path for path in source.paths for _ in range(views)],
            columns=shown.columns(len(source)),
            attrs={
                "split": split,
                "arch": network.arch,
                **network.attrs,
                "head_key": backbone.head_key,
                **({"experts": backbone.num_experts} if backbone.num_experts > 1 else {}),
                "transform": json.dumps(preprocess.to_json()),
                "dataset": json.dumps({"name": source.name, "sha256": source.fingerprint, "rows": total}),
                **shown.attrs(),
                **({} if source.class_order is None else {"class_order": source.class_order}),
                IMAGES_STATE: source.images.state(),
                "dtype": dtype,
                **({"layers": ",".join(stored_layers), "layers_dtype": layers_dtype} if stored_layers else {}),
                "amp": amp,
                "torch_version": str(torch.__version__),
            },
            layers=stored_layers,
        )
        if part is None or part.index == 0:
            tell(f"{network.arch}, classifier '{backbone.head_key}', on {where}; {preprocess}")
            if stored_layers:
                tell(cost_of_layers(spec, target))
        job = Job(
            source, shown, batch_size, backbone, spec, workers_for(workers, source), restart, max_bad, expect_top1
        )
        if part is None:
            return job.run(target, slice(0, total))
        if shard is None and not restart and is_finished(target, spec):
            tell(f"{target}: is finished already with these settings; compute it again with ltpost extract --restart")
            return target
        path = job.run(part.path(target), part.rows(total, batch_size), target, part)
        return target if shard is None and merge_if_complete(target, part.count) else path


# -- the network -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def left_as_it_was(model: nn.Module) -> Iterator[torch.device]:
    """Give the device of the model, and at the end restore device and training flags."""
    flags = {module: module.training for module in model.modules()}
    first = next(model.parameters(), None)
    device = torch.device("cpu") if first is None else first.device
    try:
        yield device
    finally:
        model.to(device)
        for module, flag in flags.items():
            module.training = flag


def _check_class_names(source: Source, num_classes: int) -> None:
    names = source.class_names
    if names is not None and len(names) != num_classes:
        raise DataError(
            f"{source.name}: has {len(names)} class names, but the classifier has {num_classes} classes; without a "
            "train folder that has all classes the labels would be shifted"
        )


def workers_for(workers: int | None, source: Source) -> int:
    """The number of processes that decode images. By default one per core, at most 16; none where reading is fast."""
    if workers is not None:
        return workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(16, cores) if source.images.slow else 0
