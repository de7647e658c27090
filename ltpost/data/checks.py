"""The rules that a feature set must keep (FORMAT.md). A broken rule is a DataError of one sentence.

Every function takes the name of the feature set, which the message starts with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltpost.data.rows import Rows, StoredDataset
from ltpost.errors import DataError
from ltpost.heads import Array, Key, LinearHead
from ltpost.heads.linear import sum_is_finite
from ltpost.heads.saving import is_finite

_SPOT_CHECK_ROWS = 64
FINITE = "'{}' must be finite as float32, but holds NaN, infinity or a larger number"


def require(name: str, holds: bool | np.bool_, requirement: str) -> None:
    """Raise DataError unless the requirement holds."""
    if not holds:
        raise DataError(f"{name}: {requirement}")


def integers(name: str, key: str, value: Any) -> NDArray[np.int64]:
    """One column of integers, as int64."""
    array = np.asarray(value)
    length = "C" if key == "class_counts" else "N"
    require(name, array.ndim == 1, f"'{key}' must have shape ({length},), but has {array.shape}")
    require(
        name,
        array.dtype.kind in "iu" or array.dtype == bool,
        f"'{key}' must hold integers, but holds {array.dtype}",
    )
    return array.astype(np.int64, copy=False)


def matrix(name: str, key: str, value: Any) -> Rows | None:
    """Rows of floating-point numbers, unread."""
    if value is None:
        return None
    rows = value if isinstance(value, Rows) else Rows(value if isinstance(value, StoredDataset) else np.asarray(value))
    columns = "D" if key == "features" else "C"
    require(name, len(rows.shape) == 2, f"'{key}' must have shape (N, {columns}), but has {rows.shape}")
    require(name, rows.dtype.kind == "f", f"'{key}' must be floating point, but is {rows.dtype}")
    require(name, rows.shape[1] > 0, f"'{key}' must have columns, but has shape {rows.shape}")
    return rows


def equal_lengths(name: str, num_rows: int, columns: Mapping[str, Any]) -> None:
    """Every column has as many rows as ``labels``."""
    for key, value in columns.items():
        if value is not None:
            require(
                name,
                len(value) == num_rows,
                f"'{key}' must have {num_rows} rows like 'labels', but has {len(value)}",
            )


def one_number_of_classes(name: str, sizes: Mapping[str, int | None]) -> int | None:
    """C, where the datasets that tell it agree; None where none of them is there."""
    known = {key: size for key, size in sizes.items() if size is not None}
    listed = ", ".join(f"'{key}' has {size}" for key, size in known.items())
    require(name, len(set(known.values())) <= 1, f"the number of classes C must be one, but differs: {listed}")
    require(name, 0 not in known.values(), f"there must be classes, but {listed}")
    return next(iter(known.values()), None)


def labels_in_range(name: str, labels: NDArray[np.int64], num_classes: int) -> None:
    """0 <= label < C."""
    bad = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(bad):
        row = int(bad[0])
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        require(name, False, f"'labels' must be 0 <= label < C = {num_classes}, but row {row} is {labels[row]}{more}")


def counts_are_possible(name: str, class_counts: NDArray[np.int64], counted: NDArray[np.int64] | None) -> None:
    """No count is negative; ``counted`` are the samples of a whole train split, which must be the counts."""
    for c in np.flatnonzero(class_counts < 0)[:1]:
        require(name, False, f"'class_counts' must not be negative, but class {c} has {class_counts[c]}")
    if counted is None:
        return
    for c in np.flatnonzero(counted != class_counts)[:1]:
        require(
            name,
            False,
            f"'class_counts' of the train split must count its samples, but class {c} has {counted[c]} and the "
            f"count is {class_counts[c]}",
        )


def head_is_finite(name: str, head: LinearHead) -> None:
    """No weight and no bias is NaN or infinite."""
    for key, values in (("weight", head.weight), ("bias", head.bias)):
        require(name, values is None or is_finite(values), FINITE.format(f"head/{key}"))


def head_gives_logits(name: str, head: LinearHead, features: Rows, logits: Rows | None) -> None:
    """Shapes, and on some rows that features @ weight.T + bias gives the stored logits."""
    require(
        name,
        head.num_features == features.shape[1],
        f"'head/weight' must have D = {features.shape[1]} columns like 'features', but has {head.num_features}",
    )
    if logits is None or len(logits) == 0:
        return
    rows = _some_rows(len(logits))
    stored, block = logits[rows], features[rows]
    finite(name, "features", block, rows)
    finite(name, "logits", stored, rows)
    difference = np.abs(head.logits(block) - stored).max(axis=1)
    allowed = 0.03 * np.maximum(1.0, np.abs(stored).max(axis=1))  # bfloat16 logits are within 1 %
    bad = np.flatnonzero(~(difference <= allowed))  # NaN is bad
    require(
        name,
        len(bad) == 0,
        "features @ head/weight.T + head/bias must reproduce 'logits', but "
        + (f"row {rows[bad[0]]} differs by {difference[bad[0]]:.3g}" if len(bad) else "")
        + "; the head belongs to another checkpoint or layer",
    )


def are_probabilities(logits: Rows) -> bool:
    """Whether some rows all lie in [0, 1] and sum to 1, up to the rounding of float16."""
    if len(logits) == 0 or logits.shape[1] < 2:
        return False
    some = logits[_some_rows(len(logits))].astype(np.float64)
    return bool(((some >= 0) & (some <= 1)).all() and (np.abs(some.sum(axis=1) - 1) < 0.01).all())


def _some_rows(total: int) -> NDArray[np.int64]:
    """Row numbers spread over all rows."""
    return np.linspace(0, total - 1, min(total, _SPOT_CHECK_ROWS)).astype(np.int64)


def experts_fit(
    name: str,
    num_experts: int,
    widths: tuple[int, ...],
    num_features: int | None,
    num_classes: int,
    bias: Array | None,
    expert_bias: Any,
) -> None:
    """The columns are those of the experts, and the mean of the experts' biases is the bias."""
    if num_experts == 1 and expert_bias is None:
        return
    columns = num_features or 0
    if len(set(widths)) < 2:
        require(
            name,
            num_experts > 0 and columns > 0 and columns % num_experts == 0,
            f"'features' must have equally many columns for each of {num_experts} experts, but has {columns} in all",
        )
    require(
        name,
        num_experts == 1 or (sum(widths) == columns and all(width > 0 for width in widths)),
        f"the attribute 'expert_widths' must share out D = {columns} columns, but is {list(widths)}",
    )
    if expert_bias is None:
        return
    require(
        name,
        np.shape(expert_bias) == (num_experts, num_classes),
        f"'head/expert_bias' must have shape (E, C) = ({num_experts}, {num_classes}), but has {np.shape(expert_bias)}",
    )
    require(
        name,
        bias is not None and np.allclose(np.mean(expert_bias, axis=0), bias, rtol=1e-3, atol=1e-4),
        "'head/bias' must be the mean of 'head/expert_bias' over the experts",
    )


def finite(name: str, key: str, block: Array, rows: Key) -> None:
    """No value of a block is NaN or infinite; ``rows`` says which rows they are."""
    if sum_is_finite(block) or is_finite(block):
        return
    with np.errstate(over="ignore"):
        single = block.astype(np.float32)
    row = int(np.flatnonzero(~np.isfinite(single).all(axis=1))[0])
    number = (rows.start or 0) + row if isinstance(rows, slice) else int(rows[row])
    what = "NaN" if np.isnan(block[row]).any() else "infinity"
    if np.isfinite(block[row]).all():
        what = "a number beyond float32"
    require(
        name,
        False,
        f"'{key}' must be finite, but row {number} holds {what}; mark such rows in 'valid' or extract them again",
    )
