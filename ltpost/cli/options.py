"""Options that several commands share, and how results leave a command."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np

from ltpost import methods
from ltpost.data.priors import FEW_SHOT, MANY_SHOT
from ltpost.scores.goal import GOALS

Command = TypeVar("Command", bound=Callable[..., Any])
MOST_GRID_VALUES = 100_000
EXPERIMENT = (
    "val",
    "test",
    "select",
    "oracle",
    "many_shot",
    "few_shot",
    "seed",
    "device",
    "expert",
    "calibration",
    "test_priors",
    "coverage",
    "reject",
    "keep",
    "cost",
)


def _names(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (value or "").split(",") if name.strip())


test_prior_option = click.option(
    "--test-prior",
    "test_priors",
    callback=_names,
    help="Report Top-1 under other class priors of the rows too: forward-50, uniform, backward-50 (any factor), or "
    "dirichlet- before one; several parted by commas.  [default: none]",
)


#: several methods; the command gets them as ``names``
methods_option = click.option(
    "--methods",
    "names",
    default="default",
    show_default=True,
    callback=_names,
    help=f"Which ones, such as tnorm,la,crt, or sets of them: all, {', '.join(methods.SETS)}. Of a set, those run for "
    "which the files suffice.",
)

cost_option = click.option(
    "--cost",
    type=click.Path(path_type=Path),
    help="File of costs, C x C: a row for every class, a column for every answer. Reports the mean cost too.  "
    "[default: none]",
)


class Grid(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic from click 8.4 on
    """``start:stop:step`` with the stop included, or values parted by commas, as a tuple of floats."""

    name = "grid"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Parse, or fail with the reason."""
        if isinstance(value, tuple):
            return value
        try:
            return parse_grid(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Numbers(Grid):
    """Numbers parted by commas, in their order and as often as they are given; or a grid."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Parse, or fail with the reason."""
        numbers = super().convert(value, param, ctx)
        if isinstance(value, str) and ":" not in value:
            return tuple(float(part) for part in value.split(",") if part.strip())
        return numbers


def parse_grid(text: str) -> tuple[float, ...]:
    """Parse a grid of values.

    >>> parse_grid("0:2:0.5")
    (0.0, 0.5, 1.0, 1.5, 2.0)
    >>> parse_grid("0.1, 1")
    (0.1, 1.0)
    """
    example = "use start:stop:step, such as 0:2:0.1, or values such as 0.5,1,1.5"
    parts = text.split(":") if ":" in text else text.split(",")
    try:
        numbers = [float(part) for part in parts if part.strip() or ":" in text]
    except ValueError:
        raise ValueError(f"{text!r} is not a grid; {example}") from None
    if not np.isfinite(numbers).all():
        raise ValueError(f"{text!r} must hold finite numbers; {example}")
    if ":" not in text:
        if not numbers:
            raise ValueError(f"the grid is empty; {example}")
        return tuple(sorted(set(numbers)))
    if len(numbers) != 3:
        raise ValueError(f"{text!r} must have three parts; {example}")
    start, stop, step = numbers
    if step == 0:
        raise ValueError(f"the step of {text!r} must not be 0; {example}")
    if (stop - start) * step < 0:
        raise ValueError(f"{text!r} is empty: a step of {step:g} does not lead from {start:g} to {stop:g}; {example}")
    count = int(np.floor((stop - start) / step + 1e-9)) + 1
    if count > MOST_GRID_VALUES:
        raise ValueError(
            f"{text!r} has {count:,} values; at most {MOST_GRID_VALUES:,} make sense, the curve is exact anyway"
        )
    return tuple(sorted(round(start + k * step, 10) for k in range(count)))


#: ``--features``, where one folder is read; the command gets it as ``folder``
folder_option = click.option(
    "--features",
    "folder",
    type=click.Path(path_type=Path),
    default=Path("features"),
    show_default=True,
    help="Folder of the feature files <split>.h5.",
)


def shot_options(command: Command) -> Command:
    """``--many-shot`` and ``--few-shot``; the command gets them by these names."""
    command = click.option(
        "--few-shot", type=int, default=FEW_SHOT, show_default=True, help="Few: fewer training samples than this."
    )(command)
    return click.option(
        "--many-shot", type=int, default=MANY_SHOT, show_default=True, help="Many: more training samples than this."
    )(command)


def split_options(command: Command) -> Command:
    """Options of :class:`ltpost.experiment.Experiment` that say which rows decide; the command gets ``experiment``."""

    @click.option(
        "--features",
        "folder",
        type=click.Path(path_type=Path),
        default=Path("features"),
        show_default=True,
        help="Folder of the feature files <split>.h5; under torchrun also the parts of train, 'features/train-*.h5'. "
        "Several folders, a,b, are the experts of one ensemble.",
    )
    @click.option("--val", default="val", show_default=True, help="Split to choose on.")
    @click.option("--test", default="test", show_default=True, help="Split to report.")
    @click.option(
        "--select",
        type=click.Choice(GOALS),
        default="all",
        show_default=True,
        help="Figure to choose by: all is the mean per-class accuracy, harmonic the harmonic mean of the groups; f1, "
        "precision and recall are those of the rarer of two classes, else means over classes; cost needs --cost.",
    )
    @shot_options
    @click.option(
        "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of folds, bootstrap and sampling."
    )
    @click.option("--device", default="cpu", show_default=True, help="Where to compute: cpu, cuda, cuda:1, auto.")
    @click.option("--expert", type=int, help="One of several experts, 0, 1, …  [default: their mean]")
    @functools.wraps(command)
    def wrapper(*args: Any, folder: Path, **kwargs: Any) -> Any:
        from ltpost.data import distributed
        from ltpost.experiment import Experiment

        settings = {name: kwargs.pop(name) for name in EXPERIMENT if name in kwargs}
        distributed.start(settings["device"])
        try:
            return command(*args, experiment=Experiment(folder, **settings), **kwargs)
        finally:
            distributed.stop()

    return wrapper  # type: ignore[return-value]


def experiment_options(command: Command) -> Command:
    """All options of :class:`ltpost.experiment.Experiment`; the command gets them as ``experiment``."""
    more = (
        test_prior_option,
        click.option(
            "--coverage",
            type=float,
            help="Make sets of classes on val that hold the right one with this probability, such as 0.9; report their "
            "size and coverage on test.  [default: none]",
        ),
        click.option(
            "--reject",
            type=float,
            help="Leave this share of rows unanswered, such as 0.1: the least sure ones (Chow's rule), or those that "
            "keep many-, medium- and few-shot classes equally right (plug-in rule); thresholds are chosen on val.  "
            "[default: none]",
        ),
        click.option(
            "--calibration",
            is_flag=False,
            flag_value="temperature",
            type=click.Choice(["temperature", "bias", "bcts", "vector"]),
            help="Fit probabilities on val after every choice, and report NLL, ECE and Brier; without a "
            "value, by one temperature.  [default: none]",
        ),
        click.option("--oracle", is_flag=True, help="Choose on the reported split itself; the row says so."),
        cost_option,
        click.option(
            "--keep",
            callback=_names,
            help="What the choice must keep: many:-2, at most 2 points below the joint classifier; 'precision>=50', "
            "at least 50 %; several parted by commas.  [default: nothing]",
        ),
    )
    for option in more:
        command = option(command)
    return split_options(command)
