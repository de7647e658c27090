"""How images and labels are read: the options of an extraction that must be those of the training code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ltpost.extract.pixels.preprocess import Preprocess


@dataclass(frozen=True)
class Reading:
    """Options of :func:`ltpost.extract.extract_features`, None where they are left to the network and the data."""

    weights: str | None = None
    img_size: int | None = None
    crop_pct: float | None = None
    interpolation: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    channels: str | None = None
    class_order: str | None = None

    def changed(self, options: Mapping[str, Any]) -> Reading:
        """This reading with other values of some options."""
        return replace(self, **options)

    def preprocess(self, base: Preprocess) -> Preprocess:
        """The transform, from that of the network.

        Raises:
            UsageError: a value cannot be used.
        """
        options = asdict(self)
        del options["weights"], options["class_order"]
        return base.changed(**options)

    def changes(self, other: Reading) -> dict[str, Any]:
        """The options in which this reading differs from another one; None where it leaves an option out."""
        theirs = asdict(other)
        return {name: value for name, value in asdict(self).items() if value != theirs[name]}


def command_options(options: Mapping[str, Any]) -> str:
    """Options as the command line takes them, without those that are None.

    >>> command_options({"img_size": 64, "mean": (0.5, 0.25)})
    '--img-size 64 --mean 0.5,0.25'
    """
    return " ".join(
        f"--{name.replace('_', '-')} {_text(value)}" for name, value in options.items() if value is not None
    )


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
