"""No stream makes a command crash: what it cannot encode is written in ASCII."""

import subprocess
import sys

import numpy as np
import pytest

from ltpost import FeatureSet, LinearHead
from ltpost.cli import cli

SCRIPT = """
import sys
from ltpost.cli import main
for arguments in {commands}:
    try:
        main(arguments)
    except SystemExit as stop:
        if stop.code:
            raise
"""


def run(commands, encoding, folder):
    return subprocess.run(
        [sys.executable, "-c", SCRIPT.format(commands=commands)],
        cwd=folder,
        env={"PYTHONIOENCODING": encoding, "PATH": "", "PYTHONUTF8": "0"},
        capture_output=True,
    )


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "ascii"])
def test_help_and_tables_of_every_command(encoding, tmp_path):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 20)
    head = LinearHead(rng.normal(size=(3, 4)))
    counts = np.array([500, 50, 30])  # no few-shot class: the table has a dash
    FeatureSet(rng.normal(size=(60, 4)), labels, head=head, class_counts=counts).save(tmp_path / "features" / "val.h5")
    helps = [[name, "--help"] for name in cli.list_commands(None)]
    result = run([*helps, ["--help"], ["tnorm"], ["info", "features/val.h5"], ["compare"]], encoding, tmp_path)
    assert result.returncode == 0, result.stderr[-500:]
    text = result.stdout.decode(encoding)
    assert "best tau" in text
    assert "w_c / ||w_c||^tau" in text


def test_an_error_message(tmp_path):
    result = run([["tnorm", "--features", "κατάλογος"]], "latin-1", tmp_path)
    assert result.returncode == 1
    assert result.stderr.decode("latin-1").startswith("Error: ")
