"""How much earlier layers add to the last one: CIFAR-100-LT, ResNet-32, over random val/test splits of the test rows.

    LTPOST_SHARED_DATA=… python -m benchmarks.layers FOLDER --splits 5

FOLDER keeps the features (train.h5 and all_test.h5, both with two views of every image, plain and flipped) from run to
run. Prints mean per-class test accuracy per method, mean and standard deviation over the splits, and the difference to
tnorm on the same rows.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np

import ltpost
from ltpost import Experiment, FeatureSet
from ltpost.data.view_means import mean_of_views
from ltpost.extract import extract_features
from ltpost.report.results import Result

#: what ``auto`` takes of this network: the end of stage 2, and the first and the middle block of stage 3
TAPS = "layer2@4,layer3.0@2,layer3.2@2"
MEAN, STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
METHODS = ("tnorm", "la", "ncm", "lda", "layers")


def prepare(folder: Path, shared: Path) -> None:
    """Write ``train.h5`` and ``all_test.h5`` where they are not there yet: every image, and its mirror image."""
    data = shared / "cifar100lt_resnet32"
    for split, name in (("train", "train"), ("test", "all_test")):
        if not (folder / f"{name}.h5").is_file():
            extract_features(
                data / "resnet32_cifar100lt.pth.tar", data / "images.npz", split, folder / f"{name}.h5", mean=MEAN,
                std=STD, layers=TAPS, tta="flip", views=2, batch_size=256,
            )  # fmt: skip


def split_rows(labels: np.ndarray, seed: int, per_class: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of a random val split of ``per_class`` rows of every class, and of the rest."""
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    first = np.searchsorted(labels[order], labels[order], side="left")
    val = np.arange(len(order)) - first < per_class
    return np.sort(order[val]), np.sort(order[~val])


def one_split(folder: Path, train: FeatureSet, test: FeatureSet, seed: int) -> dict[str, ltpost.Outcome]:
    """Every method, chosen on a random val split and reported on the other rows."""
    for name, rows in zip(("val", "test"), split_rows(test.labels, seed), strict=True):
        part = test.subset(rows)
        part.split = name
        part.save(folder / f"{name}.h5")
    if not (folder / "train.h5").is_file():
        train.save(folder / "train.h5")
    experiment = Experiment(folder, progress=False)
    return {method: experiment.run(method) for method in METHODS}


def of_test(outcome: ltpost.Outcome, name: str = "") -> Result:
    """The row of a method, or of ``name``, on the test split."""
    wanted = ("test", name or outcome.method)
    return next(result for result in outcome.results if (result.split, result.name) == wanted)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--shared", type=Path, default=os.environ.get("LTPOST_SHARED_DATA", "../shared/data"))
    args = parser.parse_args()
    prepare(args.folder, args.shared)
    train, test = ltpost.load(args.folder / "train.h5"), ltpost.load(args.folder / "all_test.h5")
    plain = (train.subset(np.flatnonzero(train.view == 0)), test.subset(np.flatnonzero(test.view == 0)))
    flipped = (mean_of_views(train), mean_of_views(test))
    for title, parts in (("one view", plain), ("flip", flipped)):
        print(f"\n{title}: % on test, mean ± sd over {args.splits} splits (many / medium / few), against tnorm")
        scores: dict[str, list[list[float]]] = {}
        for seed in range(args.splits):
            outcomes = one_split(args.folder / title.replace(" ", "-"), *parts, seed)
            joint = of_test(outcomes["tnorm"], "joint")
            shown = {"joint": joint, **{name: of_test(outcome) for name, outcome in outcomes.items()}}
            for name, result in shown.items():
                figures = result.figures
                scores.setdefault(name, []).append([figures.many, figures.medium, figures.few, figures.all])
        table = {name: 100 * np.array(rows) for name, rows in scores.items()}
        for name, rows in table.items():
            many, medium, few, mean = rows.mean(0)
            spread, gain = rows[:, 3].std(), rows[:, 3] - table["tnorm"][:, 3]
            groups = f"({many:.1f} / {medium:.1f} / {few:.1f})"
            print(
                f"{name:8s} {mean:5.1f} ± {spread:.1f} {groups:22s} {gain.mean():+.1f} ± {gain.std():.1f}", flush=True
            )


if __name__ == "__main__":
    main()
