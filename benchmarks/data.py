"""Made-up feature files of the sizes of the usual benchmarks, streamed to disk once and kept in ``benchmarks/cache/``.

Features look like those of a residual network after its last ReLU and pooling: non-negative, norms of 20 to 40, a
covariance with a decaying spectrum, classes that overlap, and training rows that are sharper than unseen ones. The
joint head's weight norms grow with the class counts, as closely as those of real networks do, and its bias is small.
The class counts follow the benchmarks' own extremes and totals.

    python -m benchmarks.data imagenet-lt
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from scipy.special import ndtr, ndtri
from tqdm.auto import tqdm

import ltpost
from ltpost.data.class_sums import class_sums
from ltpost.data.write import create_file, finish_file, partial_name
from ltpost.heads import LinearHead

CACHE = Path(__file__).parent / "cache"
FACTORS = 128  # directions that rows of all classes share
SEEN_MORE = 25  # a trained head knows rare classes better than the means of their few rows
VERSION = 2  # change it when the data changes


@dataclass(frozen=True)
class Size:
    """How big a benchmark is.

    ``train`` rows in all, from ``most`` to ``least`` per class with ``spread`` the standard deviation of log n_c (it
    decides how many classes are many- and few-shot); ``val`` and ``test`` rows per class.
    """

    classes: int
    features: int
    train: int
    most: int
    least: int
    spread: float
    val: int
    test: int


SIZES = {
    "small": Size(100, 64, 10_000, 480, 5, 1.5, 20, 50),
    "imagenet-lt": Size(1000, 2048, 115_846, 1280, 5, 1.157, 20, 50),
    "inat18": Size(8142, 2048, 437_513, 1000, 2, 1.055, 3, 0),
}


def class_counts(size: Size) -> np.ndarray:
    """(C,) decreasing, ``train`` in all: quantiles of a log-normal, cut off at ``most`` and ``least``."""
    rank = (np.arange(size.classes) + 0.5) / size.classes
    quantiles = ndtri(1 - rank)

    def profile(location: float) -> np.ndarray:
        return np.exp(location + size.spread * quantiles).round().clip(size.least, size.most).astype(np.int64)

    low, high = 0.0, 10.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if profile(middle).sum() > size.train else (middle, high)
    counts = profile(low)
    counts[0], counts[-1] = size.most, size.least
    middle = size.classes // 3
    missing = size.train - counts.sum()
    counts[middle : middle + abs(missing)] += np.sign(missing)  # what rounding left over
    return np.sort(counts)[::-1]


def folder(name: str) -> Path:
    """The folder with train.h5, val.h5 and test.h5 of a size; made when it is not there yet."""
    size = SIZES[name]
    path = CACHE / f"{name}-{VERSION}"
    if not (path / "val.h5").is_file():
        maker = _Maker(size)
        maker.write(path / "train.h5", maker.counts, sharpness=1.25)
        head = joint_head(ltpost.load(path / "train.h5"), maker.counts, maker.expected())
        with h5py.File(path / "train.h5", "r+") as file:
            file["head/weight"], file["head/bias"] = head.weight, head.bias
        if size.test:
            maker.write(path / "test.h5", np.full(size.classes, size.test), head=head)
        maker.write(path / "val.h5", np.full(size.classes, size.val), head=head)
    return path


def joint_head(train: ltpost.FeatureSet, counts: np.ndarray, expected: np.ndarray) -> LinearHead:
    """Class means, as if of ``SEEN_MORE`` more rows, as far as they differ from the mean of all in direction."""
    means = (class_sums(train) + SEEN_MORE * expected) / (counts + SEEN_MORE)[:, None]
    centre = means.mean(0)
    weight = means - np.outer(means @ centre, centre) / (centre @ centre)
    # log norm and log count correlate at .96, as in a ResNet-32 trained on CIFAR-100-LT
    noise = np.exp(0.04 * np.random.default_rng(2).standard_normal(len(counts)))
    norms = 3.5 * (counts / counts.max()) ** 0.12 * noise
    weight *= (norms / np.linalg.norm(weight, axis=1))[:, None]
    return LinearHead(weight, 0.1 * np.log(counts / counts.sum() * len(counts)))


class _Maker:
    """Draws rows of the classes of one size."""

    def __init__(self, size: Size):
        self.size, self.counts = size, class_counts(size)
        random = np.random.default_rng(0)
        shape = (size.classes, size.features)
        self.means = 0.22 * random.standard_normal(shape, dtype=np.float32) - 0.13
        decay = np.arange(1, FACTORS + 1, dtype=np.float32)[:, None] ** -0.5
        self.factors = 0.35 * decay * random.standard_normal((FACTORS, size.features), dtype=np.float32)
        self.means *= max(1.0, (250 / size.features) ** 0.5)  # few features need classes further apart

    def expected(self) -> np.ndarray:
        """(C, D), the mean features of every class: E max(0, m + s g), g normal."""
        s = np.sqrt(0.25 + np.square(self.factors).sum(0))
        return self.means * ndtr(self.means / s) + s * np.exp(-0.5 * np.square(self.means / s)) / np.sqrt(2 * np.pi)

    def write(self, path: Path, counts: np.ndarray, sharpness: float = 1.0, head: LinearHead | None = None) -> None:
        """A split with ``counts`` rows per class, in random order."""
        random = np.random.default_rng([1, len(path.stem)])
        labels = random.permutation(np.repeat(np.arange(self.size.classes), counts))
        shape = (len(labels), self.size.features)
        datasets = {"features": (shape, np.float16)}
        if head is not None:
            datasets["logits"] = ((shape[0], self.size.classes), np.float32)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = partial_name(path)
        create_file(partial, labels, datasets, head=head, class_counts=self.counts, attrs={"split": path.stem})
        with h5py.File(partial, "r+") as file:
            for start in tqdm(range(0, shape[0], 4096), desc=str(path.name), disable=None):
                part = slice(start, start + 4096)
                n = len(labels[part])
                block = 0.5 * random.standard_normal((n, shape[1]), dtype=np.float32)
                block += random.standard_normal((n, FACTORS), dtype=np.float32) @ self.factors
                block /= sharpness
                block += self.means[labels[part]]
                features = np.maximum(block, 0, out=block).astype(np.float16)
                file["features"][part] = features
                if head is not None:
                    file["logits"][part] = head.logits(features)
        finish_file(partial, path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", choices=SIZES)
    print(folder(parser.parse_args().size))
