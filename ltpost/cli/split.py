"""``ltpost split``: a val split for data sets that have none."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--val",
    type=float,
    default=20,
    show_default=True,
    help="Rows per class that go to val, or a fraction below 1; at most half of a class.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the draw.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for val.h5 and test.h5.  [default: the folder of the file with -split]",
)
def split(file: Path, val: float, seed: int, out: Path | None) -> None:
    """Draw a val split at random from a test split, stratified by class.

    Example: ltpost split features/test.h5 --val 20
    """
    from ltpost.data.load import load
    from ltpost.data.split import split_file

    for written in split_file(file, out, val=val, seed=seed):
        click.echo(f"{written}: {len(load(written)):,} rows")
    click.echo(f"choose and report on them with --features {written.parent}")
