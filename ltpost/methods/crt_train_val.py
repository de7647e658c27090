"""cRT on the rows of train and val together (cRT: Kang et al., "Decoupling Representation …", ICLR 2020, 4.1).

    min over W, b   1/C Σ_c mean_{i in train or val: y_i = c} CE(W x_i + b, c)  +  strength/2 ‖W‖²

A network that fits its training rows completely gives them sharper features than rows that it has not seen. Val rows
show how unseen ones lie, most of all for rare classes, where they are the majority. It fits to val labels, so that it
needs val rows that are drawn at random, about 20 of a class or 2,000 in all.
"""

from __future__ import annotations

from ltpost.data import distributed
from ltpost.data.features import FeatureSet
from ltpost.data.one_after_other import one_after_other
from ltpost.family import Family
from ltpost.fit.fitting import refit
from ltpost.fit.loss import Loss
from ltpost.fit.options import HeadFit
from ltpost.method import Method

FIT = HeadFit()


def crt_train_val(train: FeatureSet, val: FeatureSet, *, fit: HeadFit = FIT) -> Family:
    """Fits a new classifier to the rows of train and val, all classes counted alike.

    Args:
        train: training features (N, D) and labels.
        val: labelled rows that the network has not seen, drawn at random.
        fit: the solver and its options.

    Returns:
        Heads along the strength (convex), or one head (sgd).
    """
    rows = one_after_other([train, distributed.shard(val)], "train")
    return refit(rows, Loss(), fit, name="crt-val")


METHOD = Method(
    "crt-val",
    crt_train_val,
    title="classifier re-training on train and val",
    equation="Wx + b",
    source="Kang et al., ICLR 2020",
    label="cRT on train + val",
    chosen="strength (convex)",
    variant="head only",
    how="L-BFGS, or SGD recipe",
    example="ltpost crt-val --strengths 0.01,0.1,1",
)
