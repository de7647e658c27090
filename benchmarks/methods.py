"""Every method on the shared CIFAR-100-LT features, under one protocol: docs/measured.md.

python -m benchmarks.methods                    the table; about three minutes on one core
python -m benchmarks.methods --methods tnorm,la --no-write
"""

from __future__ import annotations

import argparse
import os
import runpy
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import ltpost
from ltpost.comparison import runnable
from ltpost.errors import LtpostError
from ltpost.methods import label_of
from ltpost.outcome import Outcome
from ltpost.report.paired import compared
from ltpost.report.results import Result
from ltpost.tables import Table, percent

DOCS = Path(__file__).parents[1] / "docs"
TABLE = DOCS / "measured.md"
HEAD = """# What was measured

Every method that needs no more than one network gives, on CIFAR-100-LT (500 to 5 images per class): one ResNet-32
trained with plain cross entropy, features cached without augmentation. Options are the defaults; values are chosen on
2,000 val rows drawn at random, figures are those of 8,000 test rows. Made by `python -m benchmarks.methods`.

± is the 95 % interval of one figure. The column after it compares All with the joint classifier on the same rows:
difference, its interval, and p of McNemar's exact test, corrected by Holm for all methods. Differences between methods
that are smaller than the intervals say nothing, and one data set with one network says little of others: this network
fits its training images completely, so that methods which fit on training features see rows that it has memorised.
Transductive methods saw the test rows without labels; methods marked *fits on val* learned from its labels.

"""


def run(experiment: ltpost.Experiment, keys: Sequence[str]) -> list[tuple[Outcome, float]]:
    """Outcomes, with the seconds of processor time that they took."""
    found = []
    for key in keys:
        started = time.process_time()
        try:
            outcome = experiment.run(key)
        except LtpostError as error:
            sys.stderr.write(f"{key}: {error}\n")
            continue
        found.append((outcome, time.process_time() - started))
        sys.stderr.write(f"{outcome!r}: {found[-1][1]:.1f} s\n")
    return found


def table(experiment: ltpost.Experiment, found: Sequence[tuple[Outcome, float]]) -> Table:
    """One row per method, the best All first."""
    joint = next(result for result in experiment.joint_results if result.split == "test")
    results = {outcome.method: _on_test(outcome) for outcome, _ in found}
    comparisons = compared([joint, *results.values()], "joint")
    seconds = {outcome.method: f"{spent:.1f}" for outcome, spent in found}
    rows = [_row(joint, ["", ""], "")]
    for result in sorted(results.values(), key=lambda one: -one.figures.all):
        rows.append(_row(result, comparisons[result.name].cells, seconds[result.name]))
    headings = ["method", "key", "Many", "Medium", "Few", "All", "All - joint", "p (Holm)", "seconds", "how"]
    return Table("", headings, rows, left=2)


def _on_test(outcome: Outcome) -> Result:
    return next(result for result in outcome.results if (result.split, result.name) == ("test", outcome.method))


def _row(result: Result, cells: Sequence[str], seconds: str) -> list[str]:
    low, high = result.intervals["all"]
    value = result.figures.all
    groups = [percent(getattr(result.figures, name)) for name in ("many", "medium", "few")]
    every = f"{percent(value)} ±{100 * max(high - value, value - low):.1f}"
    return [label_of(result.name), result.name, *groups, every, *cells, seconds, result.detail]


def main() -> None:
    """Run, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="all", help="keys or sets, parted by commas")
    parser.add_argument("--no-write", action="store_true", help="print only, leave docs/measured.md alone")
    arguments = parser.parse_args()
    shared = Path(os.environ.get("LTPOST_SHARED_DATA", DOCS.parents[1] / "shared" / "data"))
    with tempfile.TemporaryDirectory() as folder:
        runpy.run_path(str(DOCS / "draw.py"))["feature_files"](shared, Path(folder))
        experiment = ltpost.Experiment(folder, progress=False)
        keys, _ = runnable(experiment, arguments.methods.split(","))
        text = table(experiment, run(experiment, keys)).markdown()
    if arguments.no_write:
        sys.stdout.write(f"{text}\n")
    else:
        TABLE.write_text(f"{HEAD}{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
