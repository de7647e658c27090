"""Several views of an image: augmented ones for the training split, averaged ones at test time.

The random numbers of a view depend on (seed, sample, view) alone: workers, batches and processes change nothing.

Augmentation "standard" is the field's usual one: a random crop of 8 % to 100 % of the area and an aspect ratio of 3/4
to 4/3, resized to the input size, or for small images a random crop after 4 pixels of black padding; then a flip with
probability 1/2. NOTE[DIFF] no colour jitter: classifier-balancing adds it for ImageNet-LT and Places-LT, others
do not.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltpost.errors import UsageError
from ltpost.extract.pixels.preprocess import Preprocess, as_image

AUGMENTS = ("standard", "none")
#: of test-time augmentation, to how many fixed variants of an image it has
VARIANTS = {"off": 1, "flip": 2, "five-crop": 5}
_AREA, _LOG_RATIO = (0.08, 1.0), math.log(4 / 3)
_PADDING = 4


@dataclass(frozen=True)
class Views:
    """How each image is shown.

    Args:
        preprocess: the evaluation transform.
        count: K rows per image; row k of image i is view k, at i * K + k.
        augment: "standard" or "none".
        tta: "off", "flip" (the image and its mirror image) or "five-crop". With one row per image, its features are
            the mean over these variants, and so are its logits, which are linear in them. With as many rows as there
            are variants, view k is variant k.
        seed: seed of the augmentation.

    Raises:
        UsageError: a value is not one of these.
    """

    preprocess: Preprocess
    count: int = 1
    augment: str = "none"
    tta: str = "off"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UsageError(f"views= must be at least 1, but is {self.count}")
        if self.seed < 0:
            raise UsageError(f"seed= must be at least 0, but is {self.seed}")
        for option, value, known in (("augment", self.augment, AUGMENTS), ("tta", self.tta, tuple(VARIANTS))):
            if value not in known:
                raise UsageError(f"{option}= must be one of {', '.join(known)}, but is '{value}'")
        if self.tta != "off" and self.augment != "none":
            raise UsageError("tta= averages fixed variants of an image; it cannot go with augment=standard")
        if self.tta != "off" and self.count not in (1, VARIANTS[self.tta]):
            raise UsageError(
                f"views= with tta={self.tta} must be 1, which averages the variants of an image, or "
                f"{VARIANTS[self.tta]}, which stores each as a row, but is {self.count}"
            )
        if self.tta == "five-crop" and self.preprocess.crop is None:
            raise UsageError("tta=five-crop needs img_size= and crop_pct=: the images are taken whole here")

    @property
    def variants(self) -> int:
        """The number of inputs that make one row."""
        return VARIANTS[self.tta] if self.count == 1 else 1

    def attrs(self) -> dict[str, str]:
        """The attributes that are stored with the features; none where each image is shown once, unchanged."""
        settings = {"count": self.count, "augment": self.augment, "tta": self.tta, "seed": self.seed}
        plain = (self.count, self.augment, self.tta) == (1, "none", "off")
        return {} if plain else {"views": json.dumps(settings)}

    def columns(self, samples: int) -> dict[str, NDArray[np.int64]]:
        """``sample`` and ``view`` of every row; none where each image is shown once."""
        if self.count == 1:
            return {}
        return {"sample": np.repeat(np.arange(samples), self.count), "view": np.tile(np.arange(self.count), samples)}

    def refusal(self, image: Any) -> str | None:
        """Why an image cannot be cut to size, or None."""
        return None if self.augment == "standard" else self.preprocess.refusal(image)

    def cut(self, image: Any, sample: int, view: int) -> list[NDArray[np.uint8]]:
        """The pixels (h, w, channels) of all variants of one view of an image (PIL, or an array)."""
        if self.augment == "standard":
            return [self._augmented(image, np.random.default_rng([self.seed, sample, view]))]
        if self.tta == "five-crop":
            cut = self._five(self.preprocess.resized(image))
        else:
            pixels = self.preprocess.cut(image)
            cut = [pixels, pixels[:, ::-1]] if self.tta == "flip" else [pixels]
        return cut if len(cut) == self.variants else [cut[view]]

    def _augmented(self, image: Any, rng: np.random.Generator) -> NDArray[np.uint8]:
        crop = self.preprocess.crop
        pixels = _padded_crop(np.asarray(image), rng) if crop is None else self._resized_crop(image, crop, rng)
        return pixels[:, ::-1] if rng.random() < 0.5 else pixels

    def _resized_crop(self, image: Any, crop: int, rng: np.random.Generator) -> NDArray[np.uint8]:
        image = as_image(image)
        return self.preprocess.resample(image, (crop, crop), _random_box(image.width, image.height, rng))

    def _five(self, image: Any) -> list[NDArray[np.uint8]]:
        """The crops at the four corners and the centre."""
        crop, pixels = self.preprocess.crop, np.asarray(image)
        assert crop is not None
        top, left = max(pixels.shape[0] - crop, 0), max(pixels.shape[1] - crop, 0)
        corners = [(0, 0), (0, left), (top, 0), (top, left), (round(top / 2), round(left / 2))]
        cut = [pixels[y : y + crop, x : x + crop] for y, x in corners]
        return [part if part.ndim == 3 else part[:, :, None] for part in cut]


def _random_box(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a random part; the whole image where ten draws do not fit."""
    for _ in range(10):
        area = width * height * rng.uniform(*_AREA)
        ratio = math.exp(rng.uniform(-_LOG_RATIO, _LOG_RATIO))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    return 0, 0, width, height


def _padded_crop(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    pixels = pixels if pixels.ndim == 3 else pixels[:, :, None]
    height, width, _ = pixels.shape
    padded = np.pad(pixels, ((_PADDING, _PADDING), (_PADDING, _PADDING), (0, 0)))
    top, left = rng.integers(2 * _PADDING + 1, size=2)
    return padded[top : top + height, left : left + width]
