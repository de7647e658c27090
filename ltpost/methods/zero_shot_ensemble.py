"""GLA, generalized logit adjustment (Zhu, Tang, Sun, Zhang, NeurIPS 2023, arXiv:2310.08106, Equation 9; BeierZhu/GLA).

    argmax_c  (1 - t) (z_c / T - log π_c) + t (z'_c / T' - log q_c)

z are logits of the classifier that was trained on the long-tailed set with prior π, z' those of a zero-shot classifier,
whose own prior q is not known. T and T' are fitted to val by maximum likelihood; so is q, where b = -log q makes it
convex and free of constraints. t = 1/2 is the sum of the paper. What it does not do: make text embeddings.
"""

from __future__ import annotations

from ltpost.calibration import fit_calibration
from ltpost.data.features import FeatureSet
from ltpost.data.priors import log_prior
from ltpost.errors import DataError
from ltpost.family import Family
from ltpost.heads import Array, Head, RescaledHead
from ltpost.method import Method

GRID = tuple(round(0.1 * k, 10) for k in range(11))


def zero_shot_ensemble(
    val: FeatureSet, joint: Head, class_counts: Array, zero_shot: Head, *, strength: float = 0.01
) -> Family:
    """Adds the logits of a zero-shot classifier, both without the class prior that they learned.

    Args:
        val: labelled rows, of any class prior.
        joint: the joint classifier, or one that reads its logits.
        class_counts: (C,) training samples per class, all positive.
        zero_shot: the other classifier, from the file zero_shot.safetensors beside the feature files.
        strength: of the penalty that keeps log q near the uniform prior.

    Returns:
        Heads along the weight t of the zero-shot classifier, 0..1; one linear layer where both are linear.

    Raises:
        DataError: another number of classes, or a class without training samples.

    NOTE[DIFF]: the paper matches T to the accuracy, and finds q on the simplex by 1,000 steps of a Lagrangian method.
    """
    if zero_shot.num_classes != joint.num_classes:
        raise DataError(
            f"the zero-shot classifier has {zero_shot.num_classes} classes, but the joint one {joint.num_classes}"
        )
    tuned = fit_calibration([(joint, val)]).apply(joint)
    other = fit_calibration([(zero_shot, val)], "bcts", balanced=True, strength=strength).apply(zero_shot)
    return Family.mixed(RescaledHead(tuned, offset=-log_prior(class_counts)), other)


METHOD = Method(
    "gla",
    zero_shot_ensemble,
    title="generalized logit adjustment",
    label="GLA",
    equation="(1-t) (z_c/T - log π_c) + t (z'_c/T' - log q_c)",
    source="Zhu et al., NeurIPS 2023",
    chosen="t",
    grid=GRID,
    how="L-BFGS on val, exact sweep",
    example="ltpost gla",
)
