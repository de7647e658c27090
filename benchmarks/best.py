"""How good the heads of ``ltpost best`` are on rows that it never saw, over random val/test splits.

    python -m benchmarks.best FOLDER --splits 20

FOLDER holds train.h5 and the rows that are split: all_test.h5; or else test.h5, with val.h5 where that is there. Layers
and views are used where they are stored. An empty FOLDER is filled from the shared CIFAR-100-LT images
(LTPOST_SHARED_DATA), with three layers and the flipped view; see ``benchmarks.layers``.

For every split, val decides and the other rows are reported. The table has mean per-class test accuracy, mean and
standard deviation over the splits; what the ladder expected on val; and the paired difference to tnorm, with its
standard error over rows: a row's gain is its mean over the splits in which it is a test row.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import ltpost
from benchmarks.layers import prepare
from ltpost import Experiment, FeatureSet, Ladder
from ltpost.data.one_after_other import one_after_other
from ltpost.data.split import draw_rows
from ltpost.data.view_means import first_view, has_plain_views, mean_of_views
from ltpost.ladder.candidates import Candidate
from ltpost.scores.predict import predict
from ltpost.tables import text_table

BASE = "tnorm"
#: what the shared CIFAR-100-LT features have to reach
GOALS = {
    "best linear": 43.9,
    "best, one view": 47.3,
    "best": 49.5,
    "best linear, fits on val": 45.8,
    "best, one view, fits on val": 50.5,
    "best, fits on val": 53.0,
}
VIEWS = "mean of views"


@dataclass
class Row:
    """What one head did on each split: accuracy of All, Many, Medium and Few, what was expected, gains per row."""

    figures: list[list[float]] = field(default_factory=list)
    expected: list[float] = field(default_factory=list)
    gains: list[np.ndarray] = field(default_factory=list)


def rows_to_split(folder: Path) -> FeatureSet:
    """The labelled rows that are no training rows, all in one."""
    if (folder / "all_test.h5").is_file():
        return ltpost.load(folder / "all_test.h5")
    names = [name for name in ("val", "test") if (folder / f"{name}.h5").is_file()]
    files = ltpost.FeatureFolder(folder)
    parts = [files[name] for name in names]
    return parts[0] if len(parts) == 1 else one_after_other(parts)


def heads_of(ladder: Ladder, fits: bool) -> Iterator[tuple[str, Candidate, float]]:
    """Name, candidate and what is expected of it, of what a ladder found."""
    end = ", fits on val" if fits else ""
    singles = ladder.steps[0].candidates
    if not fits:
        for one in singles:
            yield one.name, one, np.nan
        yield "best single method", ladder.kept_before(ladder.steps[1].name) or singles[0], np.nan
    if ladder.linear is not None:
        yield f"best linear{end}", ladder.linear.candidate, ladder.linear.expected
    before_views = ladder.kept_before(VIEWS)
    if before_views is not None and any(step.name == VIEWS for step in ladder.steps):
        yield f"best, one view{end}", before_views, np.nan
    if ladder.overall is not None:
        yield f"best{end}", ladder.overall.candidate, ladder.overall.expected


def one_split(train: FeatureSet, pool: FeatureSet, seed: int, per_class: float, table: dict[str, Row]) -> None:
    """Climb on a random val split, and note what the heads do on the other rows."""
    parts = [pool.subset(rows) for rows in draw_rows(pool.labels, per_class, sample=pool.sample, seed=seed)]
    for part, name in zip(parts, ("val", "test"), strict=True):
        part.split = name
    val, test = parts
    experiment = Experiment(train=train, val=val, test=test, progress=False)
    with_views = has_plain_views(test)
    plain = first_view(test) if with_views else test
    means = mean_of_views(test) if with_views else test
    groups = plain.shot_groups()
    heads = [("joint", None, np.nan)]
    for fits in (False, True):
        heads += heads_of(ltpost.best(experiment, fit_on_val=fits), fits)
    right = {}
    for name, candidate, _ in heads:
        rows = means if candidate is not None and candidate.both_views else plain
        head = plain.joint if candidate is None else candidate.for_rows(rows)
        right[name] = predict(head, rows) == rows.labels
    samples = plain.samples
    for name, _, expected in heads:
        row, correct = table.setdefault(name, Row()), right[name]
        figures = ltpost.evaluation.result_of(correct, plain, groups, name=name).figures
        row.figures.append([figures.all, figures.many, figures.medium, figures.few])
        row.expected.append(expected)
        gain = np.full(int(pool.samples.max()) + 1, np.nan)
        gain[samples] = correct.astype(float) - right[BASE]
        row.gains.append(gain)


def standard_error(gains: list[np.ndarray], labels: np.ndarray) -> tuple[float, float]:
    """Mean over classes of the gains of their rows, in points, and its standard error over rows."""
    times = np.sum([~np.isnan(gain) for gain in gains], axis=0)
    mean = np.nansum(gains, axis=0) / np.maximum(times, 1)
    of_class = [mean[(labels == c) & (times > 0)] for c in np.unique(labels[labels >= 0])]
    value = np.mean([rows.mean() for rows in of_class])
    variance = np.sum([rows.var(ddof=1) / len(rows) for rows in of_class if len(rows) > 1]) / len(of_class) ** 2
    return 100 * float(value), 100 * float(np.sqrt(variance))


def print_table(table: dict[str, Row], labels: np.ndarray, with_goals: bool) -> None:
    """The table so far."""
    rows = []
    for name, row in table.items():
        figures = 100 * np.array(row.figures)
        mean, many, medium, few = figures.mean(0)
        gain, error = standard_error(row.gains, labels)
        expected = 100 * np.mean(row.expected)
        goal = GOALS.get(name) if with_goals else None
        rows.append(
            [
                name,
                f"{mean:.2f} ± {figures[:, 0].std():.2f}",
                f"{many:.1f} / {medium:.1f} / {few:.1f}",
                "" if name == BASE else f"{gain:+.2f} ± {error:.2f}",
                "" if np.isnan(expected) else f"{expected:.2f}",
                "" if goal is None else f"{'reached' if mean >= goal else 'MISSED'} {goal}",
            ]
        )
    headings = ["head", "test, All", "many / medium / few", f"against {BASE}", "expected", "goal"]
    print(text_table(headings, rows, left=1), flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--splits", type=int, default=20, help="How many random splits.")
    parser.add_argument("--val", type=float, default=20, help="Val rows per class, or a fraction below 1.")
    parser.add_argument("--shared", type=Path, default=os.environ.get("LTPOST_SHARED_DATA", "../shared/data"))
    args = parser.parse_args()
    with_goals = not list(args.folder.glob("*.h5")) or (args.folder / ".cifar100lt").is_file()
    if with_goals:
        args.folder.mkdir(parents=True, exist_ok=True)
        prepare(args.folder, args.shared)
        (args.folder / ".cifar100lt").touch()
    train, pool = ltpost.load(args.folder / "train.h5"), rows_to_split(args.folder)
    labels = np.full(int(pool.samples.max()) + 1, -1)
    labels[pool.samples] = pool.labels
    table: dict[str, Row] = {}
    for seed in range(args.splits):
        begin = time.perf_counter()
        one_split(train, pool, seed, args.val, table)
        print(f"split {seed}: {time.perf_counter() - begin:.0f} s", flush=True)
        if seed in (0, 4, 9):
            print_table(table, labels, with_goals)
    print(f"\n% on test, mean ± sd over {args.splits} splits; differences with their standard error over rows")
    print_table(table, labels, with_goals)


if __name__ == "__main__":
    main()
