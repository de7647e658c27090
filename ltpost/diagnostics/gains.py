"""Which classes gained and which lost against the joint classifier, on the same rows.

Costs one pass over the scores of both heads. The intervals of the differences and p are those of
:func:`ltpost.scores.paired.paired_difference`.
"""

from __future__ import annotations

import numpy as np

from ltpost.diagnostics import pictures
from ltpost.diagnostics.finding import Finding
from ltpost.diagnostics.subject import Subject, per_row
from ltpost.errors import DataError
from ltpost.scores.paired import paired_difference
from ltpost.scores.predict import predict

_SHOWN = 5


def gains(subject: Subject) -> Finding:
    """Per group: how many classes gained and lost, the difference with its interval and p; and the extreme classes.

    Raises:
        DataError: the head is the joint classifier.
    """
    rows_of = subject.rows
    if subject.is_joint or subject.joint is None:
        raise DataError(f"{rows_of.name}: gains are those of another head against the joint classifier; name a head")
    after = subject.answers.predicted == subject.labels
    before = predict(subject.joint, rows_of) == subject.labels
    change = np.bincount(subject.labels, after.astype(float) - before, subject.num_classes)
    gain = per_row(change, subject.totals)
    differences = paired_difference(
        before, after, subject.labels, subject.groups, num_classes=subject.num_classes, sample=rows_of.sample
    )
    rows: list[list[str | float]] = []
    values: dict[str, object] = {}
    for name, classes in subject.members().items():
        up, down = int((gain[classes] > 0).sum()), int((gain[classes] < 0).sum())
        difference = differences[name]
        low, high = (100 * end for end in difference.interval)
        rows.append([name, str(up), str(down), 100 * difference.value, f"{low:+.2f} to {high:+.2f}", difference.p])
        values[name] = {"gained": up, "lost": down, "difference": difference.value, "interval95": difference.interval,
                        "p": difference.p}  # fmt: skip
    order = np.argsort(np.where(subject.present, gain, 0.0), kind="stable")
    values["most_gained"] = [int(c) for c in order[::-1][:_SHOWN] if gain[c] > 0]
    values["most_lost"] = [int(c) for c in order[:_SHOWN] if gain[c] < 0]
    return Finding(
        "gains",
        f"against the joint classifier: most gained {_words(subject, values['most_gained'], gain)}; "
        f"most lost {_words(subject, values['most_lost'], gain)}",
        ["group", "classes gained", "lost", "difference in %", "95 % interval", "p"],
        rows,
        values,
        lambda ax: pictures.against_counts(subject.counts, {"gain": gain}, "change of the accuracy", ax=ax),
        {"gain": gain},
    )


def _words(subject: Subject, classes: object, gain: np.ndarray) -> str:
    names = subject.rows.class_names
    assert isinstance(classes, list)
    return ", ".join(f"{names[c] if names else f'class {c}'} {100 * gain[c]:+.0f}" for c in classes) or "none"
