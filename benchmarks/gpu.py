"""The methods on one GPU: seconds, and the same results as on the CPU.

python -m benchmarks.gpu --device cuda --size imagenet-lt
python -m benchmarks.gpu --device cuda --size inat18
python -m benchmarks.gpu --device cpu:0 --size small        where there is no GPU: does it all run and agree?
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.data import SIZES, folder
from benchmarks.measure import Row
from ltpost import FeatureFolder, FeatureSet, la_curve, tau_curve
from ltpost.evaluation import evaluate
from ltpost.methods.crt import crt_path, crt_sgd
from ltpost.methods.lws import lws_sgd

GOALS = {
    ("imagenet-lt", "tau curve"): "<= 0.05",
    ("imagenet-lt", "lws sgd"): "<= 1",
    ("imagenet-lt", "crt sgd, 10 epochs"): "<= 2",
    ("inat18", "crt sgd, 30 epochs"): "<= 60",
}


def run(size: str, device: str = "cuda") -> list[Row]:
    """All rows of one size: seconds on the device, and differences from the CPU."""
    features = FeatureFolder(folder(size))
    train, val = features["train"], features["val"]
    if torch.device(device).type == "cuda":
        torch.zeros(1, device=device)  # the context is not what is measured
    rows = curves(val, size, device)
    epochs = 30 if size == "inat18" else 10
    rows += [
        timed(size, "lws sgd", lambda: lws_sgd(train, device=device, progress=False)),
        timed(size, f"crt sgd, {epochs} epochs", lambda: crt_sgd(train, epochs=epochs, device=device, progress=False)),
        timed(size, "crt convex, 7 strengths", lambda: list(crt_path(train, device=device, progress=False))),
    ]
    if size == "small":
        rows += agreement(train, val, size, device)
    return rows


def timed(size: str, name: str, function: Callable[[], object], repeats: int = 3) -> Row:
    """The best of a few runs in seconds, a first one not counted; every function ends with its result on the host."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return Row(f"{size}: {name}", min(seconds[1:]), "s", GOALS.get((size, name), ""))


def curves(val: FeatureSet, size: str, device: str) -> list[Row]:
    """The exact sweeps, and whether they choose what the CPU chooses."""
    rows = []
    for name, curve in (("tau curve", tau_curve), ("la curve", la_curve)):
        rows.append(timed(size, name, lambda curve=curve: curve(val, device=device)))
        here, there = curve(val), curve(val, device=device)
        same = np.isclose(here.low, there.low, rtol=1e-9) & np.isclose(here.high, there.high, rtol=1e-9)
        rows.append(
            Row(f"{size}: {name}, rows with another interval than on the CPU", float((~same).mean()), "", "<= 0")
        )
        difference = abs(here.best("all", 0, 2).value - there.best("all", 0, 2).value)
        rows.append(Row(f"{size}: {name}, chosen tau, difference from the CPU", difference, "", "<= 1e-6"))
    return rows


def agreement(train: FeatureSet, val: FeatureSet, size: str, device: str) -> list[Row]:
    """Fits on the device against the same on the CPU."""
    rows = []
    fits = {
        "crt convex": lambda where: next(
            crt_path(train, strengths=[0.1], tolerance=1e-5, device=where, progress=False)
        ),
        "crt sgd": lambda where: crt_sgd(train, device=where, progress=False),
        "lws sgd": lambda where: lws_sgd(train, device=where, progress=False),
    }
    for name, fit in fits.items():
        here, there = fit("cpu"), fit(device)
        error = np.abs(here.weight - there.weight).max() / np.abs(here.weight).max()
        rows.append(Row(f"{size}: {name}, weights, relative to the CPU", float(error), "", "<= 1e-2"))
        figures = [evaluate(head, val).figures.all for head in (here, there)]
        rows.append(Row(f"{size}: {name}, accuracy on val, difference", abs(figures[0] - figures[1]), "", "<= 0.005"))
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", action="append", choices=SIZES)
    args = parser.parse_args()
    name = torch.cuda.get_device_name(args.device) if torch.device(args.device).type == "cuda" else "CPU"
    print(f"torch {torch.__version__}, {name}")
    for size in args.size or ["small", "imagenet-lt"]:
        for row in run(size, args.device):
            print(f"{row.name:<66} {row.value:10.4g} {row.unit:<3} {row.goal:<8} {row.verdict}", flush=True)
