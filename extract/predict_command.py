"""``ltpost predict``: read the options, one library call, print or write the answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ltpost.cli.printing import Output, output_options


@click.command()
@click.argument("source", metavar="SOURCE")
@click.option("--head", metavar="FILE", help="A saved head.  [default: the network's own classifier]")
@click.option("--ckpt", metavar="FILE", help="The network that gives the features.")
@click.option("--top", type=int, default=5, show_default=True, help="How many classes for each row.")
@click.option("--out", type=click.Path(path_type=Path), help="Write all answers: .csv, .json or .parquet.")
@click.option(
    "--features",
    default="features",
    show_default=True,
    metavar="PATH",
    help="Feature file or folder that says how images were prepared, and names the classes.",
)
@click.option("--root", metavar="DIR", help="Where the paths of a list start.  [default: the folder of the list]")
@click.option("--column", metavar="NAME", help="Column of a table that holds the texts or sounds.  [default: found]")
@click.option("--arch", help="As for extract.")
@click.option("--head-key", help="As for extract.")
@click.option("--expert", metavar="E", help="As for extract.")
@click.option("--batch-size", type=int, default=64, show_default=True, help="Rows at a time.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …")
@output_options
def predict(out: Path | None, output: Output, **options: Any) -> None:
    """The most probable classes of images, texts, sounds, or rows of a feature file; labels are not needed.

    SOURCE is a folder of images, an image, a text file with a path a line, or a feature file (.h5). For a model folder
    of transformers that takes texts or sounds it is a .csv or .parquet table, or a text file with a text or a path a
    line. Probabilities are calibrated where a temperature is saved with the head (--calibration of the methods).

    \b
    For example:
      ltpost predict --head heads/tnorm.safetensors --ckpt r50.pth photos/ --out answers.csv
      ltpost predict --head heads/tnorm.safetensors features/test.h5
      ltpost predict --head heads/la.safetensors --ckpt my-bert/ new.csv --column message
    """
    from ltpost.extract.predict import predict as predict_classes
    from ltpost.predictions import check_ending
    from ltpost.tables import write_csv

    if out is not None:
        check_ending(out)
    answers = predict_classes(**options)
    if out is not None:
        answers.save(out)
    if output.csv_file is not None:
        write_csv(answers.records(), output.csv_file)
    if out is None or output.form != "text":
        output.show([answers.table()], records=answers.records, as_json=answers.as_dict)
    else:
        output.say(f"{out}: {len(answers):,} rows")
