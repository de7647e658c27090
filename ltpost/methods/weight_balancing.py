"""Weight balancing, stage 2 (Alshammari et al., "Long-Tailed Recognition via Weight Balancing", CVPR 2022).

    mean_i v_y L(W x_i + b, y_i) + strength/2 ‖W‖²   with ‖w_c‖ ≤ r      r = min ‖w‖ + .1 (max ‖w‖ - min ‖w‖)

The classifier is trained on with class weights v of the effective number of samples, strong weight decay, and MaxNorm:
a ball of the norms of stage 1. arXiv:2203.14197, equations 3 to 5. Reference code: ShadeAlsha/LTR-weight-balancing.
What it does not do: stage 1, which trains the network with weight decay, or average flipped views.
"""

from __future__ import annotations

from typing import Literal

from ltpost.data.features import FeatureSet
from ltpost.errors import DataError
from ltpost.family import Family
from ltpost.fit.class_weights import effective_number
from ltpost.fit.fitting import refit
from ltpost.fit.layer import Layer
from ltpost.fit.loss import HeadLoss, Loss
from ltpost.fit.one_vs_rest import SoftmaxBCE
from ltpost.fit.options import HeadFit
from ltpost.heads import Array, LinearHead
from ltpost.method import Method

FIT = HeadFit(sampler="instance", learning_rate=0.01, weight_decay=0.1, batch_size=64, epochs=10)


def weight_balancing(
    train: FeatureSet,
    head: LinearHead,
    class_counts: Array,
    *,
    loss: Literal["softmax-bce", "cross-entropy"] = "cross-entropy",
    beta: float = 0.9999,
    threshold: float = 0.1,
    fit: HeadFit = FIT,
) -> Family:
    """Trains the classifier on with class weights, weight decay and bounded norms.

    Args:
        train: training features (N, D) and labels; several views of a sample are several rows.
        head: the joint classifier: its norms give the ball, and sgd starts from it.
        class_counts: (C,) training samples per class, all positive.
        loss: cross-entropy, which is convex; or softmax-bce, the loss of the reference code: binary cross entropy of
            the softmax, mean over classes. It is not convex, and convex then descends to a local minimum.
        beta: β of the effective number of samples.
        threshold: where between the least (0) and the greatest (1) norm of the joint classifier the ball ends.
        fit: the solver and its options. convex projects at every step too; its start is 0.

    Returns:
        Heads along the strength (convex), or one head (sgd).

    The recipe is made for features that were trained with strong weight decay. On others (CIFAR-100-LT, ResNet-32,
    imbalance factor 100) softmax-bce with sgd gives 32.5 % mean per-class test accuracy, the joint classifier 40.2 %,
    and cross-entropy with convex 42.4 %, where the penalty alone keeps all weights inside the ball.

    Raises:
        DataError: a class without training samples.
    """
    # NOTE[DIFF]: the reference code projects once per epoch, the paper at every step; here it is every step.
    norms, weight = head.norms(), effective_number(class_counts, beta)
    radius = float(norms.min() + threshold * (norms.max() - norms.min()))
    if radius == 0:
        raise DataError("'head/weight' must have norms above 0, which are the ball that weights stay in, but is 0")
    minimised: HeadLoss = SoftmaxBCE(weight) if loss == "softmax-bce" else Loss(weight=weight)
    return refit(train, minimised, fit, name="wb", layer=Layer(start=head, pull=False, max_norm=radius))


METHOD = Method(
    "wb",
    weight_balancing,
    title="weight balancing, stage 2",
    label="WB",
    equation="Wx + b, ‖w_c‖ ≤ r",
    source="Alshammari et al., CVPR 2022",
    chosen="strength (convex)",
    variant="head only",
    how="accelerated projected gradient, or SGD recipe",
    example="ltpost wb --loss softmax-bce --solver sgd",
)
