"""CDT head, class-dependent temperatures (Ye et al., "Identifying and Compensating for Feature Deviation …", 2020).

    CE(z_i / a, y_i),   a_c = (n_max / n_c)^γ      z = W x + b

The head of the VS loss without its shift. arXiv:2001.01385. What it does not do: train the network.
"""

from __future__ import annotations

from ltpost.data.features import FeatureSet
from ltpost.family import Family
from ltpost.fit.options import HeadFit
from ltpost.heads import Array
from ltpost.method import Method
from ltpost.methods.vs_head import FIT, vs_head


def cdt_head(train: FeatureSet, class_counts: Array, *, gamma: float = 0.3, fit: HeadFit = FIT) -> Family:
    """Fits a new classifier whose logits are divided class by class while it is fitted.

    Args:
        train: training features (N, D) and labels; several views of a sample are several rows.
        class_counts: (C,) training samples per class, all positive.
        gamma: exponent of the temperature; 0 for none. 0.3 is published with the VS loss; on the val rows
            of CIFAR-100-LT 0.1 is better (45.0 against 37.9, cross-fitted).
        fit: the solver and its options.

    Returns:
        Heads along the strength (convex), or one head (sgd).

    Raises:
        DataError: a class without training samples.
    """
    return vs_head(train, class_counts, gamma=gamma, tau=0.0, fit=fit)


METHOD = Method(
    "cdt-head",
    cdt_head,
    title="class-dependent temperatures head",
    label="CDT (fitted)",
    equation="Wx + b, fitted as (Wx + b)_c / a_c",
    source="Ye et al., 2020",
    chosen="strength (convex)",
    variant="head only",
    how="L-BFGS, or SGD recipe",
    example="ltpost cdt-head --gamma 0.2",
)
