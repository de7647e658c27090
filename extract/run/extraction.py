"""From a checkpoint or a model, and data of any form, to feature files: the library twin of ``ltpost extract``."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import Dataset

from ltpost.data.folder import VIEWS
from ltpost.errors import UsageError
from ltpost.extract.checkpoints.checkpoint import read_checkpoint
from ltpost.extract.data.batches import Part
from ltpost.extract.data.forms import open_source
from ltpost.extract.data.presets import statistics_of
from ltpost.extract.messages import tell
from ltpost.extract.networks.hugging_face import is_model_folder, kind_of
from ltpost.extract.networks.opening import HEAD_SCALE, Network, open_network
from ltpost.extract.pixels.views import Views
from ltpost.extract.run.images import ImageFeed
from ltpost.extract.run.rows import extract_rows
from ltpost.extract.run.samples import feed_of_columns, feed_of_loader
from ltpost.extract.run.settings import Settings

#: options that say how images on disk are found and shown
_IMAGES_ONLY = (
    "dataset", "list_file", "root", "class_order", "img_size", "crop_pct", "interpolation", "mean", "std", "channels",
    "views", "augment", "tta", "seed", "max_bad",
)  # fmt: skip
#: options that say how batches are read
_BATCHES_ONLY = ("inputs", "labels")
#: options that say how texts and sounds on disk are read
_COLUMNS_ONLY = ("column", "label_column", "max_length")


def extract_features(
    model: nn.Module | Network | str | os.PathLike[str],
    data: str | os.PathLike[str] | Iterable[Any] | Dataset[Any] = "data",
    split: str = "val",
    out: str | os.PathLike[str] = "features",
    *,
    inputs: Part | None = None,
    labels: Part | None = None,
    class_names: Sequence[str] | str | os.PathLike[str] | None = None,
    arch: str | None = None,
    head_key: str | None = None,
    expert: int | str | None = None,
    head_scale: float = HEAD_SCALE,
    dataset: str | None = None,
    list_file: str | os.PathLike[str] | None = None,
    root: str | os.PathLike[str] | None = None,
    class_order: str | None = None,
    column: str | None = None,
    label_column: str | None = None,
    max_length: float | None = None,
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
    skip_finished: bool = False,
) -> Path:
    """Run one split through a backbone and store what enters its classifier.

    The data are images on disk, or any batches: a data set, a DataLoader, a generator, of images or anything else.

    Args:
        model: a checkpoint file, a module that gives logits (n, C), or an opened network; it is left as it was, in its
            mode and without hooks. DataParallel, DistributedDataParallel and torch.compile are taken off; under
            DistributedDataParallel every process makes this call, and has the buffers of the first one afterwards.
        data: a folder with ``<split>/<class>/…``, ``<split>.npz`` or ``<split>.txt``, or an .npz file. Or a data set
            (of samples) or a loader (of batches): ``(x, y)``, several inputs and y, or a mapping (a BatchEncoding).
            Rows of a data set keep its order and an interrupted run goes on, also where its DataLoader shuffles; other
            batches come once, as they come.
        split: "train", "val", "test", …
        out: a folder, which gets ``<split>.h5``, or a file name ending in .h5.
        inputs: of a batch, what goes to the model: a key or position, several in the order of its parameters, or a
            function of the batch that gives a tensor, a tuple or a dictionary of arguments; None where it can be told.
        labels: of a batch, likewise: a key, a position, or a function that gives n whole numbers.
        class_names: C names, or a file of them (one a line, or JSON), in place of those that the data know; where
            labels are texts, they are numbered by these.
        arch: architecture of a checkpoint: a torchvision or timm name, ``cifar_resnet32``, or ``module:factory``;
            None reads it from the shapes.
        head_key: name of the classifier module, or of several with commas between whose logits are averaged; None
            finds it.
        expert: which one, of a checkpoint with several; "all" puts their features side by side, so that the joint
            classifier is the mean of theirs.
        head_scale: s of a cosine classifier (LDAM's NormedLinear), which checkpoints do not hold; the features are then
            stored as they enter it, normalised.
        dataset: "imagenet-lt", "places-lt", "inat18" or "cifar100-lt": sets mean and std, and checks C.
        list_file: lines ``path label``, or a .csv or .parquet table, with paths relative to ``root``; ``{split}`` in
            its name stands for the split.
        root: default ``data``.
        class_order: how classes are numbered: by their names, sorted as "string" (torchvision's folders) or "natural"
            (timm's), or by "frequency" in the train split. None sorts folders as strings, and leaves labels of lists
            and arrays as they are.
        column: of a table for a model folder of transformers that takes texts or sounds: the column that holds them, or
            two with a comma between for pairs of texts; None finds it. The table is ``<split>.csv``,
            ``<split>.parquet``, or a data set ``<split>/`` saved by datasets.
        label_column: of this table; None finds it.
        max_length: tokens, or seconds of a sound, that are read of each; None takes what the model allows.
        class_counts: (C,) training samples per class, in the numbering of the data, or a file of them; None counts the
            train split beside the data.
        img_size: side of the centre crop in pixels; None takes the architecture's.
        crop_pct: img_size over the resized shorter side, in (0, 1].
        interpolation: "bilinear", "bicubic", …
        mean: of the channels, for pixels in 0..1.
        std: standard deviation of the channels, for pixels in 0..1.
        channels: "rgb", or "bgr" for networks that take the channels in reverse, after mean and std; None takes the
            network's.
        weights: the key of one set of weights, of a checkpoint with several (``state_dict_ema``, ``state_dict``); None
            takes the averaged or the best one.
        device: "auto", "cpu", "cuda", "cuda:1", …
        amp: "off", "bf16" or "fp16"; logits are then those of the float32 classifier on the stored features.
        compile: run the model through torch.compile; its first batch is compared with the model as it is.
        dtype: of the stored features, "float32" or "float16".
        logits: whether to store logits; None does, unless those of a train split would take more than 1 GiB.
        layers: modules whose pooled outputs are stored too, as ``layers/<name>``, from the same forward pass: "auto",
            or paths with commas between, each with a pooling where wanted, "layer2@4,layer3.0@2,blocks.5@cls"; see
            :mod:`ltpost.extract.networks.taps`.
        layers_dtype: of the stored layers, "float16" or "float32".
        batch_size: rows at a time; a DataLoader has its own.
        workers: processes that decode images, or read a data set; None chooses.
        views: rows per image, which carry ``sample`` and ``view``. Of another split than train, where ``out`` is a
            folder and ``augment`` is None: ``<split>.h5`` keeps one plain row per image, and the augmented views are
            written beside it, to ``<split>-views.h5``.
        augment: "standard" (random crop and flip) or "none"; None augments several views.
        tta: "flip" or "five-crop" averages the features, logits and layers of fixed variants of an image; with as many
            ``views`` as there are variants (2, 5) each of them is a row instead.
        seed: of the augmentation.
        max_bad: stop when more images than this cannot be read; None marks them and goes on.
        expect_top1: top-1 of the joint classifier, a fraction or percent; more than a point away is an error.
        shard: "i/n" or (i, n): only part i of n, 0 <= i < n, for :func:`merge_shards`; (0, 1) is all of it. None asks
            torch.distributed, and torchrun's and srun's variables, and then the last process joins the parts.
        restart: discard the rows that an interrupted run has left, instead of going on from there.
        skip_finished: leave a finished file of the same settings as it is, instead of computing it anew.

    Returns:
        The feature file, or the shard's.

    Raises:
        UsageError: an argument cannot be used.
        DataError: a file is not as it has to be; an existing feature file is left as it was.
    """
    given = dict(locals())
    for name, least in (("batch_size", 1), ("workers", 0)):
        if given[name] is not None and given[name] < least:
            raise UsageError(f"{name}= must be at least {least}, but is {given[name]}")
    settings = Settings(**{name: given[name] for name in Settings.__dataclass_fields__ if name != "out"}, out=Path(out))
    if isinstance(model, str | os.PathLike) and not Path(model).exists():
        read_checkpoint(model)  # says so before the data are looked at

    def opened() -> Network:
        if isinstance(model, Network):
            return model
        return open_network(
            model, arch, head_key, expert=expert, head_scale=head_scale, weights=weights, max_length=max_length
        )

    if not isinstance(data, str | os.PathLike):
        _refuse(given, (*_IMAGES_ONLY, *_COLUMNS_ONLY), "is for data on disk; a loader prepares its own inputs")
        network = opened()
        return extract_rows(network, feed_of_loader(network, data, given, settings.given_names()), settings)
    _refuse(given, _BATCHES_ONLY, "is for batches of a loader; data on disk have their own")
    if takes_columns(model):
        refused = tuple(name for name in _IMAGES_ONLY if name not in ("list_file", "root", "max_bad"))
        _refuse(given, refused, "is for images; this model takes texts or sounds")
        network = opened()
        given["list_file"] = of_split(list_file, split)
        return extract_rows(network, feed_of_columns(network, given, settings.given_names()), settings)
    _refuse(given, _COLUMNS_ONLY, "is for models that take texts or sounds; this one takes images")
    source = open_source(data, split, of_split(list_file, split), root, class_order, dataset)
    network = opened()
    preprocess = network.preprocess.changed(
        img_size=img_size,
        crop_pct=crop_pct,
        interpolation=interpolation,
        **statistics_of(dataset, mean, std),
        channels=channels,
    )
    several = views > 1 and augment is None and tta == "off"
    beside = several and split != "train" and not settings.names_a_file
    shown = Views(preprocess, views, augment or ("standard" if several else "none"), tta, seed)
    if views > 1 and augment == "none" and tta == "off":
        tell(f"warning: without augment='standard' the {views} views of an image are all the same")
    given_statistics = mean is not None or std is not None
    feed = ImageFeed(source, shown, batch_size, workers, dataset, class_order, class_counts, given_statistics)
    if not beside:
        return extract_rows(network, feed, settings)
    plain = extract_rows(network, replace(feed, views=Views(preprocess)), replace(settings, skip_finished=True))
    path = extract_rows(network, feed, replace(settings, out=settings.out / f"{split}{VIEWS}.h5", expect_top1=None))
    tell(f"wrote {path}")
    return plain


def takes_columns(model: Any) -> bool:
    """Whether it is a model folder, or an opened one, that takes texts or sounds."""
    if isinstance(model, Network):
        return model.collate is not None
    folder = isinstance(model, str | os.PathLike) and is_model_folder(Path(model))
    return folder and kind_of(Path(model)) != "image"


def of_split(list_file: str | os.PathLike[str] | None, split: str) -> str | None:
    """The list of a split: ``{split}`` in its name stands for that."""
    return None if list_file is None else os.fspath(list_file).replace("{split}", split)


def _refuse(given: Mapping[str, Any], names: Sequence[str], why: str) -> None:
    """Raise UsageError where one of these arguments of :func:`extract_features` is not its default."""
    defaults = inspect.signature(extract_features).parameters
    for name in names:
        if given[name] is not defaults[name].default and given[name] != defaults[name].default:
            raise UsageError(f"{name}= {why}")
