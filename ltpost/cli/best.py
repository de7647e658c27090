"""``ltpost best``: the best head that val can tell, from a ladder of cheap to rich ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ltpost.cli.options import split_options
from ltpost.cli.printing import Output, output_options
from ltpost.data import distributed

if TYPE_CHECKING:
    from ltpost.experiment import Experiment


@click.command()
@click.option(
    "--budget", type=click.FloatRange(0), help="Seconds after which nothing more is tried.  [default: no limit]"
)
@click.option("--only", type=click.Choice(["linear"]), help="Leave out what is no linear layer.  [default: all]")
@click.option(
    "--fit-on-val",
    is_flag=True,
    help="Try methods that fit to val labels, too; they are kept only where val has 2,000 rows or 20 per class.",
)
@click.option(
    "--transductive", is_flag=True, help="Try methods that see the rows to classify, without labels, and know --prior."
)
@click.option(
    "--prior",
    "target_prior",
    default="uniform",
    show_default=True,
    help="With --transductive: class prior of the rows to classify, as --target-prior of pc-softmax.",
)
@click.option(
    "--heads", type=click.Path(path_type=Path), default=Path("heads"), show_default=True, help="Folder for both heads."
)
@output_options
@split_options
def best(
    experiment: Experiment,
    budget: float | None,
    only: str | None,
    fit_on_val: bool,
    transductive: bool,
    target_prior: str,
    heads: Path,
    output: Output,
) -> None:
    """The best head that val can tell, and the best linear layer.

    Climbs from single methods to earlier layers, keeps a rung only if its gain on val is beyond noise, and reports on
    test at the end.

    Example: ltpost best --fit-on-val
    """
    from ltpost.heads.keeping import save_and_keep
    from ltpost.ladder import best as climb

    ladder = climb(
        experiment,
        budget=budget,
        only=only,
        fit_on_val=fit_on_val,
        transductive=transductive,
        target_prior=target_prior,
    )
    if distributed.rank() > 0:
        return
    written = {name: save_and_keep(head, heads / f"{name}.safetensors") for name, head in ladder.heads.items()}
    saved = {name: path for name, (path, _) in written.items()}
    if output.csv_file is not None:
        ladder.report.to_csv(output.csv_file)
    output.show(
        ladder.blocks(output.style),
        records=ladder.report.table_records,
        as_json=lambda: {**ladder.as_dict(), "heads": {name: str(path) for name, path in saved.items()}},
    )
    output.say(f"heads: {', '.join(map(str, saved.values()))}")
    output.note(*(line for _, line in written.values()))
