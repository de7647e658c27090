"""How an image becomes the input of a network: resize, centre crop, x/255, mean and std.

The loader's workers cut the pixels to size (uint8); the device scales and normalises whole batches. Pillow resizes, as
in torchvision's presets and timm's evaluation transforms: the result is the same bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltpost.errors import DataError, UsageError
from ltpost.extract.messages import need

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: the statistics of CIFAR-10; much long-tail code uses them for CIFAR-100 too (kaidic/LDAM-DRW)
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
_LARGEST_SIDE = 2**14
CHANNELS = ("rgb", "bgr")
_LARGEST_AREA = 2**26  # pixels of an image that is resized by its shorter side
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")


@dataclass(frozen=True)
class Preprocess:
    """The evaluation transform.

    Args:
        resize: the shorter side is resized to this many pixels; None leaves the size as it is.
        crop: side of the centre crop in pixels; None takes the whole image.
        squash: resize both sides, and ignore the aspect ratio.
        interpolation: one of ``INTERPOLATIONS``.
        mean, std: mean and standard deviation of the channels, for pixels in 0..1, in the order of the image (RGB).
        channels: "rgb", or "bgr" for networks that take them in the order of OpenCV and Caffe.
    """

    resize: int | None = None
    crop: int | None = None
    squash: bool = False
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    channels: str = "rgb"

    def __post_init__(self) -> None:
        if self.interpolation not in INTERPOLATIONS:
            raise UsageError(
                f"interpolation= must be one of {', '.join(INTERPOLATIONS)}, but is '{self.interpolation}'"
            )
        if not self.std or any(not 0 < value < math.inf for value in self.std):
            raise UsageError(f"std= must be positive, but is {list(self.std)}")
        if not self.mean or any(not math.isfinite(value) for value in self.mean):
            raise UsageError(f"mean= must be numbers, but is {list(self.mean)}")
        if self.channels not in CHANNELS:
            raise UsageError(f"channels= must be rgb or bgr, but is '{self.channels}'")
        if min(1 if side is None else side for side in (self.resize, self.crop)) < 1:
            raise UsageError(f"img_size= must be at least 1, but is {min(self.resize or 0, self.crop or 0)}")
        if max(self.resize or 0, self.crop or 0) > _LARGEST_SIDE:
            raise UsageError(
                f"img_size= and crop_pct= must give images of at most {_LARGEST_SIDE} pixels a side, but give "
                f"{max(self.resize or 0, self.crop or 0)}"
            )

    @property
    def resizes(self) -> bool:
        """Whether an image is resized or cropped."""
        return self.resize is not None or self.crop is not None

    def to_json(self) -> dict[str, Any]:
        """The settings, as they are stored with the features."""
        stored = {**asdict(self), "mean": list(self.mean), "std": list(self.std)}
        if self.channels == "rgb":
            del stored["channels"]
        return stored

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Preprocess:
        """The transform that :meth:`to_json` gave."""
        if "prepared" in stored:
            raise UsageError(f"the features are of no images ({stored['prepared']}), so images cannot be run here")
        return cls(**{**stored, "mean": tuple(stored["mean"]), "std": tuple(stored["std"])})

    def changed(
        self,
        *,
        img_size: int | None = None,
        crop_pct: float | None = None,
        interpolation: str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        channels: str | None = None,
    ) -> Preprocess:
        """This transform with some settings replaced; ``resize`` follows as floor(img_size / crop_pct)."""
        new = self
        if img_size is not None and img_size < 1:
            raise UsageError(f"img_size= must be at least 1, but is {img_size}")
        if img_size is not None or crop_pct is not None:
            crop = img_size or self.crop
            if crop is None:
                raise UsageError("crop_pct= needs img_size=: this architecture has no input size of its own")
            if crop_pct is not None and not 0 < crop_pct <= 1:
                raise UsageError(f"crop_pct= must be above 0 and at most 1, but is {crop_pct}")
            pct = crop_pct or (self.crop / self.resize if self.crop and self.resize else 1.0)
            resize = math.floor(crop / pct + 1e-6)
            new = replace(new, crop=crop, resize=resize)
        changes = {
            "interpolation": interpolation,
            "mean": mean and tuple(mean),
            "std": std and tuple(std),
            "channels": channels,
        }
        return replace(new, **{key: value for key, value in changes.items() if value is not None})

    def cut(self, image: Any) -> NDArray[np.uint8]:
        """Cut a PIL image, or an array (h, w, channels), to uint8 pixels (h, w, channels)."""
        if not self.resizes:
            return _channels_last(np.asarray(image))
        image = self.resized(image)
        if self.crop is not None and image.size != (self.crop, self.crop):
            left, top = _offset(image.width, self.crop), _offset(image.height, self.crop)
            image = image.crop((left, top, left + self.crop, top + self.crop))
        return _channels_last(np.asarray(image))

    def refusal(self, image: Any) -> str | None:
        """Why a PIL image or an array cannot be resized, or None: a long and thin one becomes a very large one."""
        width, height = image.shape[1::-1] if isinstance(image, np.ndarray) else image.size
        if self.resize is None or self.squash:
            return None
        new_width, new_height = _shorter_side((width, height), self.resize)
        too_large = new_width * new_height > _LARGEST_AREA
        return f"{width} x {height} is too long and thin to resize to {new_width} x {new_height}" if too_large else None

    def resized(self, image: Any) -> Any:
        """The PIL image before the crop."""
        image = as_image(image)
        if self.resize is None:
            return image
        size = (self.resize, self.resize) if self.squash else _shorter_side(image.size, self.resize)
        return image.resize(size, self._method())

    def resample(self, image: Any, size: tuple[int, int], box: tuple[int, int, int, int]) -> NDArray[np.uint8]:
        """Cut ``box`` (left, top, right, bottom) out of a PIL image, and resize it to ``size``, as pixels."""
        return _channels_last(np.asarray(image.resize(size, self._method(), box=box)))

    def _method(self) -> Any:
        from PIL import Image

        return Image.Resampling[self.interpolation.upper()]

    def normalise(self, pixels: Any) -> Any:
        """Turn a uint8 tensor (n, h, w, channels) into float32 (n, channels, h, w), channels last in memory."""
        channels = pixels.shape[-1]
        images = pixels.permute(0, 3, 1, 2).float().div_(255)
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                raise DataError(f"{name}= has {len(values)} values, but the images have {channels} channels")
        mean = images.new_tensor(self.mean).view(1, -1, 1, 1)
        std = images.new_tensor(self.std).view(1, -1, 1, 1)
        images = images.sub_(mean).div_(std)
        return images if self.channels == "rgb" else images.flip(1)

    def __str__(self) -> str:
        steps = []
        if self.resize is not None:
            steps.append(f"{'squash' if self.squash else 'resize'} to {self.resize} ({self.interpolation})")
        if self.crop is not None:
            steps.append(f"centre crop {self.crop}")
        numbers = [", ".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std)]
        steps.append(f"x/255, mean ({numbers[0]}), std ({numbers[1]})")
        return ", ".join([*steps, *([] if self.channels == "rgb" else [self.channels.upper()])])


def as_image(image: Any) -> Any:
    """Turn an array into a PIL image; leave a PIL image as it is.

    Raises:
        UsageError: Pillow is not installed.
    """
    if not isinstance(image, np.ndarray):
        return image
    try:
        from PIL import Image
    except ImportError:
        raise need("pillow", "resizing images (img_size=)") from None
    return Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image)


def _channels_last(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _shorter_side(size: tuple[int, int], shorter: int) -> tuple[int, int]:
    """Width and height, of which the smaller one is ``shorter``. The other is rounded down, as torchvision does."""
    width, height = size
    if width <= height:
        return shorter, int(shorter * height / width)
    return int(shorter * width / height), shorter


def _offset(size: int, crop: int) -> int:
    """The first pixel of a centre crop; negative where the image is smaller (the rest is black)."""
    return round((size - crop) / 2.0) if size >= crop else -((crop - size) // 2)
