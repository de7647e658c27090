"""All of ltpost on real images in seconds: ``ltpost demo``. Examples and tests use parts of it.

scikit-learn's digits are made long-tailed, and a small network is trained on them with plain cross entropy. Then come
the usual steps: a checkpoint, feature files, heads chosen on val and reported on test, and a checkpoint again. Each
step is one call of the library; :func:`run_demo` prints the command that does the same.
"""

from __future__ import annotations

import io
import shlex
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad
from tqdm.auto import trange

from ltpost.comparison import compare, compare_report
from ltpost.data.folder import FeatureFolder
from ltpost.errors import DataError, UsageError
from ltpost.experiment import Experiment
from ltpost.figures import new_axes, save
from ltpost.outcome import Outcome
from ltpost.output import replacing
from ltpost.plots import plot_norms
from ltpost.report.results import Report, Result
from ltpost.scores.predict import predict
from ltpost.tables import percent

ARCH = "ltpost.demo:digits_cnn"
NUM_CLASSES = 10
MOST_SAMPLES, VAL_SAMPLES, TEST_SAMPLES = 100, 20, 40  # per class; digits has at least 174 of each
MANY_SHOT, FEW_SHOT = 40, 10  # 100 and 20 are usual, but here no class has more than 100
EPOCHS, BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY = 40, 32, 0.1, 5e-3

#: images (N, 8, 8) uint8 and labels (N,) int64
Split = tuple[NDArray[np.uint8], NDArray[np.int64]]


def long_tailed_digits(imbalance: float = 50.0, seed: int = 0) -> dict[str, Split]:
    """scikit-learn's digits with a long tail, and balanced splits beside it.

    n_c = 100 · imbalance^(-c / 9), the exponential profile of Cui et al., CVPR 2019; class 0 is the most frequent.

    Args:
        imbalance: n_0 / n_9, at least 1.
        seed: of the choice of images.

    Returns:
        "train", "val" (20 per class) and "test" (40 per class): images (N, 8, 8) uint8, labels (N,).

    Raises:
        UsageError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UsageError('the digits come with scikit-learn; install it with: pip install "ltpost[demo]"') from None
    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.int64)
    rng = np.random.default_rng(seed)
    counts = np.rint(MOST_SAMPLES * imbalance ** (-np.arange(NUM_CLASSES) / (NUM_CLASSES - 1))).astype(int)
    rows: dict[str, list[NDArray[np.int64]]] = {"train": [], "val": [], "test": []}
    for c, count in enumerate(counts):
        shuffled = rng.permutation(np.flatnonzero(labels == c))
        ends = np.cumsum([TEST_SAMPLES, VAL_SAMPLES, count])
        for split, part in zip(("test", "val", "train"), np.split(shuffled, ends), strict=False):
            rows[split].append(part)
    return {split: (images[np.concatenate(parts)], labels[np.concatenate(parts)]) for split, parts in rows.items()}


def digits_cnn(num_classes: int = NUM_CLASSES) -> nn.Module:
    """Three convolutions, D = 64 features, one linear classifier ``fc``; pixels in 0..1, (n, 1, 8, 8)."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 32, 3, padding=1, bias=False),
            bn1=nn.BatchNorm2d(32),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(32, 64, 3, padding=1, bias=False),
            bn2=nn.BatchNorm2d(64),
            relu2=nn.ReLU(),
            pool=nn.MaxPool2d(2),
            conv3=nn.Conv2d(64, 64, 3, padding=1, bias=False),
            bn3=nn.BatchNorm2d(64),
            relu3=nn.ReLU(),
            mean=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            fc=nn.Linear(64, num_classes),
        )
    )


def train_network(images: NDArray[np.uint8], labels: NDArray[np.int64], seed: int = 0) -> nn.Module:
    """A :func:`digits_cnn` trained with cross entropy and SGD, every image equally often, shifted by up to a pixel.

    Args:
        images: (N, 8, 8).
        labels: (N,).
        seed: of the weights and the batches.
    """
    x, y = torch.from_numpy(images)[:, None].float() / 255, torch.from_numpy(labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = digits_cnn()
        optimizer = torch.optim.SGD(
            model.parameters(), LEARNING_RATE, momentum=0.9, nesterov=True, weight_decay=WEIGHT_DECAY
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
        for _ in trange(EPOCHS, desc="train", unit="epoch", disable=None):
            for rows in torch.split(torch.randperm(len(x)), BATCH_SIZE):
                optimizer.zero_grad()
                cross_entropy(model(_shifted(x[rows])), y[rows]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            schedule.step()
    return model.eval()


def _shifted(images: Tensor) -> Tensor:
    """The batch, moved by up to one pixel in each direction."""
    row, column = torch.randint(0, 3, (2,)).tolist()
    return pad(images, (1, 1, 1, 1))[..., row : row + 8, column : column + 8]


@dataclass(frozen=True)
class Demo:
    """The results of :func:`run_demo`, and the folder of its files."""

    folder: Path
    outcomes: list[Outcome]
    chosen: Outcome
    checkpoint: Path
    equal_predictions: int
    commands: list[str]

    @property
    def report(self) -> Report:
        """The joint classifier and every method, on test."""
        rows = compare_report(self.outcomes).results
        return Report([result for result in rows if result.split == "test"])

    def _repr_html_(self) -> str:
        return self.report._repr_html_()


def run_demo(
    out: str | Path = "ltpost-demo", *, seed: int = 0, say: Callable[[str], object] = lambda line: None
) -> Demo:
    """From images to a rebalanced checkpoint.

    Args:
        out: a new folder, an empty one, or the folder of an earlier demo.
        seed: of the split, the network and the methods.
        say: a function that gets each line of the story; the command prints it.

    Raises:
        UsageError: the folder holds something else; scikit-learn or matplotlib is not installed.
        DataError: the folder cannot be written.
    """
    with _one_thread():
        return _run(_prepared(Path(out)), seed, say)


def _run(folder: Path, seed: int, say: Callable[[str], object]) -> Demo:
    paths = {name: folder / name for name in ("digits.npz", "digits_cnn.pth", "features", "heads", "results.csv")}
    data, checkpoint, features, heads, table = paths.values()
    commands: list[str] = []

    def command(*words: str | Path) -> None:
        commands.append("ltpost " + shlex.join(map(str, words)))
        say(f"   $ {commands[-1]}")

    splits = long_tailed_digits(seed=seed)
    counts = np.bincount(splits["train"][1])
    say(f"1. Images: scikit-learn's digits, {counts.sum()} to train on: {', '.join(map(str, counts))} of class 0 to 9,")
    say(
        f"   and balanced ones to choose on (val, {VAL_SAMPLES} per class) and to report (test, {TEST_SAMPLES}): {data}"
    )
    _save_digits(data, splits)

    say(f"2. Network: a small CNN, plain cross entropy, {EPOCHS} epochs: {checkpoint}")
    model = train_network(*splits["train"], seed=seed)
    content = {"arch": ARCH, "epoch": EPOCHS, "state_dict": model.state_dict(), "class_counts": counts.tolist()}
    _save_checkpoint(checkpoint, content)

    say("3. Features: what enters its classifier, computed once")
    for split in splits:
        command("extract", "--ckpt", checkpoint, "--arch", ARCH, "--data", data, "--split", split, "--out", features)
        _extract(checkpoint, data, split, features)

    say("4. Classifiers: each chosen on val and reported on test, in %. No class has more than 100 training images, so")
    say(f"   many-shot is above {MANY_SHOT} here, few-shot below {FEW_SHOT}; usual are 100 and 20")
    shots = ("--many-shot", str(MANY_SHOT), "--few-shot", str(FEW_SHOT))
    command("compare", "--features", features, *shots, "--heads", heads, "--csv", table, "--seed", str(seed))
    experiment = Experiment(FeatureFolder(features), many_shot=MANY_SHOT, few_shot=FEW_SHOT, seed=seed)
    outcomes = compare(experiment)
    for outcome in outcomes:
        outcome.save_head(heads / f"{outcome.method}.safetensors")
    compare_report(outcomes).to_csv(table)
    report = Report([outcome.results[0] for outcome in outcomes[:1]] + [_row(outcome, "test") for outcome in outcomes])
    say("\n" + str(report) + "\n")

    chosen = max(outcomes, key=lambda outcome: _row(outcome, "val").figures.all)
    joint, rebalanced, rarest = report.results[0], _row(chosen, "test"), int(counts.argmin())
    say(f"   Best on val: {chosen.method}. On test, from joint to {chosen.method}:")
    say(f"   mean over classes {percent(joint.figures.all)} -> {percent(rebalanced.figures.all)}")
    before, after = (percent(result.per_class[rarest]) for result in (joint, rebalanced))
    say(f"   class {rarest}    {before} -> {after}, with {counts[rarest]} training images\n")
    say(f"5. Pictures: {folder / 'results.png'}, {folder / 'norms.png'}")
    _draw(folder, experiment, outcomes, report)

    result, head = folder / f"digits_cnn-{chosen.method}.pth", heads / f"{chosen.method}.safetensors"
    say(f"6. Checkpoint with the classifier of {chosen.method}: {result}")
    command("export", "--head", head, "--ckpt", checkpoint, "--out", result, "--features", features)
    import_module("ltpost.extract.export").export_head(head, checkpoint, result, features=features)
    read_back = FeatureFolder(_extract(result, data, "test", folder / "rebalanced").parent)["test"]
    test = experiment.report_set
    equal = int((predict(read_back.joint, read_back) == predict(chosen.head, test)).sum())
    say(f"   read back: {equal} of {len(test)} predictions on test are those of the table")
    return Demo(folder, outcomes, chosen, result, equal, commands)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Arrays are so small here that more threads only wait for one another, for minutes on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def demo_features(folder: str | Path = "ltpost-demo") -> Path:
    """The feature files of an earlier demo, else of one that runs now; for examples and notebooks.

    Args:
        folder: see :func:`run_demo`.
    """
    features = Path(folder) / "features"
    if not all((features / f"{split}.h5").is_file() for split in ("train", "val", "test")):
        run_demo(folder)
    return features


def _prepared(folder: Path) -> Path:
    """The folder, made if it is not there; only one that is empty or an earlier demo is taken."""
    try:
        if folder.exists() and not (folder / "digits.npz").is_file() and any(folder.iterdir()):
            raise UsageError(f"--out {folder}: holds files that are not of an earlier demo; choose a new folder")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot be made ({error.strerror or error}); choose another --out") from None
    return folder


def _extract(checkpoint: Path, data: Path, split: str, folder: Path) -> Path:
    """``ltpost.extract.extract_features``; a call by name, since the core does not depend on it.

    What it tells beside is left out: its many/medium/few are those of the usual thresholds.
    """
    with redirect_stderr(io.StringIO()):
        written: Path = import_module("ltpost.extract").extract_features(
            checkpoint, data, split, folder, arch=ARCH, device="cpu"
        )
    return written


def _row(outcome: Outcome, split: str) -> Result:
    """What a method reached on a split."""
    return next(result for result in outcome.results if (result.split, result.name) == (split, outcome.method))


def _draw(folder: Path, experiment: Experiment, outcomes: list[Outcome], report: Report) -> None:
    """``results.png`` and ``norms.png``."""
    counts = experiment.report_set.class_counts
    assert counts is not None
    fitted = {outcome.method: outcome.head for outcome in outcomes if outcome.method in ("tnorm", "crt")}
    linear = {name: head.linear() for name, head in {"joint": experiment.joint, **fitted}.items()}
    known = {name: head for name, head in linear.items() if head is not None}
    pictures = {
        "results.png": report.plot(new_axes(1.35 * len(report.results) + 1.6, 3.8)),
        "norms.png": plot_norms(known, counts, new_axes(5.6, 4.0)),
    }
    for name, ax in pictures.items():
        save(ax, folder / name)


def _save_digits(path: Path, splits: dict[str, Split]) -> None:
    arrays: dict[str, Any] = {
        f"{letter}_{split}": array for split, pair in splits.items() for letter, array in zip("xy", pair, strict=True)
    }
    with replacing(path, "folder with --out") as partial, partial.open("wb") as file:
        np.savez(file, **arrays)


def _save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    with replacing(path, "folder with --out") as partial:
        torch.save(content, partial)
