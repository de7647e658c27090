"""Diagnostics of a head on the rows of a split: why it is right where it is, and what rebalancing changed.

    diagnosis = diagnose(val, head)
    print(diagnosis)

Each diagnostic is one file with its definition, source and cost. All stream over the rows in blocks, in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ltpost.data.features import FeatureSet
from ltpost.data.priors import ShotGroups
from ltpost.diagnostics.alignment import alignment
from ltpost.diagnostics.collapse import collapse
from ltpost.diagnostics.cone import cone
from ltpost.diagnostics.confusion import confusion
from ltpost.diagnostics.effective_prior import effective_prior
from ltpost.diagnostics.finding import Finding
from ltpost.diagnostics.gains import gains
from ltpost.diagnostics.importance import importance
from ltpost.diagnostics.margins import margins
from ltpost.diagnostics.norms import norms
from ltpost.diagnostics.separability import separability
from ltpost.diagnostics.subject import Subject
from ltpost.errors import DataError, UsageError
from ltpost.heads import Head
from ltpost.tables import Table, as_html, render

DIAGNOSTICS: dict[str, Callable[[Subject], Finding]] = {
    "norms": norms,
    "margins": margins,
    "confusion": confusion,
    "effective_prior": effective_prior,
    "gains": gains,
    "cone": cone,
    "separability": separability,
    "alignment": alignment,
    "collapse": collapse,
    "importance": importance,
}

#: diagnostics of the features alone, equal for every head
OF_FEATURES = ("cone", "separability")

__all__ = ["DIAGNOSTICS", "OF_FEATURES", "Diagnosis", "Finding", "Subject", "diagnose", "diagnosis_of"]


@dataclass(frozen=True)
class Diagnosis:
    """What all diagnostics found.

    Attributes:
        name: of the rows and the head.
        findings: by the name of the diagnostic.
        left_out: name of a diagnostic to why it was left out.
    """

    name: str
    findings: dict[str, Finding]
    left_out: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            **{key: finding.as_dict() for key, finding in self.findings.items()},
            "left_out": self.left_out,
        }

    def blocks(self) -> list[Table | str]:
        """All tables, and what was left out."""
        tables = [finding.table() for finding in self.findings.values()]
        return [self.name, *tables, *(f"{key}: left out; {why}" for key, why in self.left_out.items())]

    def records(self) -> list[dict[str, Any]]:
        """One flat record per diagnostic and row of its table, for CSV."""
        return [record for finding in self.findings.values() for record in finding.records()]

    def __repr__(self) -> str:
        return f"Diagnosis({self.name}: {', '.join(self.findings)})"

    def _repr_html_(self) -> str:
        return as_html(self.blocks())

    def __str__(self) -> str:
        return render(self.blocks())


def diagnose(
    feature_set: FeatureSet,
    head: Head | None = None,
    groups: ShotGroups | None = None,
    *,
    only: Sequence[str] = (),
    name: str = "",
) -> Diagnosis:
    """Run diagnostics; those for which the rows or the head do not suffice are left out, with the reason.

    Args:
        feature_set: labelled rows with ``class_counts``.
        head: the classifier; default the joint one.
        groups: many/medium/few-shot classes; default from the counts.
        only: which diagnostics, of ``DIAGNOSTICS``; default all.
        name: what to call the head.

    Raises:
        UsageError: a diagnostic that there is not.
        DataError: no rows, or no class counts.
    """
    for key in only:
        if key not in DIAGNOSTICS:
            raise UsageError(f"only= must name diagnostics out of {', '.join(DIAGNOSTICS)}, but names {key!r}")
    return diagnosis_of(Subject(feature_set, head, groups), only, name)


def diagnosis_of(subject: Subject, only: Sequence[str] = (), name: str = "") -> Diagnosis:
    """The same of a :class:`Subject`."""
    rows, findings, left_out = subject.rows, dict[str, Finding](), dict[str, str]()
    for key in only or DIAGNOSTICS:
        try:
            findings[key] = DIAGNOSTICS[key](subject)
        except DataError as error:
            left_out[key] = str(error)
    called = name or ("joint classifier" if subject.is_joint else "head")
    title = f"{called} on {rows.split or rows.name}, {len(rows):,} rows; groups: {subject.groups}"
    return Diagnosis(title, findings, left_out)
