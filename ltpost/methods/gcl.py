"""GCL stage 2 (Li et al., "Long-tailed Visual Recognition via Gaussian Clouded Logit Adjustment", CVPR 2022).

    (1 - p_iy)^γ CE(z_i, y_i)      z_ic = s (cos(x_i, w_c) - k |ε_ic| g_c / max g - m [c = y])
    g_c = log n_max - log n_c      ε ~ N(0, 1/3), held to ±1

The classifier is trained on with rows of all classes alike and noise on the cosines that is larger for rare classes.
arXiv:2305.11733. Reference code: Keke921/GCLLoss. What it does not do: stage 1, which trains the network with the same
loss, or mix input images.
"""

from __future__ import annotations

from ltpost.data.features import FeatureSet
from ltpost.family import Family
from ltpost.fit.cloud_loss import CloudLoss
from ltpost.fit.fitting import refit
from ltpost.fit.layer import Layer
from ltpost.fit.options import CONVEX_ONLY, HeadFit
from ltpost.heads import Array, LinearHead
from ltpost.method import Method

FIT = HeadFit(solver="sgd", learning_rate=0.1, weight_decay=2e-4, batch_size=64, epochs=30)


def gcl(
    train: FeatureSet,
    head: LinearHead,
    class_counts: Array,
    *,
    scale: float = 20.0,
    noise: float = 0.5,
    margin: float = 0.1,
    gamma: float = 1.0,
    fit: HeadFit = FIT,
) -> Family:
    """Trains the classifier on as a cosine one, under noise that is larger for rare classes.

    Args:
        train: training features (N, D) and labels; several views of a sample are several rows.
        head: the joint classifier; the directions of its weights are the start.
        class_counts: (C,) training samples per class, all positive.
        scale: s; published 20 for CIFAR-100-LT, 15 for Places-LT.
        noise: k; published .5 for CIFAR-100-LT, 1 for Places-LT.
        margin: m, subtracted from the cosine of the right class.
        gamma: γ of the focal factor.
        fit: sgd and its options; the noise is drawn anew for every batch.

    Returns:
        One head. Its weights have unit length and decide as the cosines do; their softmax is another.

    Raises:
        DataError: a class without training samples.
    """
    # NOTE[DIFF]: the reference goes on from a stage-1 head that is a cosine one and mixes input images. Here it goes on
    # from any linear head, and nothing is mixed. It keeps the epoch that is best on test; here the last one is kept.
    loss = CloudLoss(class_counts, scale, noise, margin, gamma, fit.seed)
    layer = Layer(start=head, cosine=True)
    return refit(train, loss, fit, name="gcl", layer=layer, only_sgd="draws noise")


METHOD = Method(
    "gcl",
    gcl,
    title="GCL stage 2",
    label="GCL",
    equation="cos(x, w_c), fitted under noise",
    source="Li et al., CVPR 2022",
    variant="head only",
    how="SGD recipe",
    example="ltpost gcl --noise 1",
    without=("solver", *CONVEX_ONLY),
)
