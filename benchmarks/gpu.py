"""Everything on one GPU: seconds, memory, shares of the GPU's own limits, and the same results as on the CPU.

What a session with a GPU has to run (CUDA build of torch, this package and its `test` extra; nothing is downloaded):

    python -m benchmarks.gpu --device cpu --size small    seconds; no GPU needed: does it all run and agree?
    python -m benchmarks.gpu --size small                 the same on the GPU
    python -m benchmarks.gpu --size imagenet-lt           a few minutes, with making the data (1 GB of files)
    python -m benchmarks.gpu --size inat18                longer, with making the data (3 GB of files); 40 GB of GPU
    python -m benchmarks --only gpu --device cuda         as above, and writes it into RESULTS.md

The first rows are the ceilings. What has a goal says whether it is met: a difference above it is a bug, a time above it
a task. float32 is IEEE float32: nothing here or in ltpost turns TF32 on; what it would give is among the ceilings. With
`--device cpu` torch's code runs on the CPU, not numpy's, and reads ahead from the file as for a GPU.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
import torch

import ltpost.data.tensors
from benchmarks.data import SIZES, folder
from benchmarks.fitting import (
    SOME_STEPS,
    ceilings,
    classes_of,
    crt_path,
    crt_sgd,
    held_below,
    lws_path,
    lws_sgd,
    nearest_class_mean,
    one_of_each,
    products,
    published_recipe,
)
from benchmarks.measure import Row, medians
from benchmarks.sweep import la_curve, tau_curve
from ltpost import FeatureFolder, FeatureSet
from ltpost.data.tensors import as_tensor
from ltpost.evaluation import evaluate

GOALS = {
    ("imagenet-lt", "tau curve"): "<= 0.05",
    ("imagenet-lt", "lws sgd, 5 epochs"): "<= 1",
    ("imagenet-lt", "crt sgd, 10 epochs"): "<= 2",
    ("inat18", "crt sgd, 30 epochs"): "<= 60",
}
LONG = 10.0  # seconds after which nothing is run again
EPOCHS = {"small": 9}  # of which one is told from the start; else 3


def run(size: str, device: str = "cuda") -> list[Row]:
    """All rows of one size."""
    features = FeatureFolder(folder(size))
    train, val = features["train"], features["val"]
    device = "cpu:0" if device == "cpu" else device  # torch, not numpy
    if torch.device(device).type == "cuda":
        torch.zeros(1, device=device)  # the context is not what is measured
    rows = limits(train, size, device)
    rows += curves(val, size, device)
    rows += fits(train, size, device)
    rows += epochs(train, val, size, device)
    rows += agreement(train, val, size, device)
    return [replace(row, goal="") if row.unit else row for row in rows] if size == "small" else rows


def limits(train: FeatureSet, size: str, device: str) -> list[Row]:
    """The products of a cRT step in float32, TF32 and bfloat16, and reading memory."""
    rows = ceilings(train, size, device, repeats=3)
    exact = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        (fast, *_) = ceilings(train, size, device, repeats=3)
    finally:
        torch.set_float32_matmul_precision(exact)
    return [rows[0], replace(fast, name=fast.name.replace("float32", "TF32, where there is that")), *rows[1:]]


def timed(size: str, name: str, device: str, function: Callable[[], object], repeats: int = 3) -> list[Row]:
    """The best of a few runs in seconds, a first one not counted, and the GPU memory that it needs.

    Every function ends with its result on the host.
    """
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    seconds: list[float] = []
    while len(seconds) <= repeats and sum(seconds) < LONG:
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    rows = [Row(f"{size}: {name}", min(seconds[1:] or seconds), "s", GOALS.get((size, name), ""))]
    if on_gpu:
        rows.append(Row(f"{size}: {name}, peak GPU memory", torch.cuda.max_memory_allocated(device) / 2**30, "GiB"))
    return rows


def curves(val: FeatureSet, size: str, device: str) -> list[Row]:
    """The exact sweeps, and whether they choose what the CPU chooses."""
    rows = []
    for name, curve in (("tau curve", tau_curve), ("la curve", la_curve)):
        rows += timed(size, name, device, partial(curve, val, device=device))
        here, there = curve(val), curve(val, device=device)
        same = np.isclose(here.low, there.low, rtol=1e-9) & np.isclose(here.high, there.high, rtol=1e-9)
        rows.append(
            Row(f"{size}: {name}, rows with another interval than on the CPU", float((~same).mean()), "", "<= 0")
        )
        difference = abs(here.best("all", 0, 2).value - there.best("all", 0, 2).value)
        rows.append(Row(f"{size}: {name}, chosen tau, difference from the CPU", difference, "", "<= 1e-6"))

    bare = FeatureSet(val.features, val.labels, head=val.head, class_counts=val.class_counts)
    features, weight = as_tensor(val.features, torch.device(device)), as_tensor(val.head.weight, torch.device(device))

    def product() -> float:
        return float((features @ weight.T)[-1, -1])

    rows += timed(size, "tau curve from features", device, partial(tau_curve, bare, device=device))
    seconds = medians({"curve": partial(tau_curve, bare, device=device), "product": product}, 3)
    rows.append(Row(f"{size}: tau curve from features", seconds["curve"] / seconds["product"], "x its matrix product"))
    best = [tau_curve(bare, device=where).best("all", 0, 2).score for where in ("cpu", device)]
    name = f"{size}: tau curve from features, accuracy at the chosen tau, difference from the CPU"
    return [*rows, Row(name, abs(best[0] - best[1]), "", "<= 1e-3")]


def fits(train: FeatureSet, size: str, device: str) -> list[Row]:
    """Every fit as a whole, loading included; nearest class means are taken on the host."""
    number = 30 if size == "inat18" else 10
    crt = partial(crt_sgd, train, epochs=number, device=device)
    return [
        *timed(size, "ncm, on the host", "cpu", partial(nearest_class_mean, train)),
        *timed(size, "lws sgd, 5 epochs", device, partial(lws_sgd, train, device=device)),
        *timed(size, "lws convex, 7 strengths", device, partial(lws_path, train, device=device)),
        *timed(size, f"crt sgd, {number} epochs", device, crt),
        *timed(size, f"crt sgd, {number} epochs, bfloat16", device, partial(crt, precision="bfloat16")),
        *timed(size, "crt convex, 7 strengths", device, partial(crt_path, train, device=device)),
    ]


def epochs(train: FeatureSet, val: FeatureSet, size: str, device: str) -> list[Row]:
    """An epoch of cRT alone: held on the device, read ahead from the file, and in bfloat16."""
    recipe, many = published_recipe(train), EPOCHS.get(size, 3)
    fit = partial(crt_sgd, train, device=device)

    def epoch(**options: str) -> tuple[float, float]:
        """Seconds, and GiB of GPU memory."""
        one, *_ = timed(size, "", device, partial(fit, epochs=1, **options))
        several, *memory = timed(size, "", device, partial(fit, epochs=many, **options))
        return (several.value - one.value) / (many - 1), memory[0].value if memory else 0.0

    (held, held_memory), (half, _) = epoch(), epoch(precision="bfloat16")
    with from_file():
        read, read_memory = epoch()
        there = fit(epochs=1)
    here = fit(epochs=1)
    exact, rounded = (evaluate(fit(epochs=many, precision=p), val).figures.all for p in ("float32", "bfloat16"))
    steps = len(train) // min(recipe.batch_size, len(train))
    product = medians({"": products(train, device)}, 3)[""] * steps / SOME_STEPS
    rows = [
        Row(f"{size}: crt sgd, an epoch", held, "s"),
        Row(f"{size}: crt sgd, an epoch", product / held, "x matrix product rate", ">= 0.7"),
        Row(f"{size}: crt sgd, an epoch, read ahead from the file", read / held, "x held on the device", "<= 1.2"),
        Row(f"{size}: crt sgd, read ahead, weights, difference from held", relative(here, there), "", "<= 1e-6"),
        Row(f"{size}: crt sgd, an epoch, bfloat16", held / half, "x faster than float32"),
        Row(f"{size}: crt sgd, {many} epochs, bfloat16, accuracy on val, from float32", abs(rounded - exact), "change"),
    ]
    if torch.device(device).type == "cuda":
        waits = [waits_for_the_device(partial(fit, epochs=1, batch_size=b)) for b in (256, 1024)]
        rows += [
            Row(f"{size}: crt sgd, peak GPU memory, held", held_memory, "GiB"),
            Row(f"{size}: crt sgd, peak GPU memory, read ahead", read_memory, "GiB"),
            Row(f"{size}: crt sgd, waits for the device that more steps cause", abs(waits[0] - waits[1]), "", "<= 0"),
        ]
    return rows


@contextmanager
def from_file() -> Iterator[None]:
    """Rows are not held, but read ahead, on a CPU too."""
    before = ltpost.data.tensors.READ_AHEAD
    ltpost.data.tensors.READ_AHEAD = ("cuda", "cpu")
    try:
        with held_below(0):
            yield
    finally:
        ltpost.data.tensors.READ_AHEAD = before


def waits_for_the_device(function: Callable[[], object]) -> int:
    """How often the host waits until the GPU has done something, by torch's own count."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            function()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in found)


def agreement(train: FeatureSet, val: FeatureSet, size: str, device: str) -> list[Row]:
    """Fits on the device against the same on the CPU, on as many rows as a CPU can do in seconds."""
    rows = []
    some = one_of_each(train, max(4096, train.num_classes))
    simple = classes_of(train, min(100, train.num_classes))
    fits: dict[str, Callable[[str], ltpost.LinearHead]] = {
        "crt convex": lambda where: crt_path(simple, strengths=(0.1,), tolerance=1e-5, device=where)[0],
        "lws convex": lambda where: lws_path(some, strengths=(0.1,), tolerance=1e-5, device=where)[0],
        "crt sgd": lambda where: crt_sgd(some, epochs=2, device=where),
        "lws sgd": lambda where: lws_sgd(some, epochs=2, device=where),
    }
    for name, fit in fits.items():
        here, there = fit("cpu"), fit(device)
        rows.append(Row(f"{size}: {name}, weights, relative to the CPU", relative(here, there), "", "<= 1e-2"))
        if here.num_classes == val.num_classes:
            figures = [
                evaluate(head, val, device=where).figures.all for head, where in ((here, "cpu"), (there, device))
            ]
            difference = abs(figures[0] - figures[1])
            rows.append(Row(f"{size}: {name}, accuracy on val, difference", difference, "", "<= 0.005"))
    return rows


def relative(here: ltpost.LinearHead, there: ltpost.LinearHead) -> float:
    """The largest difference of a weight, against the largest weight."""
    return float(np.abs(here.weight - there.weight).max() / np.abs(here.weight).max())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", action="append", choices=SIZES)
    args = parser.parse_args()
    name = torch.cuda.get_device_name(args.device) if torch.device(args.device).type == "cuda" else "CPU"
    print(f"torch {torch.__version__}, {name}")
    for size in args.size or ["small", "imagenet-lt"]:
        for row in run(size, args.device):
            print(f"{row.name:<90} {row.value:10.4g} {row.unit:<22} {row.goal:<8} {row.verdict}", flush=True)
