"""ltpost: post-hoc rebalancing of long-tailed classifiers over cached features.

import ltpost

val, test = ltpost.load("features/val.h5"), ltpost.load("features/test.h5")
family = ltpost.tau_norm(val.head)
best = family.curve(val).best()
ltpost.evaluate(family.head(best.tau), test)

Every method is a function here (``ltpost.tau_norm``, ``ltpost.crt``, …): see ``ltpost.methods.TABLE``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ltpost import methods
from ltpost._version import __version__
from ltpost.data.features import FeatureSet
from ltpost.data.folder import FeatureFolder
from ltpost.data.load import load
from ltpost.data.priors import shot_groups
from ltpost.errors import DataError, LtpostError, UsageError
from ltpost.evaluation import evaluate
from ltpost.experiment import Experiment
from ltpost.family import Family
from ltpost.heads import Head, LinearHead, RescaledHead, load_head
from ltpost.method import Method
from ltpost.outcome import Outcome
from ltpost.report.results import Report

if TYPE_CHECKING:
    from ltpost.comparison import compare, compare_report, pareto_front
    from ltpost.data.split import split_file
    from ltpost.diagnostics import diagnose
    from ltpost.ladder import Ladder, best
    from ltpost.page import write_report

__all__ = [
    "DataError",
    "Experiment",
    "Family",
    "FeatureFolder",
    "FeatureSet",
    "Head",
    "Ladder",
    "LinearHead",
    "LtpostError",
    "Method",
    "Outcome",
    "Report",
    "RescaledHead",
    "UsageError",
    "__version__",
    "best",
    "compare",
    "compare_report",
    "diagnose",
    "evaluate",
    "extract_features",
    "load",
    "load_head",
    "methods",
    "pareto_front",
    "shot_groups",
    "split_file",
    "write_report",
]


#: what many programs do not need, and the module of it, which is loaded at its first use; imported above for type
#: checkers and for the test of the rooms
_LOADED_LATER = {
    "Ladder": "ladder",
    "best": "ladder",
    "compare": "comparison",
    "compare_report": "comparison",
    "diagnose": "diagnostics",
    "pareto_front": "comparison",
    "split_file": "data.split",
    "write_report": "page",
}


def __getattr__(name: str) -> Any:
    if name == "extract_features":  # which needs torch
        return getattr(import_module("ltpost.extract"), name)
    if name in _LOADED_LATER:
        return getattr(import_module(f"ltpost.{_LOADED_LATER[name]}"), name)
    for key, module in methods.TABLE.items():
        if module == name:
            return methods.get(key)
    raise AttributeError(f"module 'ltpost' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *methods.TABLE.values()} - {"Any", "TYPE_CHECKING", "import_module"})
