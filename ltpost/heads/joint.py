"""The joint classifier of whatever rows are read: what a head rescales that knows logits only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ltpost.errors import DataError
from ltpost.heads.protocol import Array, HeadRows, Reader, Spec
from ltpost.heads.saving import Saved

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ltpost.heads.linear import LinearHead


class JointHead(Saved):
    """The stored logits of the rows; without them, the classifier that is stored with the rows.

    Args:
        num_classes: C.
        fingerprint: read only rows whose classifier has this fingerprint; default any rows.
    """

    def __init__(self, num_classes: int, fingerprint: str | None = None):
        self._num_classes, self.fingerprint = num_classes, fingerprint
        self.info: dict[str, Any] = {}

    @property
    def num_classes(self) -> int:
        """C."""
        return self._num_classes

    def belongs_to(self, rows: HeadRows) -> bool:
        """Whether the joint classifier of these rows is the one that is meant."""
        if self.fingerprint is None:
            return True
        return rows.head is not None and rows.head.fingerprint == self.fingerprint

    def is_stored(self, rows: HeadRows) -> bool:
        """Whether the rows hold its logits."""
        return rows.has_logits and self.belongs_to(rows)

    def reader(self, rows: HeadRows) -> Reader:
        """The stored logits, else those of the classifier that is stored with the rows."""
        if self.is_stored(rows):
            return rows.read_logits
        if rows.head is None or not self.belongs_to(rows):
            raise DataError(
                f"{rows.name}: needs 'head/weight' (C, D) or 'logits' (N, C) of the joint classifier that this head "
                "rescales, but has neither; see ltpost extract"
            )
        return rows.head.reader(rows)

    def linear(self) -> LinearHead | None:
        """None: the weights are not known."""
        return None

    def same_as(self, other: Any) -> bool:
        """Whether both stand for the joint classifier of the same rows."""
        return isinstance(other, JointHead) and self.num_classes == other.num_classes

    def state(self) -> tuple[Spec, dict[str, Array]]:
        """See :class:`~ltpost.heads.protocol.Head`."""
        return {"kind": "joint", "num_classes": self.num_classes, "fingerprint": self.fingerprint}, {}

    @classmethod
    def from_state(cls, spec: Spec, tensors: Mapping[str, Array]) -> JointHead:
        """The head that :meth:`state` describes."""
        return cls(int(spec["num_classes"]), spec["fingerprint"])

    def __repr__(self) -> str:
        return f"JointHead(C={self.num_classes})"
