"""One command per method, made from its declaration: choose on val, report on test, save the head."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ltpost import methods
from ltpost.cli.options import Grid, Numbers, experiment_options, output_options, print_json
from ltpost.data import distributed
from ltpost.method import NEEDS, Method, Option

if TYPE_CHECKING:
    from ltpost.experiment import Experiment
    from ltpost.outcome import Outcome

#: shorter names of options, beside the usual ones
ALIASES = {"learning_rate": "--lr"}
_TYPES = {int: int, float: float, str: str, tuple: Numbers()}

head_option = click.option(
    "--out",
    "head_file",
    type=click.Path(path_type=Path),
    help="File, or folder, for the head.  [default: heads/<method>.safetensors]",
)


def method_command(key: str) -> click.Command:
    """The command of a method."""
    method = methods.get(key)

    @experiment_options
    def run(
        experiment: Experiment, head_file: Path | None, csv_file: Path | None, as_json: bool, **options: Any
    ) -> None:
        outcome = experiment.run(method, **given(options))
        finish(outcome, head_file=head_file, csv_file=csv_file, as_json=as_json)

    run = output_options(head_option(run))
    command = click.command(key, help=_help(method), short_help=short_help(method))(run)
    command.params = [*_own_parameters(method), *command.params]
    return command


def short_help(method: Method) -> str:
    """One line: title, equation and source."""
    return f"{method.title[0].upper()}{method.title[1:]}: {method.equation} ({method.source})."


def _help(method: Method) -> str:
    """The line, what the method does, and an example."""
    variant = "" if method.variant == "exact" else f"\n\nVariant: {method.variant}."
    example = f"\n\nExample: {method.example}" if method.example else ""
    return f"{short_help(method)}\n\n{method.does}.{variant}{example}"


def _own_parameters(method: Method) -> list[click.Parameter]:
    parameters: list[click.Parameter] = []
    if method.grid:
        name = method.chosen_name
        text = (
            f"Values of {name} to print, start:stop:step with the stop included, or 0.5,1,1.5. {name} is chosen "
            f"between the first and the last of them.  [default: {_grid_text(method.grid)}]"
        )
        parameters.append(click.Option([f"--{name}-grid", "grid"], type=Grid(), help=text))
    return parameters + [_option(option) for option in method.options.values()]


def _option(option: Option) -> click.Option:
    """An option of a command. The default belongs to the function of the method; here it is only shown."""
    flag = f"--{option.name.replace('_', '-')}"
    help_text = option.help[:1].upper() + option.help[1:]
    if option.default is not None:
        help_text += f"  [default: {_text(option.default)}]"
    if option.type is bool:
        return click.Option([f"{flag}/--no-{flag[2:]}"], default=None, help=help_text)
    kind = click.Choice([str(choice) for choice in option.choices]) if option.choices else _TYPES[option.type]
    names = [option.name, flag, *([ALIASES[option.name]] if option.name in ALIASES else [])]
    return click.Option(names, type=kind, default=None, help=help_text)


def _text(value: Any) -> str:
    return ",".join(f"{part:g}" for part in value) if isinstance(value, tuple) else str(value)


def _grid_text(grid: tuple[float, ...]) -> str:
    """A grid as it is written on the command line.

    >>> _grid_text((0.0, 0.5, 1.0))
    '0:1:0.5'
    """
    step = round(grid[1] - grid[0], 10) if len(grid) > 1 else 0
    even = step > 0 and all(abs(b - a - step) < 1e-9 for a, b in pairwise(grid))
    return f"{grid[0]:g}:{grid[-1]:g}:{step:g}" if even else _text(grid)


def given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that the user gave."""
    return {name: value for name, value in options.items() if value is not None}


@click.command()
@click.option(
    "--methods",
    "names",
    default="default",
    show_default=True,
    help=f"Which ones, such as tnorm,la,crt, or sets of them: all, {', '.join(methods.SETS)}. Of a set, those run for "
    "which the files suffice.",
)
@click.option(
    "--heads", type=click.Path(path_type=Path), default=Path("heads"), show_default=True, help="Folder for the heads."
)
@output_options
@experiment_options
def compare(experiment: Experiment, names: str, heads: Path, csv_file: Path | None, as_json: bool) -> None:
    """Several methods, chosen on val, in one table. Ctrl-C keeps those that are finished.

    Example: ltpost compare --csv results.csv
    """
    from ltpost import comparison

    asked = [name.strip() for name in names.split(",") if name.strip()]
    keys = methods.keys_of(asked)
    lacking = {key: needs for key in keys if key not in asked and (needs := comparison.missing(experiment, key))}
    try:
        outcomes = comparison.compare(experiment, [key for key in keys if key not in lacking])
    except comparison.Interrupted as stop:
        _finish_all(experiment, stop.outcomes, lacking, stop.unfinished, heads, csv_file, as_json)
        raise
    _finish_all(experiment, outcomes, lacking, (), heads, csv_file, as_json)


def _finish_all(
    experiment: Experiment,
    outcomes: list[Outcome],
    lacking: dict[str, list[str]],
    unfinished: tuple[str, ...],
    heads: Path,
    csv_file: Path | None,
    as_json: bool,
) -> None:
    """Save the heads, and print the results; ``unfinished`` are methods that Ctrl-C has left out."""
    from ltpost import comparison

    if distributed.rank() > 0:
        return  # every process chooses and evaluates alike; one of them says so
    report = comparison.compare_report(outcomes)
    for outcome in outcomes:
        outcome.save_head(heads / f"{outcome.method}.safetensors")
    if csv_file is not None:
        report.to_csv(csv_file)
    if as_json:
        left_out = {"unfinished": list(unfinished)} if unfinished else {}
        print_json({"methods": [outcome.as_dict() for outcome in outcomes], "results": report.as_dict(), **left_out})
        return
    click.echo(str(report))
    for note in experiment.notes:
        click.echo(f"\nnote: {note}")
    for outcome in outcomes:
        for note in outcome.notes:
            if note not in experiment.notes:
                click.echo(f"\n{outcome.method}: {note}")
    for key, needs in lacking.items():
        words = " and ".join(NEEDS[need] for need in needs)
        click.echo(f"\n{key}: not run, it needs {words}, which {experiment.folder.path} does not hold")
    if unfinished:
        click.echo(f"\nnot finished: {', '.join(unfinished)}; ltpost compare --methods {','.join(unfinished)}")
    click.echo(f"\nheads: {heads}/")


def finish(outcome: Outcome, *, head_file: Path | None, csv_file: Path | None, as_json: bool) -> None:
    """Save the head, and print the results."""
    if distributed.rank() > 0:
        return
    place = head_file or Path("heads") / f"{outcome.method}.safetensors"
    saved = outcome.save_head(place / f"{outcome.method}.safetensors" if place.is_dir() else place)
    if csv_file is not None:
        outcome.report.to_csv(csv_file)
    if as_json:
        print_json({**outcome.as_dict(), "head": str(saved)})
        return
    click.echo(outcome.summary())
    click.echo(f"\nhead: {saved}")
