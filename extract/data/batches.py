"""A batch of any form to what the model is called with, and labels.

What a batch holds is told from the first one, and said:

- ``(x, y)``, ``(x1, x2, y)``: the labels are the one column of whole numbers; what stands before them goes to the
  model.
- A mapping (also a BatchEncoding of transformers): the labels have one of ``LABEL_KEYS``; the other entries go to the
  model's parameters of the same names.

Where that cannot be told, ``inputs=`` and ``labels=`` say it.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ltpost.errors import DataError, UsageError
from ltpost.extract.data.source import as_labels

LABEL_KEYS = ("labels", "label", "y", "target", "targets", "label_ids")
#: a key or a position in the batch, several of them, or a function of the batch
Part = str | int | Sequence[str | int] | Callable[[Any], Any]


@dataclass(frozen=True)
class Arguments:
    """What a model is called with: ``model(*args, **kwargs)``, for n rows."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    rows: int

    @classmethod
    def of(cls, images: Tensor) -> Arguments:
        """One positional tensor (n, …)."""
        return cls((images,), {}, len(images))

    def changed(self, function: Callable[[Tensor], Tensor]) -> Arguments:
        """The same with every tensor changed."""
        return Arguments(each_tensor(self.args, function), each_tensor(dict(self.kwargs), function), self.rows)

    def to(self, device: torch.device) -> Arguments:
        """The same on a device."""
        return self.changed(lambda tensor: tensor.to(device, non_blocking=True))

    def filled(self, rows: int) -> Arguments:
        """The same with rows of zeros added to every tensor of n rows, up to ``rows``."""

        def longer(tensor: Tensor) -> Tensor:
            if tensor.ndim == 0 or len(tensor) != self.rows:
                return tensor
            return nn.functional.pad(tensor, (0, 0) * (tensor.ndim - 1) + (0, rows - self.rows))

        return Arguments(self.changed(longer).args, self.changed(longer).kwargs, rows)

    def sha256(self) -> str:
        """Of the numbers in all tensors."""
        digest = hashlib.sha256()

        def add(tensor: Tensor) -> Tensor:
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
            return tensor

        self.changed(add)
        return digest.hexdigest()

    def __str__(self) -> str:
        if not self.kwargs and len(self.args) == 1 and isinstance(self.args[0], Tensor) and self.args[0].ndim == 4:
            return f"images of shape {tuple(self.args[0].shape[1:])}"
        named = [*(_shown(value) for value in self.args), *(f"{key}={_shown(v)}" for key, v in self.kwargs.items())]
        return f"the inputs {', '.join(named)}"


def each_tensor(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """The same mappings, lists and tuples with every tensor changed; an object with ``to`` and no parts is left."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {key: each_tensor(part, function) for key, part in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(each_tensor(part, function) for part in value))
    if isinstance(value, list | tuple):
        return type(value)(each_tensor(part, function) for part in value)
    return value


class BatchReader:
    """Splits batches into the model's arguments and the labels.

    Args:
        model: whose ``forward`` says what it takes.
        inputs: what goes to the model: a key or position of the batch, several of them in the order of the parameters,
            or a function of the batch that gives a tensor, a tuple (positional) or a dictionary (by name).
        labels: a key or position of the batch, or a function of it that gives n whole numbers.
        class_names: C names, where labels are texts.
        name: of the data, for messages.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Part | None = None,
        labels: Part | None = None,
        class_names: Sequence[str] | None = None,
        name: str = "the loader",
    ):
        self.model, self.inputs, self.labels, self.name = model, inputs, labels, name
        self._number = None if class_names is None else {text: number for number, text in enumerate(class_names)}
        self._parameters = inspect.signature(model.forward).parameters

    def read(self, batch: Any) -> tuple[Arguments, NDArray[np.int64]]:
        """The model's arguments and labels (n,) of a batch.

        Raises:
            UsageError: what the labels or the inputs are cannot be told, or is not as ``inputs`` and ``labels`` say.
            DataError: labels are not whole numbers, one per row.
        """
        where = self._place_of_labels(batch) if self.labels is None else self.labels
        labels = self._as_labels(self._part(batch, where, "labels"))
        args, kwargs = self._inputs_of(batch, where)
        return Arguments(args, kwargs, len(labels)), labels

    def describe(self, batch: Any) -> str:
        """How a batch is read, in half a sentence."""
        if self.labels is not None:
            return "inputs and labels as given" if self.inputs is not None else "labels as given"
        where = self._place_of_labels(batch)
        if self.inputs is not None:
            return f"labels are {_place(where)}, inputs as given"
        _, kwargs = self._inputs_of(batch, where)
        what = ", ".join(kwargs) if kwargs else "what stands before them" if isinstance(where, int) else "the rest"
        return f"labels are {_place(where)}, inputs are {what}"

    # -- labels --------------------------------------------------------------------------------------------------------

    def _place_of_labels(self, batch: Any) -> str | int:
        if isinstance(batch, Mapping):
            keys = [key for key in LABEL_KEYS if key in batch]
            if len(keys) == 1:
                return keys[0]
            raise self._untold(batch, "labels", f"{len(keys)} of its keys are called {', '.join(LABEL_KEYS[:4])}, …")
        if isinstance(batch, list | tuple):
            likely = [place for place, part in enumerate(batch) if place and self._like_labels(part)]
            if len(likely) > 1 and self.inputs is None:  # labels stand behind as many inputs as the model takes
                likely = [place for place in likely if self._fewest_positional() <= place <= self._most_positional()]
            if len(likely) == 1:
                return likely[0]
            raise self._untold(batch, "labels", f"{len(likely)} of its parts after the first are like labels")
        raise self._untold(batch, "labels", "it is neither a tuple nor a mapping")

    def _like_labels(self, part: Any) -> bool:
        if self._number is not None and isinstance(part, list | tuple) and all(text in self._number for text in part):
            return len(part) > 0
        if isinstance(part, list) and part and all(type(value) is int for value in part):
            return True
        if not isinstance(part, Tensor | np.ndarray):
            return False
        whole = (
            not (part.is_floating_point() or part.is_complex())
            if isinstance(part, Tensor)
            else part.dtype.kind in "iub"
        )
        return whole and (part.ndim == 1 or (part.ndim == 2 and part.shape[1] == 1))

    def _as_labels(self, values: Any) -> NDArray[np.int64]:
        if isinstance(values, list | tuple) and values and all(isinstance(value, str) for value in values):
            return self._numbered(values)
        array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
        array = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
        array = array.astype(np.int64) if array.dtype == bool else array
        if array.dtype.kind == "f" and array.ndim == 1:
            raise DataError(
                f"{self.name}: labels must be whole numbers, but are {array.dtype}; give labels=lambda batch: …, which "
                "turns them into whole numbers"
            )
        return as_labels(f"{self.name}: labels", array)

    def _numbered(self, texts: Sequence[str]) -> NDArray[np.int64]:
        if self._number is None:
            raise UsageError(
                f"{self.name}: labels are texts like '{texts[0]}'; give the names of all classes with class_names="
            )
        unknown = next((text for text in texts if text not in self._number), None)
        if unknown is not None:
            raise DataError(f"{self.name}: label '{unknown}' is none of the {len(self._number)} class names")
        return np.array([self._number[text] for text in texts], np.int64)

    # -- inputs --------------------------------------------------------------------------------------------------------

    def _inputs_of(self, batch: Any, where: Part) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if self.inputs is not None:
            given = self._part(batch, self.inputs, "inputs")
            by_name = isinstance(given, Mapping) and (callable(self.inputs) or self._takes(given))
            if by_name:
                return (), dict(given)
            several = isinstance(given, tuple) and (callable(self.inputs) or _several(self.inputs))
            return (tuple(given) if several else (given,)), {}
        if isinstance(batch, Mapping):
            return self._by_name({key: value for key, value in batch.items() if key != where})
        if isinstance(batch, list | tuple):
            if not isinstance(where, int):
                if callable(where) or len(batch) != 2:
                    raise self._untold(batch, "inputs", "labels= does not say what stands before them")
                where = 1
            before = batch[: where % len(batch)]
            if len(before) == 1 and isinstance(before[0], Mapping) and self._takes(before[0]):
                return (), dict(before[0])
            if (
                len(before) == 1
                and isinstance(before[0], list | tuple)
                and len(before[0]) <= self._most_positional() > 1
            ):
                return tuple(before[0]), {}
            return tuple(before), {}
        return (batch,), {}

    def _by_name(self, parts: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Entries of a mapping: those that the model has a parameter for, or the only tensor of it."""
        known = {key: value for key, value in parts.items() if key in self._parameters and key not in LABEL_KEYS}
        if known:
            missing = [
                name
                for name, parameter in self._parameters.items()
                if name not in known
                and parameter.default is parameter.empty
                and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            ]
            if missing:
                raise self._untold(parts, "inputs", f"the model also needs {', '.join(missing)}")
            return (), known
        tensors = [value for value in parts.values() if isinstance(value, Tensor)]
        if len(tensors) == 1:
            return (tensors[0],), {}
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in self._parameters.values()):
            return (), {key: value for key, value in parts.items() if key not in LABEL_KEYS}
        names = ", ".join(self._parameters)
        raise self._untold(parts, "inputs", f"the model takes {names}, and none of its keys is called so")

    def _takes(self, parts: Mapping[str, Any]) -> bool:
        return bool(parts) and all(key in self._parameters for key in parts)

    def _fewest_positional(self) -> int:
        needed = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        return sum(one.kind in needed and one.default is one.empty for one in self._parameters.values())

    def _most_positional(self) -> float:
        kinds = [parameter.kind for parameter in self._parameters.values()]
        if inspect.Parameter.VAR_POSITIONAL in kinds:
            return float("inf")
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        return sum(kind in positional for kind in kinds)

    # -- parts of a batch ----------------------------------------------------------------------------------------------

    def _part(self, batch: Any, place: Part, argument: str) -> Any:
        if callable(place):
            return place(batch)
        if _several(place):
            return tuple(self._part(batch, one, argument) for one in place)  # type: ignore[union-attr]
        try:
            return batch[place]
        except (KeyError, IndexError, TypeError):
            if isinstance(place, str) and hasattr(batch, place):
                return getattr(batch, place)
            raise UsageError(f"{self.name}: {argument}={place!r} is not in a batch, which is {_shown(batch)}") from None

    def _untold(self, batch: Any, argument: str, why: str) -> UsageError:
        return UsageError(
            f"{self.name}: what the {argument} are cannot be told from a batch, which is {_shown(batch)}: {why}; give "
            f"{argument}= as a key, a position or a function of the batch"
        )


def _several(place: Any) -> bool:
    return isinstance(place, list | tuple)


def _place(where: str | int) -> str:
    return f"'{where}'" if isinstance(where, str) else f"part {where} of a batch"


def _shown(value: Any, depth: int = 2) -> str:
    """A value by its types and shapes, in a few words."""
    if isinstance(value, Tensor | np.ndarray):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if isinstance(value, Mapping) and depth:
        return "{" + ", ".join(f"{key}: {_shown(part, depth - 1)}" for key, part in list(value.items())[:8]) + "}"
    if isinstance(value, list | tuple) and depth and len(value) <= 8:
        return "(" + ", ".join(_shown(part, depth - 1) for part in value) + ")"
    return f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, list | tuple | Mapping) else "")
