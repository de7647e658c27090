"""Pooled outputs of modules inside a network, taken from the same forward pass as its features.

A tap is written ``layer2@4``: the path of a module, and how its output is pooled. Modules are read by forward hooks,
not by a traced graph. Hooks work for every module that PyTorch can run, keep the classifier and its logits as they are,
and need nothing of the model but its names. Graphs (``torch.fx``, as in the feature extractors of torchvision and timm)
stop at control flow, which the models of transformers are full of.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ltpost.errors import DataError, UsageError

#: columns of a pooled map, where its pooling is not named: it is the finest of these squares that stays below
MOST_COLUMNS, SIDES = 512, (4, 2, 1)
#: tokens before those of the patches, at most: the class token, a distillation token, registers
_MOST_PREFIX = 16
#: how poolings other than averages of maps are called in a file
_WORDS = {"cls": "class token", "mean": "mean token", "": "none"}


@dataclass(frozen=True)
class Tap:
    """A module and how its output is pooled.

    Args:
        module: its path in the network, such as "layer3.0".
        pooling: "4" averages a map to 4 x 4 and flattens it channels first; "cls" takes the class token; "mean"
            averages the tokens of the patches; "" takes a vector as it is, or leaves the choice to the output.
    """

    module: str
    pooling: str = ""

    @property
    def name(self) -> str:
        """As it is written, and stored in ``layers/<name>``."""
        return f"{self.module}@{self.pooling}" if self.pooling else self.module

    @property
    def attrs(self) -> dict[str, str]:
        """What is stored with the dataset."""
        average = f"average {self.pooling}x{self.pooling}"
        return {"module": self.module, "pooling": _WORDS.get(self.pooling, average)}

    @classmethod
    def described(cls, attrs: Mapping[str, Any]) -> Tap | None:
        """The tap that :attr:`attrs` describe, or None.

        >>> Tap.described(Tap("layer2", "4").attrs)
        Tap(module='layer2', pooling='4')
        """
        words = {word: pooling for pooling, word in _WORDS.items()}
        pooling, module = str(attrs.get("pooling", "")), str(attrs.get("module", ""))
        square = re.fullmatch(r"average (\d+)x\1", pooling)
        known = square[1] if square else words.get(pooling)
        return cls(module, known) if module and known is not None else None


def parse_taps(text: str) -> list[Tap]:
    """Taps with commas between.

    Raises:
        UsageError: a pooling that does not exist, or a tap twice.

    >>> parse_taps("layer2@4, blocks.5")
    [Tap(module='layer2', pooling='4'), Tap(module='blocks.5', pooling='')]
    """
    taps = []
    for word in filter(None, (part.strip() for part in text.split(","))):
        module, _, pooling = word.partition("@")
        if ("@" in word and re.fullmatch(r"[1-9][0-9]{0,3}|cls|mean", pooling) is None) or not module or "/" in module:
            raise UsageError(
                f"layers={text}: '{word}' must be the path of a module, alone or with @K (average to K x K), @cls "
                "(class token) or @mean (mean token), as in layer2@4"
            )
        taps.append(Tap(module, pooling))
    if not taps:
        raise UsageError("layers= must name a module, as in layers=layer2@4, or be auto")
    return unique(taps)


def unique(taps: Sequence[Tap]) -> list[Tap]:
    """The taps; UsageError where one is there twice."""
    for tap in taps:
        if taps.count(tap) > 1:
            raise UsageError(f"layers= names '{tap.name}' twice")
    return list(taps)


class Taps:
    """Some taps of a model.

    Args:
        model: the network.
        taps: where its outputs are taken.

    Raises:
        UsageError: the model has no such module.
    """

    def __init__(self, model: nn.Module, taps: Sequence[Tap]):
        self.taps = list(taps)
        #: of the pass that runs now, or ran last: name of a tap to (n, D_l) float32
        self.now: dict[str, Tensor] = {}
        self._num_images, self._grid = 0, Grid()
        of_tokens = any(tap.pooling in ("cls", "mean") for tap in taps)
        #: the same objects in every pass, as torch.compile compiles for them
        self._hooks: list[tuple[nn.Module, Any]] = [(m, self._grid) for m in convolutions(model) if of_tokens]
        for path in dict.fromkeys(tap.module for tap in taps):
            hook = lambda _, args, output, path=path: self._keep(path, output)  # noqa: E731
            self._hooks.append((module_of(model, path), hook))

    @contextlib.contextmanager
    def kept(self, num_images: int) -> Iterator[dict[str, Tensor]]:
        """While the model runs on so many images: ``now``, filled in as the modules end."""
        self.now.clear()
        self._grid.size, self._num_images = (), num_images
        handles = [module.register_forward_hook(hook) for module, hook in self._hooks]
        try:
            yield self.now
        finally:
            for handle in handles:
                handle.remove()

    def _keep(self, path: str, output: Any) -> None:
        for tap in self.taps:
            if tap.module == path:
                if tap.name in self.now:
                    raise DataError(f"layers: '{path}' runs more than once per image; tap a module that runs once")
                self.now[tap.name] = pooled(tensor_of(output), tap, self._num_images, self._grid)

    def complete(self, layers: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What was kept, in the order of the taps.

        Raises:
            DataError: a module did not run.
        """
        for tap in self.taps:
            if tap.name not in layers:
                raise DataError(f"layers: '{tap.module}' does not run when images are classified; tap another module")
        return {tap.name: layers[tap.name] for tap in self.taps}


def module_of(model: nn.Module, path: str) -> nn.Module:
    """The module of a path; UsageError with near names where there is none."""
    try:
        return model.get_submodule(path)
    except AttributeError:
        import difflib

        names = [name for name, _ in model.named_modules() if name]
        near = difflib.get_close_matches(path, names, n=5, cutoff=0.4) or names[-5:]
        raise UsageError(f"layers=: the model has no module '{path}'; near names are {', '.join(near)}") from None


def convolutions(model: nn.Module) -> list[nn.Module]:
    """Every convolution of a model."""
    return [module for module in model.modules() if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d))]


class Grid:
    """A hook that keeps the height and width of the last map of a convolution: of the patches, where tokens follow."""

    def __init__(self, size: tuple[int, ...] = ()):
        self.size = size

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        """Keep the size of an output (n, channels, h, w)."""
        self.size = tuple(output.shape[2:])

    def prefix(self, tokens: int) -> int:
        """How many tokens come before those of the patches.

        >>> grid = Grid()
        >>> grid.prefix(197), grid.prefix(49)  # without a convolution the patches are a square
        (1, 0)
        """
        before = tokens - math.prod(self.size) if self.size else -1
        return before if 0 <= before <= _MOST_PREFIX else tokens - math.isqrt(tokens) ** 2


def tensor_of(output: Any) -> Tensor | None:
    """The tensor that a module gave: the output, its first part, or its ``last_hidden_state``."""
    if isinstance(output, Mapping):
        output = output.get("last_hidden_state")
    elif isinstance(output, (tuple, list)):
        output = output[0] if output else None
    return output if isinstance(output, Tensor) else None


def channels_first(shape: Sequence[int]) -> tuple[int, int, int]:
    """Channels, height and width of a map (n, …); channels come last where the first two of the others are equal.

    >>> channels_first((2, 64, 7, 7)), channels_first((2, 7, 7, 64))
    ((64, 7, 7), (64, 7, 7))
    """
    _, one, two, three = shape
    return (three, one, two) if one == two != three else (one, two, three)


def poolings(shape: Sequence[int], grid: Grid) -> list[str]:
    """How an output of this shape is pooled where nothing is said.

    A map: to the finest of 4 x 4, 2 x 2 and 1 x 1 with at most 512 columns. Tokens: the class token, where there is
    one, and the mean of the others. A vector: as it is.
    """
    if len(shape) == 4:
        channels, height, width = channels_first(shape)
        fitting = [k for k in SIDES if k <= min(height, width) and k * k * channels <= MOST_COLUMNS]
        return [str(fitting[0] if fitting else 1)]
    if len(shape) == 3:
        return ["cls", "mean"] if grid.prefix(shape[1]) else ["mean"]
    return [""]


def pooled(output: Tensor | None, tap: Tap, num_images: int, grid: Grid) -> Tensor:
    """(n, D_l) float32 of what a module gave.

    Raises:
        DataError: the output cannot be pooled so; the message says what it is.
    """
    shown = "no tensor" if output is None else f"shape {tuple(output.shape)}"
    if (
        output is None
        or not output.is_floating_point()
        or output.ndim not in (2, 3, 4)
        or output.shape[0] != num_images
    ):
        raise DataError(
            f"layers: '{tap.module}' must give a map (n, channels, h, w), tokens (n, T, D) or a vector (n, D) for "
            f"{num_images} images, but gives {shown}; tap another module"
        )
    fits = {2: tap.pooling == "", 3: tap.pooling in ("cls", "mean"), 4: tap.pooling.isdecimal()}[output.ndim]
    if not fits:
        kind, right = {2: ("a vector", "no pooling"), 3: ("tokens", "@cls or @mean"), 4: ("a map", "@K")}[output.ndim]
        raise DataError(f"layers={tap.name}: '{tap.module}' gives {kind}, {shown}, which takes {right}")
    if output.ndim == 2:
        return output.float()
    if output.ndim == 3:
        prefix = grid.prefix(output.shape[1])
        if tap.pooling == "cls" and not prefix:
            raise DataError(f"layers={tap.name}: '{tap.module}' has no class token, {shown}; take @mean")
        return output[:, 0].float() if tap.pooling == "cls" else output[:, prefix:].float().mean(dim=1)
    side, first = int(tap.pooling), channels_first(output.shape)
    maps = output if first == tuple(output.shape[1:]) else output.permute(0, 3, 1, 2)
    if side > min(maps.shape[2:]):
        size = " x ".join(str(int(length)) for length in maps.shape[2:])
        raise DataError(f"layers={tap.name}: the map of '{tap.module}' is {size}, too small for {side} x {side}")
    return averaged(maps.float(), side).flatten(1)


def averaged(maps: Tensor, side: int) -> Tensor:
    """(n, channels, h, w) to (n, channels, side, side): ``torch.nn.functional.adaptive_avg_pool2d``."""
    return torch.nn.functional.adaptive_avg_pool2d(maps, side)
