"""``ltpost evaluate``: figures of saved heads on a split."""

from __future__ import annotations

from pathlib import Path

import click

from ltpost.cli.options import folder_option, output_options, print_json, shot_options, test_prior_option


@click.command()
@click.option(
    "--head",
    "heads",
    type=click.Path(path_type=Path),
    multiple=True,
    help="A head that ltpost saved; may be given several times. The joint classifier is always shown.",
)
@click.option("--split", help="Split to evaluate on.  [default: test, or val where there is no test]")
@folder_option
@shot_options
@click.option("--per-class", is_flag=True, help="Print the accuracy of every class too.")
@click.option(
    "--calibration",
    "with_calibration",
    is_flag=True,
    help="Print NLL, ECE and Brier too, with the temperature that is saved with a head.",
)
@test_prior_option
@output_options
def evaluate(
    heads: tuple[Path, ...],
    split: str | None,
    folder: Path,
    many_shot: int,
    few_shot: int,
    per_class: bool,
    with_calibration: bool,
    test_priors: tuple[str, ...],
    csv_file: Path | None,
    as_json: bool,
) -> None:
    """Figures of saved heads on a split, beside the joint classifier.

    Example: ltpost evaluate --head heads/tnorm.safetensors --split test
    """
    from ltpost.data.folder import FeatureFolder
    from ltpost.evaluation import evaluate_heads
    from ltpost.heads import load_head

    files = FeatureFolder(folder)
    rows = files.reported(split)
    report = evaluate_heads(
        {str(path): load_head(path) for path in heads},
        rows,
        many_shot,
        few_shot,
        with_calibration=with_calibration,
        test_priors=test_priors,
    )
    notes = files.notes([rows.split])
    if csv_file is not None:
        report.to_csv(csv_file)
    if as_json:
        print_json(report.as_dict())
        for note in notes:
            click.echo(f"note: {note}", err=True)
        return
    click.echo(str(report))
    for note in notes:
        click.echo(f"\nnote: {note}")
    if per_class:
        click.echo(f"\n{report.per_class_table()}")
