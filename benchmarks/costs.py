"""What every method costs: seconds of processor time, passes over the training and val rows, and memory.

python -m benchmarks.costs                                  ImageNet-LT with an eighth of its rows
python -m benchmarks.costs --share 1/32 --methods tnorm,crt,lda --limit 60

Every method runs as `ltpost` runs it, choice on val included, in a process of its own that reads the features from a
file. A pass is as many rows as the split has, whoever asks for them and in whatever order. Memory is the highest number
of resident bytes that are no file's, less those before the method.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import threading
import time
from collections import Counter
from fractions import Fraction
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

import ltpost
from benchmarks.data import folder as feature_folder
from benchmarks.fitting import one_of_each
from benchmarks.measure import Row, resident_of_no_file
from ltpost import Experiment, FeatureFolder, FeatureSet, methods
from ltpost.comparison import missing
from ltpost.data import class_sums
from ltpost.data.matrices import Matrices
from ltpost.data.tensors import Matrix
from ltpost.errors import LtpostError


def make_folder(place: Path, size: str, share: Fraction) -> None:
    """The train and val splits of a size with a share of their rows, one of every class at least."""
    counts = None
    for split in ("train", "val"):
        rows = ltpost.load(feature_folder(size) / f"{split}.h5")
        part = one_of_each(rows, int(len(rows) * share))
        counts = np.bincount(part.labels) if counts is None else counts
        logits = np.asarray(part.stored_logits) if part.stored_logits is not None else None
        kept = FeatureSet(np.asarray(part.features), part.labels, logits=logits, head=part.head, class_counts=counts)
        kept.save(place / f"{split}.h5")


def run(
    size: str, device: str = "cpu", share: Fraction = Fraction(1, 8), names: str = "all", limit: float = 600.0
) -> list[Row]:
    """All rows of the table, printed as they come."""
    rows, keys = [], methods.keys_of([name.strip() for name in names.split(",")])
    with tempfile.TemporaryDirectory() as place:
        make_folder(Path(place), size, share)
        experiment = Experiment(place)
        shapes = [f"{name} {len(FeatureFolder(place)[name]):,}" for name in ("train", "val")]
        print(f"{size}, {experiment.report_set.num_classes:,} classes, rows: {', '.join(shapes)}\n\n{HEADER}")
        for key in keys:
            if lacking := missing(experiment, key):
                print(f"| {key} | – | – | – | – | needs {', '.join(lacking)} |", flush=True)
                continue
            found = cost(Path(place), key, device, limit)
            print(line(key, found), flush=True)
            if "seconds" in found:
                units = {
                    "seconds": "s of processor time",
                    "train": "passes over train",
                    "val": "passes over val",
                    "memory": "GiB",
                }
                rows += [Row(f"{size} x {share}: {key}", found[what], unit) for what, unit in units.items()]
    return rows


HEADER = "| method | processor s | passes over train | over val | GiB | |\n| --- | ---: | ---: | ---: | ---: | --- |"


def line(key: str, found: dict[str, Any]) -> str:
    """A row of the table, as Markdown."""
    if "seconds" not in found:
        return f"| {key} | – | – | – | – | {found['why']} |"
    numbers = (found[what] for what in ("seconds", "train", "val", "memory"))
    return f"| {key} | {' | '.join(f'{number:.3g}' for number in numbers)} | {found['solver']} |"


def cost(place: Path, key: str, device: str, limit: float) -> dict[str, Any]:
    """What one method costs, or ``why`` that is not known; it may take ``limit`` seconds."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(place, key, device, sender))
    process.start()
    sender.close()
    try:
        found: dict[str, Any] = receiver.recv() if receiver.poll(limit) else {"why": f"more than {limit:g} s"}
    except EOFError:
        found = {"why": "failed"}
    process.kill()
    process.join()
    return found


def _measure(place: Path, key: str, device: str, sender: Connection) -> None:
    method = methods.get(key)  # imports what it calls
    counted = count_rows()
    experiment = Experiment(place, progress=False, device=device)
    num_rows = {"train": len(experiment.train), "val": len(experiment.chosen_on)}
    assert experiment.joint_results  # which every run adds; they are no part of a method
    counted.clear()
    done, before = threading.Event(), resident_of_no_file()
    peak = before

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, resident_of_no_file())
            done.wait(0.02)

    threading.Thread(target=watch, daemon=True).start()
    start = time.process_time()
    try:
        outcome = experiment.run(method)
    except LtpostError as error:
        sender.send({"why": str(error)})
        return
    seconds = time.process_time() - start
    done.set()
    sender.send(
        {
            "seconds": seconds,
            **{name: counted[rows] / rows for name, rows in num_rows.items()},
            "memory": (peak - before) / 2**30,
            "solver": str(outcome.params.get("solver", "")),
        }
    )


def count_rows() -> Counter[int]:
    """Rows that are asked for from now on, by the number of rows of the split that they come from."""
    counted: Counter[int] = Counter()

    def counting(kind: Any, name: str) -> None:
        plain = getattr(kind, name)

        def wrapped(self: Any, key: Any, *args: Any, **kwargs: Any) -> Any:
            counted[len(self)] += len(range(*key.indices(len(self)))) if isinstance(key, slice) else np.size(key)
            return plain(self, key, *args, **kwargs)

        setattr(kind, name, wrapped)

    def counting_blocks(kind: Any, name: str) -> None:
        plain = getattr(kind, name)

        def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
            for which, rows in plain(self, *args, **kwargs):
                counted[len(self)] += len(rows)
                yield which, rows

        setattr(kind, name, wrapped)

    for name in ("read_features", "read_logits"):
        counting(Matrices, name)
    counting_blocks(Matrices, "feature_blocks")
    plain = class_sums.class_sums

    def counted_sums(train: Any, *args: Any, **kwargs: Any) -> Any:
        counted[len(train)] += len(train)
        return plain(train, *args, **kwargs)

    for module in [module for module in sys.modules.values() if vars(module).get("class_sums") is plain]:
        module.class_sums = counted_sums  # type: ignore[attr-defined]
    for name in ("blocks", "batches"):
        counting_blocks(Matrix, name)
    return counted


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", nargs="?", default="imagenet-lt")
    parser.add_argument("--share", type=Fraction, default=Fraction(1, 8), help="of the rows  [default: 1/8]")
    parser.add_argument("--methods", default="all", help="parted by commas, or sets of them  [default: all]")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds for a method  [default: 600]")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    run(args.size, args.device, args.share, args.methods, args.limit)
