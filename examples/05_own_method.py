"""A method of one's own in one file: logit adjustment by the prior that the network acts on, not by the counts.

p_c, the mean softmax of class c over the training images, takes the place of n_c / n (the idea of "Prior2Posterior:
Model Prior Correction for Long-Tailed Learning", WACV 2025, arXiv:2412.16540; this is a sketch of it).
"""

import numpy as np
from scipy.special import softmax

import ltpost
from ltpost.demo import FEW_SHOT, MANY_SHOT, demo_features
from ltpost.methods import TAU_GRID, Family
from ltpost.scores.sweep import affine_curve


def effective_prior(experiment: ltpost.Experiment) -> Family:
    """Heads z_c - tau log p_c."""
    log_p = np.log(softmax(experiment.train.logits, axis=1).mean(axis=0))
    return Family(
        method="effective prior",
        parameter="tau",
        curve=lambda split, groups: affine_curve(split, log_p, groups),  # exact for every tau
        head=lambda tau: experiment.joint.rescaled(offset=-tau * log_p),
        grid=TAU_GRID,
    )


features = demo_features("ltpost-examples/demo")  # made by ltpost demo, if it is not there yet
experiment = ltpost.Experiment(features, many_shot=MANY_SHOT, few_shot=FEW_SHOT)
for method in (effective_prior(experiment), "la"):
    print(experiment.run(method).report, end="\n\n")
