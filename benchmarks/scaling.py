"""Cost grows as claimed: seconds and memory of every method's core against N, C and D, in steps of two.

python -m benchmarks.scaling                  three to four minutes on one thread
python -m benchmarks.scaling small            seconds

Every line is the slope of log cost against log size, the other sizes fixed. Claimed is the work that the algorithm
does, so 1 at most, but for the set-up of convex cRT: N labels are sorted, and a covariance of 4096 rows, D², has its
eigenvectors found, D³. Features are float16 and read block by block, as from a file; what is counted as memory comes on
top of them. Against N it does not grow once there are blocks enough for all threads, but where a method must keep some
numbers for each row (the ends of its interval, its place in the batches or among the rows of its class): there, bytes
per row are stated, beside those of the row itself.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from benchmarks.fitting import crt_sgd, held_below, nearest_class_mean
from benchmarks.measure import Row, medians, peak_memory, plain_memory
from benchmarks.sweep import la_curve, tau_curve
from ltpost import FeatureSet, LinearHead
from ltpost.data.tensors import training_features, training_logits
from ltpost.evaluation import evaluate
from ltpost.fit.loss import Loss
from ltpost.fit.regression import Regression
from ltpost.fit.rescaling import Rescaling
from ltpost.fit.sampling import row_weights

SLACK = 0.15  # of an exponent: caches, and what does not grow


@dataclass(frozen=True)
class Sizes:
    """N rows, C classes, D features."""

    N: int
    C: int
    D: int


@dataclass(frozen=True)
class Core:
    """What is timed.

    ``start`` takes rows and a device to a function without arguments. ``data`` says which rows it reads: N x D
    features or N x C logits. ``time`` and ``memory`` are the exponents claimed, for N, C and D in turn; None where the
    size plays no part. ``row_bytes`` is the memory claimed per row, where it is not 0.
    """

    start: Callable[[FeatureSet, str], Callable[[], object]]
    data: str
    time: tuple[float | None, float | None, float | None] = (1, 1, 1)
    memory: tuple[float | None, float | None, float | None] = (0, 1, 1)
    row_bytes: int = 0


def regression(train: FeatureSet, device: str) -> Regression:
    """The objective of convex cRT."""
    where = torch.device(device)
    return Regression(
        training_features(train, where), *_labels_and_weights(train, device), train.num_classes, Loss().on(where)
    )


def scaling(train: FeatureSet, device: str) -> Rescaling:
    """The objective of convex LWS."""
    where = torch.device(device)
    logits = training_logits(train, where)
    return Rescaling(logits, *_labels_and_weights(train, device), train.joint, Loss().on(where), None)


def _labels_and_weights(train: FeatureSet, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    weights = row_weights(train.labels, np.bincount(train.labels))
    return torch.from_numpy(train.labels).to(device), torch.from_numpy(weights).to(device).float()


def one_pass(problem: Regression | Rescaling) -> Callable[[], object]:
    """Objective and gradient."""
    theta = problem.start()
    return lambda: problem(theta)


def tau(val: FeatureSet, device: str) -> Callable[[], object]:
    """The exact curve of tau-normalization."""
    return lambda: tau_curve(val, device=device)


def la(val: FeatureSet, device: str) -> Callable[[], object]:
    """The exact curve of logit adjustment."""
    return lambda: la_curve(val, device=device)


def set_up(train: FeatureSet, device: str) -> Callable[[], object]:
    """The preconditioner of convex cRT; that all rows are finite is checked before."""
    where = torch.device(device)
    labels, rows = _labels_and_weights(train, device), training_features(train, where)
    return lambda: Regression(rows, *labels, train.num_classes, Loss().on(where))


def epoch(train: FeatureSet, device: str) -> Callable[[], object]:
    """One of cRT sgd, its reading and checking included."""
    options = {"learning_rate": 0.1, "weight_decay": 5e-4, "batch_size": min(512, len(train))}
    return lambda: crt_sgd(train, epochs=1, device=device, **options)


CORES = {
    "exact tau curve, from logits": Core(tau, "logits", (1, 1, None), row_bytes=128),
    "exact la curve, from logits": Core(la, "logits", (1, 1, None), row_bytes=128),
    "exact tau curve, from features": Core(tau, "features", row_bytes=128),
    "evaluation, from features": Core(lambda s, d: lambda: evaluate(s.joint, s, device=d), "features"),
    "NCM": Core(lambda s, d: lambda: nearest_class_mean(s), "features", row_bytes=64),
    "cRT sgd, an epoch": Core(epoch, "features", row_bytes=64),
    "cRT convex, objective and gradient": Core(lambda s, d: one_pass(regression(s, d)), "features"),
    "cRT convex, set-up": Core(set_up, "features", (1, 0, 3), (0, 1, 2), row_bytes=64),
    "LWS convex, objective and gradient": Core(lambda s, d: one_pass(scaling(s, d)), "logits", (1, 1, None)),
}


def run(size: str, device: str = "cpu", repeats: int = 2) -> list[Row]:
    """All rows; ``small`` is for CI, every other size gives the same table."""
    small = size == "small"
    base, steps, repeats = (Sizes(256, 8, 8), 2, 1) if small else (Sizes(65_536, 128, 256), 4, repeats)
    rows = []
    which = [(axis, name) for axis in "NCD" for name, core in CORES.items() if core.time["NCD".index(axis)] is not None]
    for axis, name in which:
        seconds = measured(name, axis, base, steps, lambda cores: medians(cores, repeats), device)
        claimed = CORES[name].time["NCD".index(axis)]
        rows.append(exponent(f"{name}: time", axis, seconds, claimed))
    if device == "cpu" and can_measure_memory():
        with plain_memory() as process:
            for axis, name in which:
                start = replace(base, N=4 * base.N) if axis == "N" else base  # so many rows that all blocks are whole
                peaks = process.submit(measured, name, axis, start, steps, peaks_of).result()
                core = CORES[name]
                if axis == "N" and core.row_bytes:
                    rows.append(bytes_per_row(name, core, base, peaks))
                else:
                    rows.append(exponent(f"{name}: memory", axis, peaks, core.memory["NCD".index(axis)]))
    return [replace(row, goal="") for row in rows] if small else rows


def can_measure_memory() -> bool:
    """Whether the kernel lets the highest resident size be set back."""
    return os.access("/proc/self/clear_refs", os.W_OK)


def measured(
    name: str,
    axis: str,
    base: Sizes,
    steps: int,
    measure: Callable[[dict[str, Callable[[], object]]], dict[str, float]],
    device: str = "cpu",
) -> dict[int, float]:
    """Size to cost, from half the base size upwards."""
    sizes = [getattr(base, axis) * 2**step // 2 for step in range(steps)]
    core = CORES[name]
    splits = {str(size): made_up(replace(base, **{axis: size}), core.data) for size in sizes}
    with held_below(0):
        costs = measure({size: core.start(split, device) for size, split in splits.items()})
    return dict(zip(sizes, costs.values(), strict=True))


def peaks_of(cores: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Bytes; after a run that does not count, and at least a page."""
    for function in cores.values():
        function()
    return {name: max(4096.0, peak_memory(function)) for name, function in cores.items()}


def exponent(name: str, axis: str, costs: dict[int, float], claimed: float) -> Row:
    """The slope of the least-squares line through log cost against log size."""
    value = float(np.polyfit(np.log(list(costs)), np.log(list(costs.values())), 1)[0])
    span = f"{axis} = {min(costs):,} to {max(costs):,}"
    return Row(f"{name} against {span}", value, f"exponent of {axis}", f"<= {claimed + SLACK}")


def bytes_per_row(name: str, core: Core, base: Sizes, peaks: dict[int, float]) -> Row:
    """The slope of the line through memory against N."""
    value = float(np.polyfit(list(peaks), list(peaks.values()), 1)[0])
    row = 2 * base.D if core.data == "features" else 4 * base.C
    span = f"N = {min(peaks):,} to {max(peaks):,}"
    return Row(f"{name}: memory against {span}", value, f"bytes a row, itself {row}", f"<= {core.row_bytes}")


def made_up(size: Sizes, data: str) -> FeatureSet:
    """Random rows of equally frequent classes, in random order, as the sweep, which sorts them, likes least."""
    random = np.random.default_rng(0)
    labels = random.permutation(size.N) % size.C
    counts = 1 + np.arange(size.C)[::-1]
    weight = random.standard_normal((size.C, size.D), dtype=np.float32) * (counts[:, None] / size.C) ** 0.2
    head = LinearHead(weight, np.zeros(size.C))
    width = size.D if data == "features" else size.C
    matrix = random.standard_normal((size.N, width), dtype=np.float32)
    if data == "features":
        return FeatureSet(matrix.astype(np.float16), labels, head=head, class_counts=counts)
    return FeatureSet(labels=labels, logits=matrix, head=head, class_counts=counts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", nargs="?", default="full")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    for row in run(args.size, args.device):
        print(f"{row.name:<75} {row.value:10.3g} {row.unit:<25} {row.goal:<8} {row.verdict}", flush=True)
