"""A feature set whose rows were seen by several experts, and each of these experts as a feature set of its own."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any

from ltpost.data.expert_columns import columns_of
from ltpost.data.matrices import Matrices
from ltpost.data.rows import Rows
from ltpost.errors import DataError
from ltpost.heads import Array, ExpertHead, JoinedHead, JointHead, LinearHead

if TYPE_CHECKING:
    from typing_extensions import Self


class WithExperts(Matrices):
    """The experts of a feature set, one or several."""

    attrs: dict[str, Any]
    head: LinearHead | None
    num_experts: int
    #: how many columns of the features each expert has; empty where they have none of their own
    expert_widths: tuple[int, ...]
    #: (E, C), the bias of each of several experts
    expert_bias: Array | None
    #: rows that show augmented views of these, in a file of their own
    view_rows: Self | None
    _experts: dict[int, Self]

    @property
    def joint(self) -> LinearHead | JointHead:
        """The joint classifier."""
        raise NotImplementedError

    def expert(self, number: int) -> Self:
        """One of several experts, as a feature set of its own.

        A file of E experts holds their features side by side, and as the joint classifier the mean of theirs, which is
        linear in all columns: W = [W_0 … W_{E-1}] / E, b = mean of b_e. So every method runs on the mean as it stands,
        and on one expert with this.

        Raises:
            DataError: there is no such expert.
        """
        if not 0 <= number < self.num_experts:
            raise DataError(f"{self.name}: holds experts 0 to {self.num_experts - 1}, but not {number}")
        if number not in self._experts:
            self._experts[number] = self._with_columns(number)
        return self._experts[number]

    def _with_columns(self, number: int) -> Self:
        """The expert that has some of the columns."""
        assert self._features is not None
        part = copy(self)
        part.name, part.num_experts, part.expert_widths = f"{self.name}, expert {number}", 1, ()
        part.expert_bias, part._experts, part._logits = None, {}, None
        part.attrs = {**self.attrs, "experts": 1, "expert": number}
        part.attrs.pop("expert_widths", None)
        part._features = Rows(self._features.source, self._features.index, columns_of(self.expert_widths, number))
        if isinstance(self.head, JoinedHead):
            layer = self.head.experts[number].head.linear()
            part.head = layer if isinstance(layer, LinearHead) else None
        part.view_rows = None if self.view_rows is None else self.view_rows.expert(number)
        return part

    @property
    def experts(self) -> list[ExpertHead]:
        """The heads of several experts, each of which reads its own columns or its own file.

        Raises:
            DataError: there is one expert only, or no head is known.
        """
        if self.num_experts < 2:
            raise DataError(
                f"{self.name}: holds one expert only; extract a checkpoint of several with --expert all, or name the "
                "folders of several networks with folder=a,b"
            )
        if isinstance(self.head, JoinedHead):
            return self.head.experts
        return [ExpertHead(self.expert(number).joint, number) for number in range(self.num_experts)]
