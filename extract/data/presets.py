"""The data sets of the field."""

from __future__ import annotations

from dataclasses import dataclass

from ltpost.errors import DataError, UsageError
from ltpost.extract.pixels.preprocess import CIFAR_MEAN, CIFAR_STD, IMAGENET_MEAN, IMAGENET_STD


@dataclass(frozen=True)
class Preset:
    """A data set of the field: C, normalisation, and the name of its lists."""

    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    lists: str | None = None


#: normalisations as in facebookresearch/classifier-balancing (iNaturalist 2018 has its own) and kaidic/LDAM-DRW
PRESETS = {
    "imagenet-lt": Preset(1000, IMAGENET_MEAN, IMAGENET_STD, "ImageNet_LT_{split}.txt"),
    "places-lt": Preset(365, IMAGENET_MEAN, IMAGENET_STD, "Places_LT_{split}.txt"),
    "inat18": Preset(8142, (0.466, 0.471, 0.380), (0.195, 0.194, 0.192), "iNaturalist18_{split}.txt"),
    "cifar100-lt": Preset(100, CIFAR_MEAN, CIFAR_STD),
}


def preset(dataset: str) -> Preset:
    """The data set called so.

    Raises:
        UsageError: there is none.
    """
    if dataset not in PRESETS:
        raise UsageError(f"--dataset must be one of {', '.join(PRESETS)}, but is '{dataset}'")
    return PRESETS[dataset]


def check_preset(dataset: str, num_classes: int) -> None:
    """Raise DataError unless the classifier has as many classes as the data set."""
    expected = preset(dataset).num_classes
    if num_classes != expected:
        raise DataError(f"--dataset {dataset} has {expected} classes, but the classifier has {num_classes}")
