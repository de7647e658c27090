"""How much earlier layers add to the last one: CIFAR-100-LT, ResNet-32, over random val/test splits of the test rows.

    LTPOST_SHARED_DATA=… python -m benchmarks.layers FOLDER --splits 5

FOLDER keeps the features (train.h5 and all_test.h5, both with two views of every image, plain and flipped) from run to
run. Prints mean per-class test accuracy per method, mean and standard deviation over the splits, and the difference to
tnorm on the same rows.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

import ltpost
from ltpost import Experiment, FeatureSet, LinearHead
from ltpost.data.layers import Layer
from ltpost.data.rows import Rows
from ltpost.data.view_means import mean_of_views
from ltpost.extract.networks.cifar_resnet import CifarResNet
from ltpost.report.results import Result

#: name of a layer to the side of the square that its map is averaged to: the end of stage 2, two blocks of stage 3
TAPS = {"layer2": 4, "layer3.0": 2, "layer3.2": 2}
MEAN, STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
METHODS = ("tnorm", "la", "ncm", "lda", "layers")


def network(checkpoint: Path) -> CifarResNet:
    """The trained network."""
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    model = CifarResNet(32, 100)
    model.load_state_dict({key.removeprefix("module."): value for key, value in state.items()})
    return model.eval()


def forward(model: CifarResNet, images: np.ndarray) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Pooled features (n, 64), and those of the layers, of images (N, 32, 32, 3) uint8, block by block."""
    taken: dict[str, Tensor] = {}

    def keep(name: str, side: int) -> object:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            taken[name] = adaptive_avg_pool2d(output, side).flatten(1)

        return model.get_submodule(name).register_forward_hook(hook)

    for name, side in TAPS.items():
        keep(name, side)
    model.linear.register_forward_pre_hook(lambda module, inputs: taken.update(features=inputs[0]))
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    with torch.inference_mode():
        for start in range(0, len(images), 256):
            pixels = torch.from_numpy(images[start : start + 256]).permute(0, 3, 1, 2).float() / 255
            model((pixels - mean) / std)
            layers = {name: taken[name].half().numpy() for name in TAPS}
            yield taken["features"].numpy(), layers


def extract(model: CifarResNet, images: np.ndarray, labels: np.ndarray, counts: np.ndarray, split: str) -> FeatureSet:
    """The rows of a split: every image as it is (view 0), then every image flipped (view 1)."""
    both = (images, np.ascontiguousarray(images[:, :, ::-1]))
    blocks = [block for part in both for block in forward(model, part)]
    layers = {
        name: Layer(
            Rows(np.concatenate([stored[name] for _, stored in blocks])),
            {"module": name, "pooling": f"average {side}x{side}"},
        )
        for name, side in TAPS.items()
    }
    weight, bias = model.linear.weight.detach().numpy(), model.linear.bias.detach().numpy()
    return FeatureSet(
        np.concatenate([features for features, _ in blocks]),
        np.tile(labels.astype(np.int64), 2),
        head=LinearHead(weight, bias),
        class_counts=counts,
        sample=np.tile(np.arange(len(labels)), 2),
        view=np.repeat([0, 1], len(labels)),
        layers=layers,
        split=split,
    )


def prepare(folder: Path, shared: Path) -> None:
    """Write ``train.h5`` and ``all_test.h5`` where they are not there yet."""
    data = shared / "cifar100lt_resnet32"
    images, model = np.load(data / "images.npz"), network(data / "resnet32_cifar100lt.pth.tar")
    for split, name in (("train", "train"), ("test", "all_test")):
        if not (folder / f"{name}.h5").is_file():
            rows = extract(model, images[f"x_{split}"], images[f"y_{split}"], images["class_counts"], split)
            rows.save(folder / f"{name}.h5")


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
