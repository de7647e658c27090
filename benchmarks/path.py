"""The path of strengths of convex cRT: products in bfloat16 far from each minimum, against float32 throughout.

python -m benchmarks.path imagenet-lt
python -m benchmarks.path imagenet-lt --rows 14480    random rows, one of every class at least
python -m benchmarks.path inat18 --classes 300        all rows of some classes

Both descents take turns, strength by strength, in one process. Where val has clearly turned, `ltpost crt` ends the
path; here it goes on, and the ratio is given for both ends.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

import ltpost
from benchmarks.data import folder as feature_folder
from benchmarks.fitting import classes_of, held_below, one_of_each
from benchmarks.measure import Row
from ltpost import FeatureSet
from ltpost.data.tensors import training_features
from ltpost.fit.loss import Loss
from ltpost.fit.options import HeadFit
from ltpost.fit.path import convex_path
from ltpost.fit.regression import Regression
from ltpost.fit.sampling import row_weights
from ltpost.fit.solve import GAIN
from ltpost.heads import Head
from ltpost.model_selection import Selection
from ltpost.turn import Turn


def run(size: str, device: str = "cpu", num_rows: int | None = None, num_classes: int | None = None) -> list[Row]:
    """All rows of the table; ``num_rows`` of the training rows, or those of ``num_classes``, default all."""
    folder = feature_folder(size)
    train, val = ltpost.load(folder / "train.h5"), ltpost.load(folder / "val.h5")
    name = f"{size}: cRT convex, 7 strengths"
    if num_rows is not None and num_rows < len(train):
        train = one_of_each(train, num_rows)
        name += f", {len(train):,} rows"
    if num_classes is not None:
        train, val = classes_of(train, num_classes), classes_of(val, num_classes)
        name += f", {len(train):,} rows of {num_classes:,} classes"
    turn, turned = Turn(Selection(groups=val.shot_groups()), val), ""
    seconds = {"float32": 0.0, "both": 0.0, "until": 0.0}
    passes = {"float32": 0.0, "both": 0.0, "bfloat16": 0.0, "until": 0.0, "bfloat16 until": 0.0}
    worst, chosen = -1.0, 0.0
    with held_below(0 if size == "inat18" else None):
        paths = {"float32": descent(train, device, bfloat16=False), "both": descent(train, device, bfloat16=True)}
        for _ in HeadFit().strengths:
            heads = {}
            for which, path in paths.items():
                start = time.process_time()
                heads[which] = next(path)
                seconds[which] += time.process_time() - start
            old, new = heads["float32"].info, heads["both"].info
            passes["float32"] += old["passes"]
            passes["both"] += new["passes"]
            passes["bfloat16"] += new["bfloat16_passes"]
            worst = max(worst, new["objective"] / old["objective"] - 1)
            print(f"  strength {new['strength']:g}: {old['passes']:g} passes against {new['passes']:g} and "
                  f"{new['bfloat16_passes']:g} in bfloat16, objective {new['objective'] / old['objective'] - 1:.1e}, "
                  f"{seconds['float32']:.0f} s against {seconds['both']:.0f} s so far", flush=True)  # fmt: skip
            ended = turn(heads["both"])
            if ended and not turned:
                print("  val has clearly turned", flush=True)
                turned = f"{new['strength']:g}"
                chosen = seconds["float32"]
                seconds["until"], passes["until"] = seconds["both"], passes["both"]
                passes["bfloat16 until"] = passes["bfloat16"]
    rows = [
        Row(f"{name}: float32 throughout", passes["float32"], "passes"),
        Row(f"{name}", passes["both"], "passes in float32"),
        Row(f"{name}", passes["bfloat16"], "passes in bfloat16"),
        Row(f"{name}", seconds["both"], "s of processor time"),
        Row(f"{name}", worst, "above the objective of float32 throughout, relative", "<= 1e-6"),
        Row(f"{name}", seconds["float32"] / seconds["both"], "x faster than float32 throughout", ">= 2.5"),
    ]
    if turned:
        name += f", ended at {turned} by val"
        rows += [
            Row(name, passes["until"], "passes in float32"),
            Row(name, passes["bfloat16 until"], "passes in bfloat16"),
            Row(name, seconds["float32"] / seconds["until"], "x faster than all in float32 throughout", ">= 2.5"),
            Row(name, chosen / seconds["until"], "x faster than the same strengths in float32"),
        ]
    return [replace(row, goal="") for row in rows] if size == "small" else rows


def descent(train: FeatureSet, device: str, *, bfloat16: bool) -> Iterator[Head]:
    """The heads of the path, as convex cRT makes them, or as it made them before it used bfloat16."""
    where, fit = torch.device(device), HeadFit()
    weights = row_weights(train.labels, np.bincount(train.labels))
    problem = Regression(
        training_features(train, where),
        torch.from_numpy(train.labels).to(where),
        torch.from_numpy(weights).to(where).float(),
        train.num_classes,
        Loss().on(where),
        bfloat16=bfloat16,
    )
    gain = GAIN * fit.tolerance if bfloat16 else 0.0
    yield from convex_path(problem, fit.strengths, fit.tolerance, description="cRT", progress=False, gain=gain)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", nargs="?", default="imagenet-lt")
    parser.add_argument("--rows", type=int, help="of the training rows  [default: all]")
    parser.add_argument("--classes", type=int, help="of the classes  [default: all]")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    for row in run(args.size, args.device, args.rows, args.classes):
        print(f"{row.name:<75} {row.value:10.3g} {row.unit:<45} {row.goal:<8} {row.verdict}", flush=True)
