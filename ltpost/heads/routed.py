"""Early exit through a row of experts, as RIDE does it: each row is given as many experts as its gates ask for.

After expert i a gate looks at the features of that expert and at the largest of the logits so far; where it is open the
next expert is asked too. The logits of a row are the mean over the experts that it was given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltpost.errors import DataError
from ltpost.heads.aggregated import ExpertHead, experts_state
from ltpost.heads.linear import LinearHead
from ltpost.heads.normalized import normalized
from ltpost.heads.protocol import Array, HeadRows, Key, Reader, Spec
from ltpost.heads.saving import Saved


@dataclass(frozen=True)
class Gates:
    """The gates after experts 0 to E-2: a hidden layer for each, and one output layer for all.

    Attributes:
        hidden: (weight (H, D_e), bias (H,)) of every gate.
        weight: (H + k,) of the output layer, for the hidden values and the k largest mean logits, largest first.
        bias: of the output layer.
    """

    hidden: tuple[tuple[Array, Array], ...]
    weight: Array
    bias: float

    def open(self, number: int, features: Array, largest: Array, threshold: float) -> NDArray[np.bool_]:
        """Where gate ``number`` asks for one more expert, (n,).

        Args:
            number: of the gate.
            features: (n, D_e) of its expert.
            largest: (n, k).
            threshold: the probability above which it is open.
        """
        weight, bias = self.hidden[number]
        hidden = np.maximum(normalized(features.astype(np.float32)) @ weight.T + bias, 0)
        score = np.concatenate([hidden, largest], axis=1) @ self.weight + self.bias
        with np.errstate(over="ignore"):  # 1 / infinity is the 0 that is meant
            return np.asarray(1 / (1 + np.exp(-score.astype(np.float64))) > threshold)


class RoutedHead(Saved):
    """z = mean of the logits of the first experts, as many as the gates ask for.

    All experts are cached, so that nothing is saved here: the head says what early exit would give, and how many
    experts each row would have used (:meth:`used`).

    Args:
        experts: E of them, in the order in which they are asked.
        gates: after each but the last.
        top: k, how many of the largest mean logits a gate sees; all of them where there are fewer.
        threshold: the probability above which a gate asks for one more expert.

    Raises:
        DataError: the shapes of the gates do not fit.
    """

    def __init__(self, experts: Sequence[ExpertHead], gates: Gates, top: int, threshold: float = 0.5):
        self.experts, self.gates, self.top, self.threshold = list(experts), gates, int(top), float(threshold)
        self.info: dict[str, Any] = {}
        seen = min(self.top, self.num_classes)
        for weight, bias in gates.hidden:
            if (
                self.top < 1
                or weight.ndim != 2
                or bias.shape != weight.shape[:1]
                or gates.weight.shape != (len(bias) + seen,)
            ):
                raise DataError(
                    f"a gate needs weights (H, D) and (H + {seen},) and a bias (H,), but they have {weight.shape}, "
                    f"{gates.weight.shape} and {bias.shape}"
                )
        if len(gates.hidden) != len(self.experts) - 1:
            raise DataError(f"{len(self.experts)} experts need one gate fewer, but have {len(gates.hidden)}")

    @property
    def num_classes(self) -> int:
        """C."""
        return self.experts[0].num_classes

    def _route(self, rows: HeadRows) -> Any:
        """A function of a key: logits (n, C), and experts used (n,)."""
        reads = [expert.reader(rows) for expert in self.experts]
        own = [rows.expert(expert.number) for expert in self.experts]
        for part, (weight, _) in zip(own[:-1], self.gates.hidden, strict=True):
            if part.num_features != weight.shape[1]:
                raise DataError(
                    f"{part.name}: the gates of this head need {weight.shape[1]} features, but the rows hold "
                    f"{part.num_features or 'none'}"
                )

        def route(key: Key) -> tuple[Array, NDArray[np.int64]]:
            total = reads[0](key).astype(np.float32)
            used = np.ones(len(total), dtype=np.int64)
            going = np.ones(len(total), dtype=bool)
            for number in range(len(self.experts) - 1):
                largest = largest_first(total / (number + 1), self.top)
                features = own[number].read_features(key)
                going = going & self.gates.open(number, features, largest, self.threshold)
                total = np.where(going[:, None], total + reads[number + 1](key), total)
                used += going
            return total / used[:, None].astype(np.float32), used

        return route

    def used(self, rows: HeadRows) -> NDArray[np.int64]:
        """How many experts each row uses, (N,)."""
        route, size = self._route(rows), rows.block_rows()
        starts = range(0, len(rows), size)
        return np.concatenate([route(slice(start, min(start + size, len(rows))))[1] for start in starts])

    def row_figures(self, rows: HeadRows) -> dict[str, Array]:
        """Experts used, (N,)."""
        return {"experts used": self.used(rows)}

    def is_stored(self, rows: HeadRows) -> bool:
        """Never."""
        return False

    def reader(self, rows: HeadRows) -> Reader:
        """See :class:`~ltpost.heads.protocol.Head`."""
        route = self._route(rows)
        return lambda key, out=None: route(key)[0]

    def linear(self) -> LinearHead | None:
        """None: rows take different ways."""
        return None

    def state(self) -> tuple[Spec, dict[str, Array]]:
        """See :class:`~ltpost.heads.protocol.Head`."""
        specs, tensors = experts_state(self.experts)
        for number, (weight, bias) in enumerate(self.gates.hidden):
            tensors[f"gate.{number}.weight"], tensors[f"gate.{number}.bias"] = weight, bias
        tensors["gate.weight"], tensors["gate.bias"] = self.gates.weight, np.array([self.gates.bias], np.float32)
        return {"kind": "routed", "experts": specs, "top": self.top, "threshold": self.threshold}, tensors


def gates_from_tensors(tensors: Mapping[str, Array], count: int) -> Gates:
    """The gates of a head file."""
    hidden = tuple((tensors[f"gate.{number}.weight"], tensors[f"gate.{number}.bias"]) for number in range(count))
    (bias,) = tensors["gate.bias"]
    return Gates(hidden, tensors["gate.weight"], float(bias))


def largest_first(scores: Array, top: int) -> Array:
    """The ``top`` largest values of every row, (n, top), largest first.

    >>> largest_first(np.array([[1.0, 3.0, 2.0]]), 2)
    array([[3., 2.]])
    """
    largest = scores if top >= scores.shape[1] else np.partition(scores, -top, axis=1)[:, -top:]
    return np.asarray(np.sort(largest, axis=1)[:, ::-1])
