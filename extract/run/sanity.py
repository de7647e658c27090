"""Checks the joint accuracy: whether the right network got the right pixels and labels."""

from __future__ import annotations

import math

import h5py
import numpy as np

from ltpost.data.priors import shot_groups
from ltpost.errors import DataError, UsageError
from ltpost.extract.run.partial import DONE, done_of
from ltpost.scores.metrics import Figures, figures
from ltpost.tables import percent

_BLOCK_ROWS = 4096
#: a permutation of the classes gives a top-1 below this many times 1/C
_NEAR_CHANCE = 1.5
_TOLERANCE = 0.01
#: standard deviations, and rounding of the stored number, that a stored accuracy may differ by
_DEVIATIONS, _ROUNDING = 3.0, 0.0005


_PROBE = "ltpost extract --probe 500 measures other readings"


def joint_figures(file: h5py.File) -> Figures | None:
    """Many, medium, few, all and top-1 of the joint classifier; None without readable rows."""
    num_classes = _num_classes(file)
    hits, totals = np.zeros(num_classes, np.int64), np.zeros(num_classes, np.int64)
    labels, readable = file["labels"][:], done_of(file) == DONE
    for start in range(0, len(labels), _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        if "logits" in file:
            scores = file["logits"][rows]
        else:
            scores = file["features"][rows].astype(np.float32) @ file["head/weight"][:].T
            scores += file["head/bias"][:] if "head/bias" in file else 0.0
        right = readable[rows] & (np.nan_to_num(scores).argmax(axis=1) == labels[rows])
        totals += np.bincount(labels[rows][readable[rows]], minlength=num_classes)
        hits += np.bincount(labels[rows][right], minlength=num_classes)
    if not totals.any():
        return None
    counts = file["class_counts"][:] if "class_counts" in file else None
    return figures(hits, totals, None if counts is None else shot_groups(counts))


def check_expected(expect_top1: float | None) -> None:
    """Raise UsageError unless it is a fraction or percent."""
    if expect_top1 is not None and not 0 <= expect_top1 <= 100:
        raise UsageError(f"expect_top1= must be a fraction or percent, but is {expect_top1}")


def _against_stored(file: h5py.File, top1: float, rows: int) -> list[str]:
    """A warning where the accuracy that the checkpoint itself holds is not the measured one, noise allowed for.

    The checkpoint's rows may be others of the same kind (val for test), so both accuracies are random:
    their difference has variance 2 p (1 - p) / N at most.
    """
    stored = file.attrs.get("stored_accuracy")
    if stored is None or file.attrs.get("split") == "train" or "views" in file.attrs:  # of rows of another kind
        return []
    noise = _DEVIATIONS * math.sqrt(2 * stored * (1 - stored) / rows) + _ROUNDING
    if abs(top1 - stored) <= noise:
        return []
    warning = (
        f"warning: top-1 is {percent(top1)}, but {_stored(file)}, and chance "
        f"explains a difference of {percent(noise)} at most: perhaps the pixels are not those of the training code "
        "(mean, std, size, crop), the classes are numbered otherwise, or the file is of another epoch or split than "
        f"its accuracy; {_PROBE}"
    )
    return [warning]


def _stored(file: h5py.File) -> str:
    """Half a sentence with the accuracy that the checkpoint holds."""
    return f"the checkpoint holds {file.attrs['stored_accuracy_key']} {percent(float(file.attrs['stored_accuracy']))}"


def _num_classes(file: h5py.File) -> int:
    return int(file["head/weight"].shape[0] if "head/weight" in file else file["logits"].shape[1])


def check_accuracy(file: h5py.File, expect_top1: float | None) -> list[str]:
    """Check a file before it is finished, and give the lines to print.

    Args:
        file: with all rows.
        expect_top1: fraction in 0..1, or percent above 1.

    Raises:
        DataError: top-1 differs from what is expected by more than a percentage point.
    """
    unreadable = int((done_of(file) != DONE).sum())
    lines = []
    total = len(file["labels"])
    if unreadable == total > 0:
        raise DataError(
            f"none of the {total} images can be read; see the reasons above, and name the folder with root="
        )
    if unreadable:
        lines.append(f"warning: {unreadable} of {total} rows could not be read; they are marked and left out")
    joint = joint_figures(file)
    if joint is None:
        return lines
    shown = ", ".join(f"{name} {percent(value)}" for name, value in vars(joint).items())
    lines.append(f"joint accuracy in %: {shown}")
    num_classes = _num_classes(file)
    lines += _against_stored(file, joint.top1, total - unreadable)
    why = (
        "the classes are numbered otherwise (class_order=, another list), the normalisation is another (mean=, "
        "std=, dataset=), or the checkpoint belongs to other data"
    )
    if expect_top1 is not None:
        hint = f"{_stored(file)}; " if "stored_accuracy" in file.attrs else ""
        expected = expect_top1 / 100 if expect_top1 > 1 else expect_top1
        if abs(joint.top1 - expected) > _TOLERANCE:
            raise DataError(
                f"top-1 must be {percent(expected)} (expect_top1=), but is {percent(joint.top1)}: {hint}{why}; "
                f"{_PROBE}; the rows are kept for a run without expect_top1=, or discarded by one with restart="
            )
    elif joint.top1 * num_classes < _NEAR_CHANCE and num_classes > _NEAR_CHANCE:
        lines.append(
            f"warning: top-1 {percent(joint.top1)} is no better than 1/C = {percent(1 / num_classes)} or near it: "
            f"perhaps {why}; {_PROBE}"
        )
    return lines
