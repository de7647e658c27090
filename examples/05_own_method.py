"""A method of one's own in one file: logit adjustment by the prior that the network acts on, not by the counts.

p_c, the mean softmax of class c over the training images, takes the place of n_c / n (the idea of "Prior2Posterior:
Model Prior Correction for Long-Tailed Learning", WACV 2025, arXiv:2412.16540; this is a sketch of it).
"""

import numpy as np
from scipy.special import softmax

import ltpost
from ltpost.demo import FEW_SHOT, MANY_SHOT, demo_features


def effective_prior(train: ltpost.FeatureSet, joint: ltpost.Head, *, temperature: float = 1.0) -> ltpost.Family:
    """Subtracts the log of the mean prediction.

    Args:
        train: training features; what a method needs are its positional parameters, by name.
        joint: the joint classifier.
        temperature: divides the logits before the softmax.
    """
    log_p = np.log(softmax(train.logits / temperature, axis=1).mean(axis=0))
    return ltpost.Family.affine(joint, log_p)  # heads z_c - tau log p_c, with a curve that is exact at every tau


METHOD = ltpost.Method(
    "effective-prior",
    effective_prior,
    title="adjustment by the effective prior",
    equation="z_c - τ log p_c",
    source="after Prior2Posterior, WACV 2025",
    chosen="τ",
    grid=tuple(k / 10 for k in range(21)),
)

experiment = ltpost.Experiment(demo_features("ltpost-examples/demo"), many_shot=MANY_SHOT, few_shot=FEW_SHOT)
for outcome in ltpost.compare(experiment, [METHOD, "la"], **{"effective-prior": {"temperature": 2.0}}):
    print(outcome.report, end="\n\n")
