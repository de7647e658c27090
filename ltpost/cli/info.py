"""``ltpost info``: what a feature file holds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from ltpost.cli.printing import Output, output_options, print_json
from ltpost.errors import DataError, UsageError

SAFE_SECONDS = 60


@click.command()
@click.argument("files", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option(
    "--safe",
    is_flag=True,
    help=f"Read each file in a process of its own, for at most {SAFE_SECONDS} s: for files of strangers.",
)
@output_options
def info(files: tuple[Path, ...], safe: bool, output: Output) -> None:
    """What is inside feature files: shapes, class counts, joint accuracy, provenance.

    Example: ltpost info features/val.h5
    """
    if safe:
        as_json = output.form == "json"
        if output.form not in ("text", "json") or output.csv_file is not None:
            raise UsageError("safe= prints text or JSON only")
        texts = [in_a_child(path, as_json) for path in files]
        if as_json:
            print_json([summary for text in texts for summary in json.loads(text)])
        else:
            click.echo("\n\n".join(text.rstrip("\n") for text in texts))
        return
    from ltpost.data.load import load
    from ltpost.report.summary import Summary
    from ltpost.tables import write_csv

    summaries = [Summary.of(load(path)) for path in files]
    records = [summary.record() for summary in summaries]
    if output.csv_file is not None:
        write_csv(records, output.csv_file)
    as_text = output.form == "text" and not output.style.quiet
    blocks = [str(summary) if as_text else summary.table() for summary in summaries]
    output.show(blocks, records=lambda: records, as_json=lambda: [summary.as_dict() for summary in summaries])


def in_a_child(path: Path, as_json: bool = False, seconds: float = SAFE_SECONDS) -> str:
    """What ``ltpost info`` prints for a file, read by another process.

    Raises:
        DataError: the file is refused, or reading it crashes or does not end.
    """
    words: list[Any] = [sys.executable, "-m", "ltpost", "info", *(["--json"] if as_json else []), "--", path]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        raise DataError(f"{path}: reading it has not ended after {seconds:g} s; do not open this file") from None
    if done.returncode < 0:
        raise DataError(f"{path}: reading it ends the process by signal {-done.returncode}; do not open this file")
    if done.returncode:
        raise DataError(done.stderr.strip().removeprefix("Error: ") or f"{path}: cannot be read")
    return done.stdout
