"""Small hard data, and every command on it: ``python -m tests.hard_data`` runs all of one on all of the other.

A case is a folder of train, val, test and views that has everything a method may need, with one change. What a command
does with it is right if it ends well without NaN, or refuses in one sentence; it never warns, and never raises.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from click.testing import CliRunner

from ltpost import LinearHead, methods
from ltpost.cli import cli
from ltpost.heads import CausalNormHead

Arrays = dict[str, Any]  # of one split, by their names in the file
SPLITS = ("train", "val", "test")
CLASSES, EXPERTS, WIDTH = 4, 2, 5
COUNTS = np.array([24, 12, 6, 3])


def arrays(split: str) -> Arrays:
    """A long-tailed problem of four classes, with two experts and an earlier layer."""
    shape, random = np.random.default_rng(0), np.random.default_rng(SPLITS.index(split))
    centres, biases = np.abs(shape.normal(size=(CLASSES, EXPERTS * WIDTH))), shape.normal(size=(EXPERTS, CLASSES))
    labels = random.permutation(np.repeat(np.arange(CLASSES), COUNTS if split == "train" else 6))
    features = np.maximum(centres[labels] + 0.6 * random.normal(size=(len(labels), EXPERTS * WIDTH)), 0)
    return {
        "features": features.astype(np.float32),
        "labels": labels,
        "layers/early": features[:, ::2].astype(np.float16),
        "head/weight": ((centres - centres.mean(0)) / EXPERTS).astype(np.float32),
        "head/expert_bias": (0.1 * biases).astype(np.float32),
    }


def kept(of: Arrays, rows: Any) -> None:
    """Keep some rows alone."""
    of.update({key: of[key][rows] for key in ("features", "labels", "layers/early")})


def classes(number: int) -> Callable[[Arrays, str], None]:
    """The first classes alone."""

    def change(of: Arrays, split: str) -> None:
        kept(of, of["labels"] < number)
        of["head/weight"], of["head/expert_bias"] = of["head/weight"][:number], of["head/expert_bias"][:, :number]

    return change


def in_split(name: str, rows: Callable[[Arrays], Any]) -> Callable[[Arrays, str], None]:
    """Some rows of one split alone."""
    return lambda of, split: kept(of, rows(of)) if split == name else None


def value(rows: Any, number: float) -> Callable[[Arrays, str], None]:
    """Features and layers of some rows and columns with one value."""

    def change(of: Arrays, split: str) -> None:
        of["features"][rows] = of["layers/early"][rows] = number

    return change


def unreadable(of: Arrays, split: str) -> None:
    """Rows with NaN that are marked as unreadable."""
    of["valid"] = np.arange(len(of["labels"])) % 3 > 0
    of["features"][~of["valid"]] = of["layers/early"][~of["valid"]] = np.nan


def head_of(weight: Any) -> Callable[[Arrays, str], None]:
    """Some rows of the classifier are zero."""
    return lambda of, split: of["head/weight"].__setitem__(weight, 0)


def one_of_each(of: Arrays) -> Any:
    return np.unique(of["labels"], return_index=True)[1]


CASES: dict[str, Callable[[Arrays, str], None]] = {
    "one class": classes(1),
    "two classes": classes(2),
    "two classes of one row": lambda of, split: (classes(2)(of, split), kept(of, one_of_each(of)))[0],
    "one row per class": lambda of, split: kept(of, one_of_each(of)),
    "no rows in train": in_split("train", lambda of: slice(0)),
    "no rows in val": in_split("val", lambda of: slice(0)),
    "no rows in test": in_split("test", lambda of: slice(0)),
    "one row in val": in_split("val", lambda of: slice(1)),
    "two rows in val": in_split("val", lambda of: slice(2)),
    "one class in val": in_split("val", lambda of: of["labels"] == 2),
    "one class in test": in_split("test", lambda of: of["labels"] == 2),
    "a class absent from train": in_split("train", lambda of: of["labels"] != 2),
    "a class absent from val": in_split("val", lambda of: of["labels"] != 2),
    "a class absent from test": in_split("test", lambda of: of["labels"] != 2),
    "NaN": value([1, 2], np.nan),
    "unreadable rows": unreadable,
    "constant features": value(slice(None), 0.5),
    "features of 0": value(slice(None), 0.0),
    "a large constant column": value((slice(None), 1), 1e4),
    "a classifier of 0": head_of(slice(None)),
    "a class whose weights are 0": head_of(1),
}


def write(folder: Path, case: str) -> None:
    """The folder of a case: three splits, views of val and test, and the heads beside them."""
    folder.mkdir(parents=True)
    splits = {split: arrays(split) for split in SPLITS}
    for split, of in splits.items():
        CASES[case](of, split)
        weight = of["head/weight"]
        of["head/bias"] = of["head/expert_bias"].mean(axis=0)
        of["class_counts"] = np.bincount(splits["train"]["labels"], minlength=len(weight))
        of["logits"] = of["features"] @ weight.T + of["head/bias"]
    weight, (*_, width) = splits["train"]["head/weight"], weight.shape
    for split, of in splits.items():
        for name, rows in ((split, slice(None)), (f"{split}-views", np.repeat(np.arange(len(of["labels"])), 2))):
            with h5py.File(folder / f"{name}.h5", "w") as file:
                for key, array in of.items():
                    file[key] = array[rows] if len(array) == len(of["labels"]) and key in ROWS else array
                if name != split:
                    file["sample"], file["view"] = rows, np.arange(len(rows)) % 2
                file.attrs.update(split=split, experts=EXPERTS)
    (folder / "train-views.h5").unlink()
    noise = np.random.default_rng(9).normal(size=weight.shape)
    LinearHead((weight + 0.2 * noise).astype(np.float32)).save(folder / "zero_shot.safetensors")
    CausalNormHead(weight + 0.01, np.ones(width, np.float32)).save(folder / "causal_norm.safetensors")


ROWS = ("features", "labels", "layers/early", "logits", "valid")
#: methods that would take seconds, with options for fewer passes
QUICK = {"crt-val": ["--strengths", "1,0.1"], "crt-la": ["--strengths", "1,0.1"], "early-exit": ["--epochs", "2"]}
HEAD = ["--head", "heads/la.safetensors"]
#: what is run beside the methods; the first saves the head that others read
COMMANDS: list[list[str]] = [
    ["la"],
    ["la", "--calibration"],
    ["la", "--select", "few"],
    ["la", "--select", "f1"],
    ["la", "--per-class", "--paired", "joint"],
    ["la", "--coverage", "0.9", "--test-prior", "uniform"],
    ["la", "--oracle"],
    ["tnorm", "--expert", "0"],
    ["compare", "--json"],
    ["compare", "--methods", "priors,experts"],
    ["evaluate", *HEAD],
    ["evaluate", *HEAD, "--split", "val", "--calibration", "--per-class"],
    ["predict", "features/test.h5", *HEAD],
    ["diagnose"],
    ["diagnose", *HEAD, "--split", "val"],
    ["report", "--methods", "la,mla"],
    ["best"],
    ["best", "--fit-on-val", "--transductive"],
    ["info", "features/train.h5", "features/val.h5", "features/test-views.h5"],
    ["split", "features/test.h5", "--val", "2"],
    ["convert", "features/val.h5", "x.npz"],
    ["convert", "features/val.h5", "x.csv"],
    ["export", *HEAD, "--format", "onnx", "--out", "x.onnx"],
]


def jobs() -> list[list[str]]:
    """Every method and every command."""
    return [[key, *QUICK.get(key, [])] for key in methods.all_keys()] + COMMANDS


def problem(words: Sequence[str]) -> str:
    """Run a command in the current folder; what is wrong with how it ends, or ""."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = CliRunner().invoke(cli, list(words))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return "".join(traceback.format_exception(result.exception))
    if caught:
        return f"warns: {caught[0].message} ({Path(caught[0].filename).name}:{caught[0].lineno})"
    if result.exit_code:
        one = result.output.startswith("Error: ") and result.output.count("\n") == 1
        return "" if one and result.exit_code in (1, 2) else f"exit code {result.exit_code}: {result.output}"
    shown = re.search(r".*(?<![\w-])-?(nan|inf)(?!\w).*", result.output, re.IGNORECASE)
    allowed = shown is None or "imbalance factor inf" in shown[0] or "from -inf to inf" in shown[0]
    allowed = allowed or "holds NaN" in shown[0] or "condition number inf" in shown[0]
    return "" if allowed else f"prints {shown[0]}"


def main() -> None:
    """All cases, or those whose names are given."""
    bad = 0
    with tempfile.TemporaryDirectory() as home:
        for case in sys.argv[1:] or CASES:
            place = Path(home) / case
            write(place / "features", case)
            os.chdir(place)
            for words in jobs():
                if found := problem(words):
                    bad += 1
                    sys.stdout.write(f"{case}: {' '.join(words)}: {found}\n")
    sys.stdout.write(f"{len(sys.argv[1:] or CASES)} cases, {len(jobs())} commands each: {bad} bad\n")
    sys.exit(bad > 0)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
