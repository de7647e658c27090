"""ltpost: post-hoc rebalancing of long-tailed classifiers over cached features."""

from ltpost._version import __version__
from ltpost.errors import DataError, LtpostError, UsageError
from ltpost.features import FeatureSet, load
from ltpost.head import LinearHead

__all__ = [
    "DataError",
    "FeatureSet",
    "LinearHead",
    "LtpostError",
    "UsageError",
    "__version__",
    "load",
]
