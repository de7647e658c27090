"""Draw the pictures of README.md from the shared CIFAR-100-LT features (see CONTRIBUTING.md); no data is kept here.

Its folder is LTPOST_SHARED_DATA, by default ../shared/data.
"""

import os
import sys
import tempfile
from pathlib import Path

import matplotlib as mpl
import numpy as np

from ltpost import Experiment, FeatureSet, LinearHead, compare
from ltpost.comparison import compare_report
from ltpost.report.results import Report


def feature_files(shared: Path, folder: Path) -> None:
    """features.npz of the ResNet-32 to train, val and test files."""
    with np.load(shared / "cifar100lt_resnet32" / "features.npz") as file:
        arrays = dict(file)
    head = LinearHead(arrays["weight"], arrays["bias"])
    with np.load(shared / "cifar100lt_resnet32" / "split_seed0.npz") as file:
        splits = {"val": file["val_rows"], "test": file["test_rows"]}  # drawn at random, 20 and 80 rows per class
    for split, rows in splits.items():
        features, labels = arrays["feat_test"][rows], arrays["y_test"][rows]
        FeatureSet(features, labels, head=head, class_counts=arrays["class_counts"]).save(folder / f"{split}.h5")
    train = FeatureSet(arrays["feat_train"], arrays["y_train"], head=head, class_counts=arrays["class_counts"])
    train.save(folder / "train.h5")


def main() -> None:
    """Compare, and draw what test says."""
    mpl.use("Agg")
    here = Path(__file__).parent
    shared = Path(os.environ.get("LTPOST_SHARED_DATA", here.parents[1] / "shared" / "data"))
    with tempfile.TemporaryDirectory() as folder:
        feature_files(shared, Path(folder))
        results = compare_report(compare(Experiment(folder))).results
    test = Report([result for result in results if result.split == "test"])
    sys.stdout.write(f"{test}\n")
    ax = test.plot(width=8.5)
    ax.set_title("CIFAR-100-LT, ResNet-32", loc="left", fontsize=10)
    ax.figure.savefig(here / "cifar100lt.png", dpi=110)


if __name__ == "__main__":
    main()
