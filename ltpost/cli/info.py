"""``ltpost info``: what a feature file holds."""

from __future__ import annotations

from pathlib import Path

import click

from ltpost.cli.options import print_json


@click.command()
@click.argument("files", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(files: tuple[Path, ...], as_json: bool) -> None:
    """What is inside feature files: shapes, class counts, joint accuracy, provenance.

    Example: ltpost info features/val.h5
    """
    from ltpost.data.load import load
    from ltpost.report.summary import Summary

    summaries = [Summary.of(load(path)) for path in files]
    if as_json:
        print_json([summary.as_dict() for summary in summaries])
        return
    click.echo("\n\n".join(str(summary) for summary in summaries))
