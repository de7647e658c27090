"""One command per method, and ``compare``: choose on val, report on test, save the head."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ltpost import distributed
from ltpost.cli.options import Command, Grid, experiment_options, output_options, print_json

if TYPE_CHECKING:
    from ltpost.pipeline import Experiment, Outcome

METRICS = ("cosine", "euclidean", "cl2n", "l2n", "un")
SOLVERS = ("convex", "sgd")
SAMPLERS = ("class-balanced", "instance", "square-root", "progressive")

PRECISIONS = ("float32", "bfloat16")


def grid_option(default: str) -> Callable[[Command], Command]:
    """``--tau-grid``."""
    return click.option(
        "--tau-grid",
        type=Grid(),
        default=default,
        show_default=True,
        help="Values of tau to print, start:stop:step with the stop included, or 0.5,1,1.5. tau is chosen exactly, "
        "between the first and the last of them.",
    )


head_option = click.option(
    "--out",
    "head_file",
    type=click.Path(path_type=Path),
    help="File, or folder, for the head.  [default: heads/<method>.safetensors]",
)


@click.command()
@grid_option("0:2:0.1")
@click.option(
    "--bias",
    type=click.Choice(["drop", "scale", "keep"]),
    default="drop",
    show_default=True,
    help="drop: none, as in the paper; scale: like the weights; keep: unchanged (chosen from the grid only).",
)
@head_option
@output_options
@experiment_options
def tnorm(experiment: Experiment, tau_grid: tuple[float, ...], bias: str, **output: Any) -> None:
    """Tau-normalization: w_c / ‖w_c‖^tau (Kang et al., ICLR 2020).

    Example: ltpost tnorm --tau-grid 0:2:0.1
    """
    finish(experiment.run("tnorm", grid=tau_grid, bias=bias), **output)


@click.command()
@grid_option("0:2:0.1")
@head_option
@output_options
@experiment_options
def la(experiment: Experiment, tau_grid: tuple[float, ...], **output: Any) -> None:
    """Post-hoc logit adjustment: z_c - tau log prior_c (Menon et al., ICLR 2021).

    Example: ltpost la
    """
    finish(experiment.run("la", grid=tau_grid), **output)


@click.command()
@grid_option("0:1:0.05")
@head_option
@output_options
@experiment_options
def mla(experiment: Experiment, tau_grid: tuple[float, ...], **output: Any) -> None:
    """Multiplicative logit adjustment: z_c / prior_c^tau (Hasegawa & Sato, ICLR 2024).

    Example: ltpost mla --tau-grid 0:1:0.05
    """
    finish(experiment.run("mla", grid=tau_grid), **output)


@click.command()
@click.option(
    "--metric",
    type=click.Choice(METRICS),
    default="cosine",
    show_default=True,
    help="cosine and euclidean are linear heads; cl2n, l2n and un are those of the reference code.",
)
@head_option
@output_options
@experiment_options
def ncm(experiment: Experiment, metric: str, **output: Any) -> None:
    """Nearest class mean of the training features (Kang et al., ICLR 2020).

    Example: ltpost ncm --metric euclidean
    """
    finish(experiment.run("ncm", metric=metric), **output)


def fit_options(command: Any) -> Any:
    """Options of the methods that fit to the training features."""
    for option in reversed(
        [
            click.option(
                "--solver",
                type=click.Choice(SOLVERS),
                help="[default: crt convex (sgd where that takes hours), lws sgd]",
            ),
            click.option(
                "--strengths", type=Grid(), help="convex: regularisation strengths to choose from, such as 0.01,0.1,1."
            ),
            click.option("--tolerance", type=float, help="convex: gradient norm to stop at, relative to the start's."),
            click.option("--sampler", type=click.Choice(SAMPLERS), help="sgd: how batches are drawn."),
            click.option("--epochs", type=click.IntRange(1), help="sgd."),
            click.option("--lr", "learning_rate", type=float, help="sgd: learning rate at the start."),
            click.option("--weight-decay", type=float, help="sgd."),
            click.option("--batch-size", type=click.IntRange(1), help="sgd."),
            head_option,
            output_options,
            experiment_options,
        ]
    ):
        command = option(command)
    return command


@click.command()
@click.option("--precision", type=click.Choice(PRECISIONS), help="sgd: of the matrix products.  [default: float32]")
@fit_options
def crt(experiment: Experiment, **options: Any) -> None:
    """Classifier re-training on class-balanced features (Kang et al., ICLR 2020).

    Example: ltpost crt --strengths 0.001,0.01,0.1
    """
    _fit("crt", experiment, **options)


@click.command()
@fit_options
def lws(experiment: Experiment, **options: Any) -> None:
    """Learnable weight scaling: f_c w_c with f learned (Kang et al., ICLR 2020).

    Example: ltpost lws --solver sgd
    """
    _fit("lws", experiment, **options)


def _fit(
    method: str, experiment: Experiment, head_file: Path | None, csv_file: Path | None, as_json: bool, **options: Any
) -> None:
    given = {name: value for name, value in options.items() if value is not None}
    outcome = experiment.run(method, grid=given.get("strengths"), **given)
    finish(outcome, head_file=head_file, csv_file=csv_file, as_json=as_json)


@click.command()
@click.option("--methods", help="Which ones, such as tnorm,la,crt.  [default: all that the files suffice for]")
@click.option(
    "--heads", type=click.Path(path_type=Path), default=Path("heads"), show_default=True, help="Folder for the heads."
)
@output_options
@experiment_options
def compare(experiment: Experiment, methods: str | None, heads: Path, csv_file: Path | None, as_json: bool) -> None:
    """Every method, chosen on val, in one table.

    Example: ltpost compare --csv results.csv
    """
    from ltpost import pipeline

    chosen = None if methods is None else [name.strip() for name in methods.split(",") if name.strip()]
    outcomes = pipeline.compare(experiment, chosen)
    if distributed.rank() > 0:
        return  # every process chooses and evaluates alike; one of them says so
    report = pipeline.compare_report(outcomes)
    for outcome in outcomes:
        outcome.save_head(heads / f"{outcome.method}.safetensors")
    if csv_file is not None:
        report.to_csv(csv_file)
    if as_json:
        print_json({"methods": [outcome.as_dict() for outcome in outcomes], "results": report.as_dict()})
        return
    click.echo(str(report))
    for outcome in outcomes:
        for note in outcome.notes:
            click.echo(f"\n{outcome.method}: {note}")
    for method in pipeline.METHODS if chosen is None else ():
        if needs := pipeline.missing(experiment, method):
            click.echo(f"\n{method}: not run, the files of {experiment.folder.path} have no {' and no '.join(needs)}")
    click.echo(f"\nheads: {heads}/")


def finish(outcome: Outcome, *, head_file: Path | None, csv_file: Path | None, as_json: bool) -> None:
    """Save the head, and print what was found."""
    from ltpost.head import LinearHead

    if distributed.rank() > 0:
        return
    saved = None
    if isinstance(outcome.head, LinearHead) or head_file is not None:
        place = head_file or Path("heads") / f"{outcome.method}.safetensors"
        saved = outcome.save_head(place / f"{outcome.method}.safetensors" if place.is_dir() else place)
    if csv_file is not None:
        outcome.report.to_csv(csv_file)
    if as_json:
        print_json({**outcome.as_dict(), "head": None if saved is None else str(saved)})
        return
    click.echo(outcome.summary())
    click.echo(f"\nhead: {saved}" if saved else "\nhead: not saved, it is not linear in the features")
