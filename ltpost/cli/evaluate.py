"""``ltpost evaluate``: figures of saved heads on a split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ltpost.cli.options import cost_option, folder_option, shot_options, test_prior_option
from ltpost.cli.plotting import Draw, plot_options
from ltpost.cli.printing import Output, output_options, report_options
from ltpost.tables import Table


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
@click.option(
    "--calibration",
    "with_calibration",
    is_flag=True,
    help="Print NLL, ECE and Brier too, with the temperature that is saved with a head.",
)
@test_prior_option
@cost_option
@report_options
@plot_options
@output_options
def evaluate(
    heads: tuple[Path, ...],
    split: str | None,
    folder: Path,
    many_shot: int,
    few_shot: int,
    with_calibration: bool,
    test_priors: tuple[str, ...],
    cost: Path | None,
    shown: dict[str, Any],
    output: Output,
    draw: Draw,
) -> None:
    """Figures of saved heads on a split, beside the joint classifier.

    Example: ltpost evaluate --head heads/tnorm.safetensors --split test
    """
    from ltpost.data.folder import FeatureFolder
    from ltpost.evaluation import evaluate_heads, splits_seen
    from ltpost.heads import load_head
    from ltpost.scores.goal import costs_of

    files = FeatureFolder(folder)
    rows = files.reported(split)
    named = {str(path): load_head(path) for path in heads}
    report = evaluate_heads(
        named,
        rows,
        many_shot,
        few_shot,
        with_calibration=with_calibration,
        test_priors=test_priors,
        cost=None if cost is None else costs_of(cost, rows.num_classes),
        **shown,
    )
    notes = files.notes([rows.split], beside=[split for head in named.values() for split in splits_seen(head)])
    if output.csv_file is not None:
        report.to_csv(output.csv_file)
    blocks: list[Table | str] = [*report.blocks(output.style), *(f"note: {note}" for note in notes)]
    draw(report)
    output.show(blocks, records=report.table_records, as_json=report.as_dict)
    if not output.is_for_people:
        for note in notes:
            click.echo(f"note: {note}", err=True)
