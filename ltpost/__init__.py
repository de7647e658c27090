"""ltpost: post-hoc rebalancing of long-tailed classifiers over cached features.

import ltpost

val, test = ltpost.load("features/val.h5"), ltpost.load("features/test.h5")
curve = ltpost.tau_curve(val)
head = ltpost.tau_normalize(val.head, curve.best().value)
ltpost.evaluate(head, test)
"""

from typing import TYPE_CHECKING, Any

from ltpost._version import __version__
from ltpost.errors import DataError, LtpostError, UsageError
from ltpost.evaluation import evaluate
from ltpost.features import FeatureSet, load
from ltpost.folder import FeatureFolder
from ltpost.head import LinearHead
from ltpost.methods.logit_adjustment import la_curve, logit_adjust
from ltpost.methods.multiplicative_adjustment import mla_curve, multiplicative_adjust
from ltpost.methods.tau_norm import tau_curve, tau_normalize
from ltpost.pipeline import Experiment, Outcome, compare
from ltpost.priors import shot_groups
from ltpost.report import Report

if TYPE_CHECKING:
    from ltpost.methods.crt import crt
    from ltpost.methods.lws import lws
    from ltpost.methods.ncm import nearest_class_mean

#: what needs torch, or is rarely needed, loads when it is first used
_LAZY = {
    "crt": "ltpost.methods.crt",
    "lws": "ltpost.methods.lws",
    "nearest_class_mean": "ltpost.methods.ncm",
}

__all__ = [
    "DataError",
    "Experiment",
    "FeatureFolder",
    "FeatureSet",
    "LinearHead",
    "LtpostError",
    "Outcome",
    "Report",
    "UsageError",
    "__version__",
    "compare",
    "crt",
    "evaluate",
    "la_curve",
    "load",
    "logit_adjust",
    "lws",
    "mla_curve",
    "multiplicative_adjust",
    "nearest_class_mean",
    "shot_groups",
    "tau_curve",
    "tau_normalize",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'ltpost' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)
