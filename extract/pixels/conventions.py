"""How the field's code turns images into pixels: the other settings under which a network may have been trained.

Alternatives are options of :meth:`Preprocess.changed`. Each changes one setting of a transform.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ltpost.extract.pixels.preprocess import CIFAR_MEAN, CIFAR_STD, IMAGENET_MEAN, IMAGENET_STD, Preprocess

_CAFFE = tuple(value / 255 for value in (123.68, 116.779, 103.939))
_PIXEL_RANGE = (1 / 255,)  # a std that leaves pixels in 0..255

#: name to mean and std, for pixels in 0..1
STATISTICS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "no mean and std, pixels in 0..1": ((0.0,), (1.0,)),
    "no mean and std, pixels in 0..255": ((0.0,), _PIXEL_RANGE),
    "mean and std 0.5": ((0.5,), (0.5,)),
    "mean and std of ImageNet": (IMAGENET_MEAN, IMAGENET_STD),
    "mean of ImageNet, pixels in 0..255": (IMAGENET_MEAN, _PIXEL_RANGE),
    "mean and std of CIFAR-10 (LDAM-DRW)": (CIFAR_MEAN, CIFAR_STD),
    "mean and std of CIFAR-10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "mean and std of CIFAR-100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "mean and std of Tiny ImageNet": ((0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)),
    "mean and std of iNaturalist 2018": ((0.466, 0.471, 0.380), (0.195, 0.194, 0.192)),
    "mean and std of CLIP": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "mean and std of MNIST": ((0.1307,), (0.3081,)),
    "mean and std of Fashion-MNIST": ((0.2860,), (0.3530,)),
}
_GREY = ("mean and std of MNIST", "mean and std of Fashion-MNIST")
SIZES = (28, 32, 64, 84, 96, 112, 128, 160, 192, 224, 256, 288, 320, 384, 448, 512)
CROP_FRACTIONS = (1.0, 0.95, 0.9, 0.875)
_METHODS = ("bilinear", "bicubic", "lanczos")
#: sizes are tried between these multiples of the present one, as the cost grows with their square
_SMALLEST, _LARGEST = 1 / 8, 1.8


@dataclass(frozen=True)
class Alternative:
    """One other value of one setting.

    Args:
        setting: its name; alternatives of one setting exclude each other.
        name: for people.
        options: the options of ``extract_features`` that choose it.
        beside: whether it changes a second setting, which costs nothing, too.
    """

    setting: str
    name: str
    options: dict[str, Any]
    beside: bool = False


def both(one: Alternative, other: Alternative) -> Alternative:
    """Two alternatives at once, as one of the setting of the first."""
    return Alternative(one.setting, f"{one.name}, {other.name}", {**one.options, **other.options}, beside=True)


def pixel_alternatives(now: Preprocess, channels: int, side: int | None) -> list[Alternative]:
    """Every plausible other value of each setting of a transform.

    Args:
        now: the transform.
        channels: of the images.
        side: of the images as they are stored, in pixels, where they are all square and of one size; else None.
    """
    return [*_statistics(now, channels), *_channels(now, channels), *_resizing(now), *_sizes(now, side)]


def _statistics(now: Preprocess, channels: int) -> list[Alternative]:
    alternatives = [
        Alternative("statistics", name, {"mean": mean, "std": std})
        for name, (mean, std) in STATISTICS.items()
        if {len(mean), len(std)} <= {1, channels} and (channels == 1) >= (name in _GREY)
        if not (_same(mean, now.mean) and _same(std, now.std))
    ]
    if channels == 3:
        options = {"mean": _CAFFE, "std": _PIXEL_RANGE, "channels": "bgr"}
        alternatives.append(Alternative("statistics", "Caffe: BGR, mean of ImageNet, pixels in 0..255", options))
    return alternatives


def _same(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    size = max(len(one), len(other))
    return one * (size // len(one)) == other * (size // len(other))


def _channels(now: Preprocess, channels: int) -> list[Alternative]:
    other = "bgr" if now.channels == "rgb" else "rgb"
    return [Alternative("channels", f"channels {other.upper()}", {"channels": other})] if channels == 3 else []


def _resizing(now: Preprocess) -> list[Alternative]:
    """Other interpolations, and other parts of the resized image."""
    if now.resize is None:
        return []
    alternatives = [
        Alternative("interpolation", f"interpolation {method}", {"interpolation": method})
        for method in _METHODS
        if method != now.interpolation
    ]
    return alternatives + [
        Alternative("crop", f"crop fraction {fraction:g}", {"crop_pct": fraction})
        for fraction in CROP_FRACTIONS
        if now.crop is not None and now.changed(crop_pct=fraction) != now
    ]


def _sizes(now: Preprocess, side: int | None) -> list[Alternative]:
    present = now.crop or now.resize or side
    if present is None:  # images of many sizes, taken whole
        sizes: list[int] = list(SIZES)
    else:
        sizes = [size for size in SIZES if _SMALLEST * present <= size <= max(_LARGEST * present, 64)]
    alternatives = [
        Alternative("size", f"size {size}", {"img_size": size}) for size in sizes if size not in (present, side)
    ]
    if side is not None and now.resizes and now.changed(img_size=side, crop_pct=1.0) != now:
        options = {"img_size": side, "crop_pct": 1.0}
        alternatives.append(Alternative("size", f"size {side}, as the images are", options))
    return alternatives
