"""``ltpost report``: everything that a comparison shows, as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ltpost.cli.options import experiment_options, methods_option

if TYPE_CHECKING:
    from ltpost.experiment import Experiment


@click.command()
@methods_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("report.html"),
    show_default=True,
    help="The HTML file.",
)
@click.option("--title", default="Rebalanced classifiers", show_default=True, help="Of the page.")
@experiment_options
def report(experiment: Experiment, names: tuple[str, ...], out: Path, title: str) -> None:
    """Compare methods, and write all of it to one HTML file that works offline.

    Tables with intervals, a slider over every value of a hyperparameter, many against few, every class, norms,
    reliability, confusion, diagnostics and signatures.

    Example: ltpost report --methods tnorm,la,crt --out report.html
    """
    from ltpost import comparison
    from ltpost.data import distributed
    from ltpost.page import write_report

    outcomes, not_run = comparison.compare_sets(experiment, names)
    if distributed.rank() > 0:
        return
    for key, reason in not_run.items():
        click.echo(f"{key}: not run, {reason}")
    click.echo(f"report: {write_report(experiment, outcomes, out, title=title)}")
