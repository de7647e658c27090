"""The commands that write files, and what they work on."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np

from benchmarks.torture import Scenario
from ltpost.cli import main as ltpost_command

_NETWORK = ["--ckpt", "digits_cnn.pth", "--arch", "ltpost.demo:digits_cnn", "--data", "digits.npz"]
_EXTRACT = ["extract", *_NETWORK, "--split", "test", "--workers", "0", "--batch-size", "8", "--out"]


def _command(*words: str) -> None:
    """Run a command here."""
    try:
        ltpost_command(list(words))
    except SystemExit as error:
        if error.code:
            raise RuntimeError(f"{words[0]} has failed") from None


def inputs(folder: Path) -> None:
    """A network, images, features and a head, small enough that a command takes a moment."""
    from ltpost import demo

    folder.mkdir(parents=True)
    here = Path.cwd()
    os.chdir(folder)
    try:
        _command("demo")
        assert demo.digits_cnn
        made = folder / "ltpost-demo"
        for name in ("features", "heads", "digits_cnn.pth", "digits.npz"):
            (made / name).rename(folder / name)
        shutil.rmtree(made)
        with np.load(folder / "digits.npz") as digits:
            fewer = {key: digits[key][:: 10 if "test" in key else 1] for key in digits}
        np.savez(folder / "digits.npz", **fewer)
        for part in ("0/2", "1/2"):
            _command(*_EXTRACT, "joined", "--shard", part)
    finally:
        os.chdir(here)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 50, 20_000)
    np.savez(folder / "large.npz", features=rng.normal(size=(20_000, 128)).astype(np.float32), labels=labels)


def scenarios() -> list[Scenario]:
    """The commands that write files."""
    heads = [f"made/{key}.safetensors" for key in ("tnorm", "la", "mla", "ncm")]
    export = ["export", "--head", "heads/mla.safetensors", "--out"]
    return [
        Scenario(
            "tnorm: head and CSV", ["tnorm", "--out", "out.safetensors", "--csv", "out.csv"],
            ["out.safetensors", "out.csv"],
        ),
        Scenario(
            "compare: heads and CSV",
            ["compare", "--methods", "tnorm,la,mla,ncm", "--heads", "made", "--csv", "out.csv"], ["out.csv", *heads],
            parts=True,
        ),
        Scenario("report: a page", ["report", "--methods", "tnorm,la", "--out", "out.html"], ["out.html"]),
        Scenario("convert: a feature file", ["convert", "large.npz", "out.h5"], ["out.h5"], locks=True),
        Scenario("export: a checkpoint", [*export, "out.pth", "--ckpt", "digits_cnn.pth"], ["out.pth"]),
        Scenario("export: an ONNX head", [*export, "out.onnx", "--format", "onnx"], ["out.onnx"]),
        Scenario("extract: a feature file", [*_EXTRACT, "made"], ["made/test.h5"], resumes=True, locks=True),
        Scenario(
            "extract: two views, two workers", [*_EXTRACT, "made", "--views", "2", "--augment", "standard",
            "--workers", "2"], ["made/test.h5"], resumes=True, locks=True,
        ),
        Scenario("extract: 2 ranks", [*_EXTRACT, "made"], ["made/test.h5"], resumes=True, locks=True, ranks=2),
        Scenario("extract: 3 ranks", [*_EXTRACT, "made"], ["made/test.h5"], resumes=True, locks=True, ranks=3),
        Scenario(
            "extract: one shard of two", [*_EXTRACT, "made", "--shard", "1/2"], ["made/test.shards/1-of-2.h5"],
            resumes=True, locks=True,
        ),
        Scenario("merge: two shards", ["merge", "joined/test.h5"], ["joined/test.h5"], resumes=True, locks=True),
    ]  # fmt: skip
