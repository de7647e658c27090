"""GM head (Du and Wu, "No One Left Behind: Improving the Worst Categories in Long-Tailed Learning", CVPR 2023).

    -1/C Σ_c log (mean_{i: y_i = c} p_iy)      p = softmax(W x + b + log π)

The geometric mean over classes of the probability that is right, which no class can be left out of. arXiv:2303.03630.
Written from a third-party copy of the loss, not from the paper. Not convex, and no sum over rows: the full-batch solver
follows the path of strengths from strong to weak. What it does not do: mix the new classifier with the old one.
"""

from __future__ import annotations

from ltpost.data.features import FeatureSet
from ltpost.data.priors import log_prior
from ltpost.family import Family
from ltpost.fit.fitting import refit
from ltpost.fit.options import HeadFit
from ltpost.fit.whole_losses import GeometricMeanLoss
from ltpost.heads import Array
from ltpost.method import Method

FIT = HeadFit(solver="sgd", sampler="instance", strengths=(0.01, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5))


def geometric_mean_head(train: FeatureSet, class_counts: Array, *, starts: int = 1, fit: HeadFit = FIT) -> Family:
    """Fits a new classifier to the geometric mean over classes of the right probability.

    Args:
        train: training features (N, D) and labels; several views of a sample are several rows.
        class_counts: (C,) training samples per class, all positive.
        starts: convex: how many descents; the lowest end is kept.
        fit: the solver and its options. sgd takes the means over the rows of a batch.

    Returns:
        Heads along the strength (convex), or one head (sgd). One evaluation counts one and a half passes.

    Raises:
        DataError: a class without training samples.
    """
    return refit(train, GeometricMeanLoss(log_prior(class_counts)), fit, name="gm", starts=starts)


METHOD = Method(
    "gm",
    geometric_mean_head,
    title="geometric mean head",
    label="GM",
    equation="Wx + b, fitted as Wx + b + log π",
    source="Du and Wu, CVPR 2023",
    chosen="strength (convex)",
    variant="head only",
    how="SGD recipe, or L-BFGS",
    example="ltpost gm --batch-size 1024",
)
