"""Fitting heads, against the machine's own limits and against what people use.

python -m benchmarks.fitting imagenet-lt

A step of cRT sgd is two matrix products, so its limit is the rate of those; NCM is limited by reading the file. The
peers do the same work on the same rows: scikit-learn's balanced LogisticRegression, and a training loop as people
write it (h5py, DataLoader, autograd, SGD).
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import h5py
import numpy as np
import torch

import ltpost
import ltpost.data.tensors
from benchmarks.data import folder as feature_folder
from benchmarks.measure import Row, medians, resident_of_no_file
from ltpost import FeatureSet
from ltpost.data import distributed
from ltpost.fit.options import HeadFit, Recipe
from ltpost.fit.sampling import row_weights
from ltpost.heads import Head

STRENGTH = 0.03
SOME_STEPS = 16  # of which a median is taken, and which are scaled to all
QUIET = {"progress": False}


def published_recipe(train: FeatureSet) -> Recipe:
    """Rates and sizes of the paper."""
    return HeadFit().recipe(train)


def crt_sgd(train: FeatureSet, **options: object) -> Head:
    """The head of cRT by SGD."""
    return ltpost.crt(train, solver="sgd", **options, **QUIET).head()


def lws_sgd(train: FeatureSet, **options: object) -> Head:
    """The head of LWS by SGD."""
    return ltpost.lws(train, train.joint, solver="sgd", **options, **QUIET).head()


def crt_path(train: FeatureSet, **options: object) -> list[Head]:
    """Heads of convex cRT, strong to weak."""
    family = ltpost.crt(train, solver="convex", **options, **QUIET)
    return [family.head(strength) for strength in family.params["strengths"]]


def lws_path(train: FeatureSet, **options: object) -> list[Head]:
    """Heads of convex LWS, strong to weak."""
    family = ltpost.lws(train, train.joint, solver="convex", **options, **QUIET)
    return [family.head(strength) for strength in family.params["strengths"]]


def nearest_class_mean(train: FeatureSet) -> Head:
    """The head of NCM."""
    return ltpost.nearest_class_mean(train).head()


def run(size: str, device: str = "cpu", repeats: int = 3) -> list[Row]:
    """All rows of one size."""
    folder = feature_folder(size)
    train = ltpost.load(folder / "train.h5")
    rows = ceilings(train, size, device, repeats)
    rows += sgd(train, size, device, repeats)
    rows += ncm(train, folder / "train.h5", size, repeats)
    rows += lws(train, size, device)
    if size != "inat18":
        rows += convex(train, size, device)
        rows += naive(train, folder / "train.h5", size, device)
    if size == "imagenet-lt" and device == "cpu":
        rows += processes(folder / "train.h5", size)
    rows += memory(folder / "train.h5", size)
    return [replace(row, goal="") for row in rows] if size == "small" else rows  # for CI, without limits


def _sync(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def products(
    train: FeatureSet, device: str, dtype: torch.dtype = torch.float32, steps: int = SOME_STEPS
) -> Callable[[], None]:
    """The matrix products of ``steps`` steps of cRT sgd, and nothing else."""
    batch, classes, features = published_recipe(train).batch_size, train.num_classes, train.num_features
    x = torch.randn(batch, features, device=device).to(dtype)
    weight, scores = torch.randn(classes, features, device=device).to(dtype), torch.randn(batch, classes).to(dtype)
    scores, gradient = scores.to(device), torch.empty(classes, features, device=device, dtype=dtype)

    def run_steps() -> None:
        for _ in range(steps):
            torch.mm(x, weight.T, out=scores)
            torch.mm(scores.T, x, out=gradient)
        _sync(device)

    return run_steps


def ceilings(train: FeatureSet, size: str, device: str, repeats: int) -> list[Row]:
    """What the machine can do at most."""
    memory_block = torch.ones(2**26, device=device)

    def read_memory() -> None:
        memory_block.sum()
        _sync(device)

    seconds = medians(
        {
            "float32": products(train, device),
            "bfloat16": products(train, device, torch.bfloat16),
            "memory": read_memory,
        },
        repeats,
    )
    flops = 4.0 * SOME_STEPS * published_recipe(train).batch_size * train.num_features * train.num_classes
    return [
        *(Row(f"{size}: matrix products of a cRT step, {t}", flops / seconds[t] / 1e9, "GFLOP/s")
          for t in ("float32", "bfloat16")),
        Row(f"{size}: reading memory", memory_block.numel() * 4 / seconds["memory"] / 1e9, "GB/s"),
    ]  # fmt: skip


def sgd(train: FeatureSet, size: str, device: str, repeats: int) -> list[Row]:
    """The recipe's loop, start and reading included, against its own matrix products."""
    from_file = size == "inat18" and device == "cpu"
    share = one_of_each(train, 24_576) if size == "inat18" else train  # 48 of 854 steps, from all over the file
    recipe = published_recipe(train)
    given = {"learning_rate": recipe.learning_rate, "weight_decay": recipe.weight_decay}
    options = {"device": device, "epochs": 2, "batch_size": recipe.batch_size, **given}
    steps = 2 * (len(share) // recipe.batch_size)
    with held_below(0 if from_file else None):
        seconds = medians(
            {
                "float32": lambda: crt_sgd(share, **options),
                "products": products(train, device, steps=SOME_STEPS),
                "bfloat16": lambda: crt_sgd(share, precision="bfloat16", **options),
            },
            repeats,
        )
    where = " from the float16 memory map" if from_file else ""
    goal = ">= 0.6" if size == "inat18" else ">= 0.7"
    rate = seconds["products"] * steps / SOME_STEPS / seconds["float32"]
    rows = [
        Row(f"{size}: cRT sgd{where}, reading included", rate, "x matrix product rate", goal),
        Row(f"{size}: cRT sgd, bfloat16", seconds["float32"] / seconds["bfloat16"], "x faster than float32"),
        Row(f"{size}: cRT sgd, an epoch", seconds["float32"] / 2 * len(train) / len(share), "s"),
    ]
    if size != "small":
        work = recipe.epochs * 4.0 * len(train) * train.num_features * train.num_classes
        for gpus in (1, 8):
            name = f"{size}: cRT sgd, all epochs on {gpus} H100, by arithmetic (60 % of 50 TFLOP/s float32)"
            rows.append(Row(name, work / gpus / 50e12 / 0.6, "s"))
    return rows


@contextmanager
def held_below(limit: int | None) -> Iterator[None]:
    """Rows are held in host memory up to ``limit`` bytes only, and on no GPU; None changes nothing."""
    tensors = ltpost.data.tensors
    before = tensors.RESIDENT_BYTES, tensors.RESIDENT_SHARE
    if limit is not None:
        tensors.RESIDENT_BYTES, tensors.RESIDENT_SHARE = limit, 0.0
    try:
        yield
    finally:
        tensors.RESIDENT_BYTES, tensors.RESIDENT_SHARE = before


def one_of_each(train: FeatureSet, rows: int) -> FeatureSet:
    """``rows`` random rows, one of every class at least."""
    random = np.random.default_rng(0)
    order = random.permutation(len(train))
    _, first = np.unique(train.labels[order], return_index=True)
    rest = np.setdiff1d(np.arange(len(train)), first)[: max(0, rows - len(first))]
    return train.subset(np.sort(order[np.concatenate([first, rest])]))


def ncm(train: FeatureSet, path: Path, size: str, repeats: int) -> list[Row]:
    """One pass, against reading the features; from the disk, and from the system's file cache."""

    def read() -> None:
        with h5py.File(path) as file:
            file["features"][()]

    def from_disk(function: Callable[[], object]) -> Callable[[], object]:
        def forget_then_run() -> None:
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            function()

        return forget_then_run

    fit = functools.partial(nearest_class_mean, train)
    disk = medians({"ncm": from_disk(fit), "read": from_disk(read)}, repeats)
    cache = medians({"ncm": fit, "read": read}, repeats)
    nbytes = train.features.nbytes
    return [
        *(Row(f"{size}: reading the features with h5py, {where}", nbytes / seconds["read"] / 1e9, "GB/s")
          for where, seconds in (("file on disk", disk), ("file in the cache", cache))),
        Row(f"{size}: NCM, file on disk", disk["ncm"] / disk["read"], "x reading with h5py", "<= 1.5"),
        Row(f"{size}: NCM, file in the cache", cache["ncm"] / cache["read"], "x reading with h5py", "<= 1.5"),
        Row(f"{size}: NCM, file in the cache", cache["ncm"], "s"),
    ]  # fmt: skip


def lws(train: FeatureSet, size: str, device: str) -> list[Row]:
    """Seconds, and how often the N x C logits are passed over."""
    share = train if size != "inat18" else one_of_each(train, 24_576)
    rows = []
    start = time.perf_counter()
    heads = lws_path(share, device=device)
    rows.append(Row(f"{size}: LWS convex, 7 strengths, {len(share):,} rows", time.perf_counter() - start, "s"))
    rows.append(
        Row(f"{size}: LWS convex, 7 strengths", sum(head.info["passes"] for head in heads), "passes over N x C")
    )
    start = time.perf_counter()
    lws_sgd(share, device=device)
    rows.append(Row(f"{size}: LWS sgd, 5 epochs, {len(share):,} rows", time.perf_counter() - start, "s"))
    return rows


def classes_of(train: FeatureSet, count: int) -> FeatureSet:
    """The rows of ``count`` classes from all over the profile, in memory."""
    chosen = np.linspace(0, train.num_classes - 1, count).astype(int)
    number = np.full(train.num_classes, -1)
    number[chosen] = np.arange(count)
    rows = np.flatnonzero(number[train.labels] >= 0)
    return FeatureSet(np.asarray(train.features[rows], dtype=np.float32), number[train.labels[rows]])


def convex(train: FeatureSet, size: str, device: str) -> list[Row]:
    """One fit and a path of 7, against scikit-learn on the rows of 100 classes."""
    from sklearn.linear_model import LogisticRegression

    share = classes_of(train, min(100, train.num_classes))
    features, labels = np.asarray(share.features, dtype=np.float64), share.labels
    weights = row_weights(labels, np.bincount(labels))
    peer = LogisticRegression(C=1 / (len(share) * STRENGTH), class_weight="balanced", tol=1e-5, max_iter=5000)

    def objective(weight: np.ndarray, bias: np.ndarray) -> float:
        z = features @ weight.T.astype(np.float64) + bias
        z -= z.max(1, keepdims=True)
        losses = np.log(np.exp(z).sum(1)) - z[np.arange(len(z)), labels]
        return float(weights @ losses + STRENGTH / 2 * np.square(weight.astype(np.float64)).sum())

    (head,) = crt_path(share, strengths=(STRENGTH,), device=device)
    (rough,) = crt_path(share, strengths=(STRENGTH,), tolerance=1e-3, device=device)
    peer.fit(features, labels)
    best = min(objective(head.weight, head.bias), objective(peer.coef_, peer.intercept_))
    seconds = medians(
        {
            "fit": lambda: list(crt_path(share, strengths=(STRENGTH,), device=device)),
            "rough": lambda: list(crt_path(share, strengths=(STRENGTH,), tolerance=1e-3, device=device)),
            "weakest": lambda: list(crt_path(share, strengths=(0.001,), device=device)),
            "path": lambda: crt_path(share, device=device),
            "sklearn": lambda: peer.fit(features, labels),
        },
        1,
    )
    name = f"{size}: cRT convex, {len(share):,} rows of {share.num_classes} classes"
    return [
        Row(name, objective(head.weight, head.bias) / best - 1, "above the better objective, relative", "<= 1e-6"),
        Row(f"{name}, tolerance 1e-3", objective(rough.weight, rough.bias) / best - 1, "above it"),
        Row(f"{name}, scikit-learn, tol 1e-5", objective(peer.coef_, peer.intercept_) / best - 1, "above it"),
        Row(name, seconds["sklearn"] / seconds["fit"], "x faster than scikit-learn, which stops earlier"),
        Row(f"{name}, tolerance 1e-3", seconds["sklearn"] / seconds["rough"], "x faster than scikit-learn", ">= 5"),
        *(
            Row(f"{name}, path of 7 strengths", seconds["path"] / seconds[one], f"x {what} strength alone", "<= 3")
            for one, what in (("weakest", "the weakest"), ("fit", f"the chosen ({STRENGTH})"))
        ),
        Row(f"{name}, one fit", seconds["fit"], "s"),
        Row(f"{name}, one fit", head.info["passes"], "passes"),
    ]


class _Rows(torch.utils.data.Dataset):
    """A data set as people write it."""

    def __init__(self, path: Path, rows: np.ndarray):
        self.file, self.rows = h5py.File(path), rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        row = self.rows[index]
        return torch.from_numpy(self.file["features"][row]).float(), int(self.file["labels"][row])


def naive(train: FeatureSet, path: Path, size: str, device: str) -> list[Row]:
    """One epoch of cRT as people write it, on the same rows."""
    share = one_of_each(train, min(len(train), 10_240))
    rows, batch = share._features.index, published_recipe(train).batch_size
    weights = 1.0 / np.bincount(share.labels)[share.labels]

    def epoch() -> None:
        data = _Rows(path, rows)
        sampler = torch.utils.data.WeightedRandomSampler(torch.from_numpy(weights), len(data))
        loader = torch.utils.data.DataLoader(data, batch_size=batch, sampler=sampler, drop_last=True)
        classifier = torch.nn.Linear(train.num_features, train.num_classes).to(device)
        optimizer = torch.optim.SGD(classifier.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
        for features, labels in loader:
            loss = torch.nn.functional.cross_entropy(classifier(features.to(device)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()

    seconds = medians(
        {
            "ours": lambda: crt_sgd(share, epochs=1, batch_size=batch, device=device),
            "naive": epoch,
        },
        2,
    )
    return [Row(f"{size}: cRT sgd", seconds["naive"] / seconds["ours"], "x faster than h5py + DataLoader + SGD")]


def memory(path: Path, size: str) -> list[Row]:
    """Peak resident memory of a process per method, the file's own pages left out; and how long that process fitted.

    On inat18 the convex fits, of hours, take a share of the rows, read from the file all the same: what they hold then
    depends on C x D alone, and the weak strength makes enough iterations for L-BFGS to fill its memory.
    """
    goal = "<= 4" if size == "inat18" else ""
    rows = []
    for method in ("ncm", "crt sgd", "crt convex", "lws sgd", "lws convex"):
        receiver, sender = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context("spawn").Process(target=_fit_and_watch, args=(path, method, sender))
        process.start()
        process.join()
        worked = process.exitcode == 0 and receiver.poll()
        name, peak, seconds = receiver.recv() if worked else (method, float("nan"), float("nan"))
        rows.append(Row(f"{size}: peak memory of {name}", peak / 2**30, "GiB", goal))
        rows.append(Row(f"{size}: {name}", seconds, "s"))
    return rows


def processes(path: Path, size: str) -> list[Row]:
    """Two processes with one thread each against one process with one thread, through torch.distributed."""
    rows = []
    for method in ("crt sgd", "crt convex"):
        one, two = (_in_processes(count, path, method) for count in (1, 2))
        rows.append(Row(f"{size}: two processes, {method}", one / two / 2, "x twice as fast as one process"))
    return rows


def _in_processes(count: int, path: Path, method: str) -> float:
    """Seconds of a fit in ``count`` processes, each with its share of the rows, their start left out."""
    context = multiprocessing.get_context("spawn")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    receiver, sender = context.Pipe(duplex=False)
    running = [
        context.Process(target=_fit_a_shard, args=(rank, count, port, path, method, sender)) for rank in range(count)
    ]
    for process in running:
        process.start()
    sender.close()  # so that the end of a process that failed is the end of waiting for it
    seconds = [receiver.recv() for _ in running]
    for process in running:
        process.join()
    return max(seconds)


def _fit_a_shard(rank: int, count: int, port: str, path: Path, method: str, sender: Connection) -> None:
    if count > 1:
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(count), MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    torch.set_num_threads(1)
    distributed.start()
    train = ltpost.load(path)
    share = distributed.shard(one_of_each(train, min(len(train), 32_768)))
    fits: dict[str, Callable[[], object]] = {
        "crt sgd": lambda: crt_sgd(share, epochs=1),
        "crt convex": lambda: crt_path(share, strengths=(0.3,))[0],
    }
    distributed.sum_(torch.zeros(1))  # all are there
    start = time.perf_counter()
    fits[method]()
    sender.send(time.perf_counter() - start)
    distributed.stop()


def _fit_and_watch(path: Path, method: str, sender: Connection) -> None:
    """Fit, and send what was fitted, the highest number of resident bytes that are no file's, and the seconds."""
    train = ltpost.load(path)
    rows = "all rows"
    if train.num_classes > 5000 and "convex" in method:
        train, ltpost.data.tensors.RESIDENT_BYTES, rows = one_of_each(train, 16_384), 0, "16,384 rows"
    peak, done = 0, threading.Event()
    fits: dict[str, Callable[[], object]] = {
        "ncm": lambda: nearest_class_mean(train),
        "crt sgd": lambda: crt_sgd(train, epochs=1),
        "crt convex": lambda: crt_path(train, strengths=(0.01 if rows != "all rows" else 1.0,))[0],
        "lws sgd": lambda: lws_sgd(train, epochs=1),
        "lws convex": lambda: lws_path(train, strengths=(0.01,))[0],
    }

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, resident_of_no_file())
            done.wait(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    fits[method]()
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    epochs = ", 1 epoch" if "sgd" in method else ", 1 strength" if "convex" in method else ""
    sender.send((f"{method}{epochs}, {rows}", peak, seconds))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", nargs="?", default="small")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    for row in run(args.size, args.device):
        print(f"{row.name:<75} {row.value:10.3g} {row.unit:<45} {row.goal:<8} {row.verdict}")
