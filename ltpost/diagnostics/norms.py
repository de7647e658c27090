"""Weight norm, bias, feature norm and accuracy of every class, against its training samples.

After joint training ‖w_c‖ grows with n_c (Kang et al., ICLR 2020, Figure 2; Hasegawa and Sato, ICLR 2024). Costs one
pass over the features for ‖x‖, and one over the scores.
"""

from __future__ import annotations

import numpy as np

from ltpost.diagnostics import pictures
from ltpost.diagnostics.finding import Finding, correlation
from ltpost.diagnostics.subject import Subject


def norms(subject: Subject) -> Finding:
    """Means per group; slope and R² of log ‖w_c‖, and of the others, against log n_c."""
    layer, counts = subject.linear, subject.log_counts
    weight = layer.norms()
    bias = np.full(subject.num_classes, np.nan) if layer.bias is None else layer.bias.astype(np.float64)
    features = subject.directions[1] if subject.rows.num_features else np.full(subject.num_classes, np.nan)
    per_class = {"weight_norm": weight, "bias": bias, "feature_norm": features, "accuracy": subject.accuracy}
    lines = {
        "weight_norm": correlation(counts, np.log(np.where(weight > 0, weight, np.nan))),
        **{name: correlation(counts, per_class[name]) for name in ("bias", "feature_norm", "accuracy")},
    }
    rows = subject.group_means(*per_class.values())
    rows.append(["slope on log n", *(slope for slope, _ in lines.values())])
    rows.append(["R²", *(fit for _, fit in lines.values())])
    values = {name: {"slope": slope, "r2": fit} for name, (slope, fit) in lines.items()}
    return Finding(
        "norms",
        "norms against training samples (slope of log ‖w‖, and of the others as they are)",
        ["group", "‖w‖", "bias", "‖x‖", "accuracy"],
        rows,
        values,
        lambda ax: pictures.against_counts(subject.counts, {"weight norm": weight, "bias": bias}, "value", ax=ax),
        per_class,
    )
