"""The exact sweep against grid points, against the product it needs, and against usual practice.

python -m benchmarks.sweep imagenet-lt
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.data import folder as feature_folder
from benchmarks.measure import Row, cores, medians, process
from ltpost import FeatureFolder, FeatureSet, LinearHead, logit_adjustment, tau_norm
from ltpost.data.priors import log_prior
from ltpost.heads.blocks import score_blocks
from ltpost.scores.curve import Curve

HERE = Path(__file__).parent


def tau_curve(val: FeatureSet, device: str = "cpu") -> Curve:
    """The exact curve of tau-normalization."""
    return tau_norm(val.head).curve(val, device=device)


def la_curve(val: FeatureSet, device: str = "cpu") -> Curve:
    """The exact curve of logit adjustment."""
    return logit_adjustment(val.joint, val.class_counts).curve(val, device=device)


def run(size: str, device: str = "cpu", repeats: int = 5) -> list[Row]:
    """All rows of one size; ``device`` is only used by benchmarks/gpu.py."""
    folder = feature_folder(size)
    val = FeatureFolder(folder)["test" if size == "small" else "val"]
    in_order = val.subset(np.argsort(val.labels, kind="stable"))  # as folders of classes are extracted
    rows = []
    for how, rows_of in (("rows by class", in_order), ("rows shuffled", val)):
        rows += stored_logits(rows_of, f"{size}, {how}", repeats)
        if size != "inat18":
            rows += from_features(rows_of, f"{size}, {how}", repeats)
    if size != "inat18":  # usual practice takes 20 minutes there
        rows += whole_process(folder, size, max(1, repeats - 2))
    if size == "small":  # where calls cost more than arithmetic
        rows = [row if "from logits" in row.name else replace(row, goal="") for row in rows]
    return rows


def stored_logits(val: FeatureSet, size: str, repeats: int) -> list[Row]:
    """The whole exact curve in grid points of torch: rescale, argmax, compare, block by block."""
    logits = np.concatenate([z for _, z in score_blocks(val.joint, val)])
    stored = FeatureSet(labels=val.labels, logits=logits, head=val.head, class_counts=val.class_counts)
    z, labels = torch.from_numpy(logits), torch.from_numpy(val.labels)
    scale = torch.from_numpy((val.head.norms() ** -0.7).astype(np.float32))
    offset = torch.from_numpy((-0.7 * log_prior(val.class_counts)).astype(np.float32))
    block = max(16, 2**20 // val.num_classes)

    def grid_point(change: object) -> torch.Tensor:
        parts = [(change(z[i : i + block]).argmax(1) == labels[i : i + block]) for i in range(0, len(z), block)]
        return torch.cat(parts)

    rows, before = [], torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        with cores(threads):
            seconds = medians(
                {
                    "tau curve": lambda: tau_curve(stored),
                    "tau point": lambda: grid_point(lambda part: part * scale),
                    "la curve": lambda: la_curve(stored),
                    "la point": lambda: grid_point(lambda part: part + offset),
                },
                repeats,
            )
        on = f"{threads} core{'s' * (threads > 1)}"
        rows += [
            Row(f"{size}: exact {name} curve from logits, {on}", seconds[f"{name} curve"] / seconds[f"{name} point"],
                "torch grid points", "<= 4") for name in ("tau", "la")
        ]  # fmt: skip
        rows.append(Row(f"{size}: exact tau curve from logits, {on}", 1e3 * seconds["tau curve"], "ms"))
    torch.set_num_threads(before)
    return rows


def from_features(val: FeatureSet, size: str, repeats: int) -> list[Row]:
    """The curve without stored logits, against the one matrix product that it needs."""
    features = np.asarray(val.features, dtype=np.float32)
    bare = FeatureSet(
        features, val.labels, head=LinearHead(val.head.weight, val.head.bias), class_counts=val.class_counts
    )
    weight = np.ascontiguousarray(val.head.weight)
    block = bare.block_rows()
    out = np.empty((block, val.num_classes), np.float32)

    def product() -> None:
        for start in range(0, len(features), block):
            part = features[start : start + block]
            np.matmul(part, weight.T, out=out[: len(part)])

    seconds = medians({"curve": lambda: tau_curve(bare), "product": product}, max(2, repeats - 2))
    flops = 2.0 * features.size * val.num_classes
    return [
        Row(
            f"{size}: exact tau curve from features",
            seconds["curve"] / seconds["product"],
            "x its matrix product",
            "<= 1.10",
        ),
        Row(f"{size}: that matrix product", flops / seconds["product"] / 1e9, "GFLOP/s"),
    ]


def whole_process(folder: Path, size: str, repeats: int) -> list[Row]:
    """``ltpost tnorm`` from start to end, against its parts and against usual practice."""
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "features").mkdir()
        shutil.copy(folder / "val.h5", Path(place) / "features" / "val.h5")
        ltpost = shutil.which("ltpost", path=str(Path(sys.executable).parent)) or "ltpost"
        val = FeatureFolder(Path(place) / "features")["val"]
        floor = (
            "import h5py, numpy as np\n"
            "with h5py.File('features/val.h5') as file:\n"
            "    for name in ('logits', 'head/weight', 'labels'): file[name][()]"
        )
        seconds = medians(
            {
                "tnorm": process([ltpost, "tnorm", "--tau-grid", "0:2:0.1"], cwd=place),
                "floor": process([sys.executable, "-c", floor], cwd=place),
                "sweep": lambda: tau_curve(val),
                "practice": process([sys.executable, str(HERE / "usual_practice.py")], cwd=place),
            },
            repeats,
        )
    name = f"{size}: ltpost tnorm, whole process"
    faster = ">= 40" if size == "imagenet-lt" else ""
    return [
        Row(name, seconds["tnorm"] / (seconds["floor"] + seconds["sweep"]), "x (start + read + sweep)", "<= 1.5"),
        Row(name, seconds["practice"] / seconds["tnorm"], "x faster than usual practice", faster),
        Row(name, seconds["tnorm"], "s"),
        Row(f"{size}: start, and read the logits of val.h5", seconds["floor"], "s"),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("size", nargs="?", default="small")
    for row in run(parser.parse_args().size):
        print(f"{row.name:<60} {row.value:10.3g} {row.unit:<28} {row.goal:<8} {row.verdict}")
