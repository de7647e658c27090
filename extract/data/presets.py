"""The data sets of the field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ltpost.errors import DataError, UsageError
from ltpost.extract.pixels.preprocess import CIFAR_MEAN, CIFAR_STD, IMAGENET_MEAN, IMAGENET_STD, Preprocess


@dataclass(frozen=True)
class Preset:
    """A data set of the field: C, mean and std, the name of its lists, and whose mean and std they are."""

    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    lists: str | None = None
    note: str = ""


#: normalisations as in facebookresearch/classifier-balancing (iNaturalist 2018 has its own) and kaidic/LDAM-DRW
PRESETS = {
    "imagenet-lt": Preset(1000, IMAGENET_MEAN, IMAGENET_STD, "ImageNet_LT_{split}.txt", "those of ImageNet"),
    "places-lt": Preset(365, IMAGENET_MEAN, IMAGENET_STD, "Places_LT_{split}.txt", "those of ImageNet"),
    "inat18": Preset(
        8142,
        (0.466, 0.471, 0.380),
        (0.195, 0.194, 0.192),
        "iNaturalist18_{split}.txt",
        "those of iNaturalist 2018 as in classifier-balancing; other code uses ImageNet's, mean 0.485,0.456,0.406 and "
        "std 0.229,0.224,0.225",
    ),
    "cifar100-lt": Preset(
        100,
        CIFAR_MEAN,
        CIFAR_STD,
        note="those of CIFAR-10 as in LDAM-DRW; other code uses CIFAR-100's own, mean 0.5071,0.4867,0.4408 and std "
        "0.2675,0.2565,0.2761",
    ),
}


#: beside a convention that is not the only one
_PROBE = "; ltpost extract --probe 500 measures both"


def statistics_of(
    dataset: str | None, mean: Sequence[float] | None, std: Sequence[float] | None
) -> dict[str, Sequence[float] | None]:
    """Mean and std as they are given, else those of the data set; None where neither says."""
    known = None if dataset is None else preset(dataset)
    return {"mean": mean or (known and known.mean), "std": std or (known and known.std)}


def note_on_statistics(dataset: str | None, preprocess: Preprocess, num_classes: int) -> str | None:
    """A sentence that names mean and std of a data set, and others that are in use for it; None for unknown data.

    Args:
        dataset: one of ``PRESETS``; None recognizes those that are not the only convention for so many classes.
        preprocess: what is used.
        num_classes: C.
    """
    if dataset is not None:
        note = preset(dataset).note
        return f"{dataset}: mean and std are {note}{_PROBE if ';' in note else ''}"
    for known in PRESETS.values():
        used = (known.num_classes, known.mean, known.std) == (num_classes, preprocess.mean, preprocess.std)
        if used and ";" in known.note:
            return f"mean and std are {known.note}{_PROBE}"
    return None


def preset(dataset: str) -> Preset:
    """The data set called so.

    Raises:
        UsageError: there is none.
    """
    if dataset not in PRESETS:
        raise UsageError(f"dataset= must be one of {', '.join(PRESETS)}, but is '{dataset}'")
    return PRESETS[dataset]


def check_preset(dataset: str, num_classes: int) -> None:
    """Raise DataError unless the classifier has as many classes as the data set."""
    expected = preset(dataset).num_classes
    if num_classes != expected:
        raise DataError(f"dataset={dataset} has {expected} classes, but the classifier has {num_classes}")
