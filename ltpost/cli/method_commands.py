"""One command per method, made from its declaration: choose on val, report on test, save the head."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ltpost import methods
from ltpost.cli.options import Grid, Numbers, experiment_options, methods_option
from ltpost.cli.plotting import Draw, plot_options
from ltpost.cli.printing import Output, output_options, report_options
from ltpost.data import distributed
from ltpost.heads.keeping import save_and_keep
from ltpost.method import Method, Option

if TYPE_CHECKING:
    from ltpost.experiment import Experiment
    from ltpost.outcome import Outcome
    from ltpost.tables import Table

#: shorter names of options, beside the usual ones
ALIASES = {"learning_rate": "--lr"}
_TYPES = {int: int, float: float, str: str, tuple: Numbers()}

head_option = click.option(
    "--out",
    "head_file",
    type=click.Path(path_type=Path),
    help="File, or folder, for the head. A FILE is replaced; in a folder a head of other settings is kept beside.  "
    "[default: heads/<method>.safetensors]",
)


def method_command(key: str) -> click.Command:
    """The command of a method."""
    method = methods.get(key)

    @experiment_options
    def run(
        experiment: Experiment,
        head_file: Path | None,
        shown: dict[str, Any],
        output: Output,
        draw: Draw,
        **options: Any,
    ) -> None:
        outcome = experiment.run(method, **given(options))
        finish(outcome, head_file, output, draw, figure=experiment.figure, **shown)

    run = output_options(plot_options(report_options(head_option(run))))
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
@methods_option
@click.option(
    "--heads", type=click.Path(path_type=Path), default=Path("heads"), show_default=True, help="Folder for the heads."
)
@click.option(
    "--front",
    "front_files",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Print the Pareto front of Many against Few on the rows of the choice, over all methods, and write every "
    "point to this file: .csv, or a picture.",
)
@report_options
@plot_options
@output_options
@experiment_options
def compare(
    experiment: Experiment,
    names: tuple[str, ...],
    heads: Path,
    front_files: tuple[Path, ...],
    shown: dict[str, Any],
    output: Output,
    draw: Draw,
) -> None:
    """Several methods, chosen on val, in one table. Ctrl-C keeps those that are finished, and replaces no file by them.

    Example: ltpost compare --csv results.csv
    """
    from ltpost import comparison

    unfinished: tuple[str, ...] = ()
    stop: comparison.Interrupted | None = None
    try:
        outcomes, not_run = comparison.compare_sets(experiment, names)
    except comparison.Interrupted as interrupted:
        stop, outcomes, unfinished = interrupted, interrupted.outcomes, interrupted.unfinished
        not_run = interrupted.not_run
    if distributed.rank() > 0:
        return  # every process chooses and evaluates alike; one of them says so
    report = comparison.compare_report(outcomes, figure=experiment.figure, **shown)
    tables = [file for file in (output.csv_file, *front_files) if file is not None]
    stay = [file for file in tables if stop is not None and file.exists()]  # they may hold all methods
    if output.csv_file is not None and output.csv_file not in stay:
        report.to_csv(output.csv_file)
    front = comparison.pareto_front(experiment, outcomes) if front_files else None
    for file in front_files:
        if front is not None and file not in stay:
            front.save(file)
    blocks: list[Table | str] = [*report.blocks(output.style), *([] if front is None else [front.table()])]
    blocks += [*(f"note: {note}" for note in experiment.notes)]
    for outcome in outcomes:
        blocks += [f"{outcome.method}: {note}" for note in outcome.notes if note not in experiment.notes]
    blocks += [f"{key}: not run, {reason}" for key, reason in not_run.items()]
    if unfinished:
        blocks.append(f"not finished: {', '.join(unfinished)}; ltpost compare --methods {','.join(unfinished)}")
        blocks += [f"{file} stays as it was" for file in stay]
    output.show(
        blocks,
        records=report.table_records,
        as_json=lambda: {
            "methods": [outcome.as_dict() for outcome in outcomes],
            "results": report.as_dict(),
            **({"not_run": not_run} if not_run else {}),
            **({"unfinished": list(unfinished)} if unfinished else {}),
            **({} if front is None else {"front": [point.record() for point in front.points]}),
        },
    )
    lines = [save_and_keep(outcome.head, heads / f"{outcome.method}.safetensors")[1] for outcome in outcomes]
    if stop is None:
        draw(report)
    output.say(f"heads: {heads}/")
    output.note(*lines)
    if stop is not None:
        raise stop


def finish(outcome: Outcome, head_file: Path | None, output: Output, draw: Draw, **shown: Any) -> None:
    """Save the head, print the results and draw them; ``shown`` are arguments of the report."""
    if distributed.rank() > 0:
        return
    place = head_file or Path("heads") / f"{outcome.method}.safetensors"
    named = head_file is not None and not place.is_dir()
    place = place / f"{outcome.method}.safetensors" if place.is_dir() else place
    saved, line = save_and_keep(outcome.head, place, replace=named)
    report = outcome.report_with(**shown)
    if output.csv_file is not None:
        report.to_csv(output.csv_file)
    output.show(
        outcome.blocks(output.style, **shown),
        records=report.table_records,
        as_json=lambda: {**outcome.as_dict(**shown), "head": str(saved)},
    )
    draw(outcome)
    output.say(f"head: {saved}")
    output.note(line)
