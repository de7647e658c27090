"""``ltpost diagnose``: why a head is right where it is."""

from __future__ import annotations

from pathlib import Path

import click

from ltpost.cli.options import folder_option, shot_options
from ltpost.cli.printing import Output, output_options


@click.command()
@click.option("--head", "head_file", type=click.Path(path_type=Path), help="A saved head.  [default: the joint one]")
@click.option("--split", help="Split to look at.  [default: test, or val where there is no test]")
@folder_option
@click.option("--only", help="Which diagnostics, such as norms,collapse.  [default: all]")
@shot_options
@click.option("--pictures", type=click.Path(path_type=Path), help="Folder for one picture of each, <name>.png.")
@output_options
def diagnose(
    head_file: Path | None,
    split: str | None,
    folder: Path,
    only: str | None,
    many_shot: int,
    few_shot: int,
    pictures: Path | None,
    output: Output,
) -> None:
    """Norms, margins, confusion, collapse and more of a head, by many-, medium- and few-shot classes.

    Example: ltpost diagnose --head heads/crt.safetensors --only norms,gains --pictures pictures
    """
    from ltpost import diagnostics
    from ltpost.data.folder import FeatureFolder
    from ltpost.heads import load_head
    from ltpost.plots import save
    from ltpost.tables import write_csv

    rows = FeatureFolder(folder).reported(split)
    head = None if head_file is None else load_head(head_file)
    keys = [key.strip() for key in (only or "").split(",") if key.strip()]
    groups = rows.shot_groups(many_shot, few_shot)
    diagnosis = diagnostics.diagnose(rows, head, groups, only=keys, name=str(head_file or ""))
    if pictures is not None:
        for key, finding in diagnosis.findings.items():
            save(finding.plot(), pictures / f"{key}.png")
    if output.csv_file is not None:
        write_csv(diagnosis.records(), output.csv_file)
    output.show(diagnosis.blocks(), records=diagnosis.records, as_json=diagnosis.as_dict)
