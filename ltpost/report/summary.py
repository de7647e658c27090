"""A feature file in a few lines: what is inside, the class counts, the joint accuracy, where it came from."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ltpost.data.features import FeatureSet
from ltpost.evaluation import evaluate
from ltpost.tables import Table, percent

PROVENANCE = (
    "arch", "checkpoint", "checkpoint_sha256", "head_key", "dataset", "transform", "dtype", "created", "ltpost_version",
    "torch_version",
)  # fmt: skip


@dataclass(frozen=True)
class Summary:
    """See :meth:`of`; counts are of training samples per class, ``joint`` holds fractions in 0..1."""

    name: str
    split: str
    rows: int
    unreadable_rows: int
    num_features: int | None
    num_classes: int
    stored: dict[str, str]
    class_counts: dict[str, float] | None
    classes_without_rows: int
    joint: dict[str, float | None] | None
    provenance: dict[str, Any]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, feature_set: FeatureSet) -> Summary:
        """Summarise a split; reads its logits once, for the joint accuracy."""
        groups, counts = feature_set.shot_groups(), feature_set.class_counts
        count_summary = None
        if counts is not None and groups is not None and len(counts):
            count_summary = {
                "total": int(counts.sum()),
                "max": int(counts.max()),
                "min": int(counts.min()),
                "imbalance_factor": float(counts.max() / counts.min()) if counts.min() else np.inf,
                "many": int(groups.many.sum()),
                "medium": int(groups.medium.sum()),
                "few": int(groups.few.sum()),
            }
        joint = None
        if len(feature_set) and (feature_set.head is not None or feature_set.has_logits):
            joint = evaluate(feature_set.joint, feature_set, groups).figures.as_dict()
        return cls(
            feature_set.name,
            feature_set.split,
            len(feature_set),
            feature_set.num_invalid,
            feature_set.num_features,
            feature_set.num_classes,
            feature_set.stored(),
            count_summary,
            int((np.bincount(feature_set.labels, minlength=feature_set.num_classes) == 0).sum()),
            joint,
            {key: feature_set.attrs[key] for key in PROVENANCE if key in feature_set.attrs},
            feature_set.notes,
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        values = asdict(self)
        if self.class_counts is not None and np.isinf(self.class_counts["imbalance_factor"]):
            values["class_counts"]["imbalance_factor"] = None
        return values

    def record(self) -> dict[str, Any]:
        """One flat record, for CSV."""
        record: dict[str, Any] = {"file": self.name, "split": self.split, "rows": self.rows,
                                  "unreadable_rows": self.unreadable_rows, "num_classes": self.num_classes,
                                  "num_features": self.num_features}  # fmt: skip
        for prefix, part in (("class_counts", self.class_counts), ("joint", self.joint)):
            record.update({f"{prefix}_{key}": value for key, value in (part or {}).items()})
        return {**record, **self.provenance}

    def table(self) -> Table:
        """The same as a table of two columns, for Markdown and LaTeX."""
        return Table("", ["", self.name], [[key, _shown(value)] for key, value in self.record().items()], left=2)

    def __str__(self) -> str:
        lines = [f"{self.name}: split {self.split}, {self.rows:,} rows, {self.num_classes:,} classes"]
        if self.unreadable_rows:
            lines[0] += f"; {self.unreadable_rows:,} unreadable rows left out"
        if self.classes_without_rows:
            lines[0] += f"; {self.classes_without_rows:,} classes without a row"
        width = max([14, *map(len, self.stored)])
        lines += [f"  {key:<{width}} {value}" for key, value in self.stored.items()]
        if self.class_counts is None:
            lines.append("training samples: not known (no class_counts), so no many/medium/few")
        else:
            counts = self.class_counts
            lines.append(
                f"training samples: {counts['total']:,}, {counts['max']:,} to {counts['min']:,} per class "
                f"(imbalance factor {counts['imbalance_factor']:g}); "
                f"{counts['many']} many-, {counts['medium']} medium-, {counts['few']} few-shot classes"
            )
        if self.joint is not None:
            values = {key: percent(np.nan if value is None else value) for key, value in self.joint.items()}
            lines.append(
                f"joint classifier: Many {values['many']}  Medium {values['medium']}  Few {values['few']}  "
                f"All {values['all']}  Top-1 {values['top1']}"
            )
        lines += [f"  {key:<18} {value}" for key, value in self.provenance.items()]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)


def _shown(value: Any) -> str:
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
