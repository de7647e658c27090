"""RLLS, regularized learning under label shifts (Azizzadenesheli, Liu, Yang, Anandkumar, ICLR 2019, arXiv:1903.09734).

    min over θ ≥ -1   ‖K θ - (μ' - μ)‖ + α ρ ‖θ‖,    q_c = p_c (1 + θ_c)

K[i, j] = P(predicted i, class j) on val, where classes count alike (p_c = 1/C); μ and μ' are the mean predictions on
val and on the rows to classify. ρ falls with the number of val rows. See ``black_box_shift`` for the predictions.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ltpost.data.features import FeatureSet
from ltpost.data.priors import log_prior
from ltpost.data.unlabelled import UnlabelledRows
from ltpost.errors import UsageError
from ltpost.family import Family
from ltpost.heads import Array, Head, RescaledHead
from ltpost.method import Method
from ltpost.methods.label_shift import not_empty, shifted
from ltpost.scores.label_shift import confusion, mean_prediction
from ltpost.scores.posteriors import safe_log


def regularized_shift(
    val: FeatureSet,
    target: UnlabelledRows,
    joint: Head,
    class_counts: Array,
    *,
    predictions: Literal["hard", "soft"] = "hard",
    alpha: float = 0.01,
    delta: float = 0.05,
) -> Family:
    """Finds the class prior of the rows to classify from how val rows are confused, with a penalty, and adjusts to it.

    Args:
        val: labelled rows, of any class prior.
        target: the rows to classify, without labels.
        joint: the joint classifier, or one that reads its logits.
        class_counts: (C,) training samples per class, all positive.
        predictions: hard: predicted classes; soft: posteriors.
        alpha: strength of the penalty.
        delta: the chance that the bound ρ fails.

    Returns:
        One head.

    Raises:
        DataError: a class without training samples, or no rows.
        UsageError: a negative alpha, or a delta that is not between 0 and 1.
    """
    if not alpha >= 0 or not 0 < delta < 1:
        raise UsageError(f"alpha= must be 0 or more and delta= between 0 and 1, but they are {alpha:g} and {delta:g}")
    log_pi = log_prior(class_counts)
    box = RescaledHead(joint, offset=-log_pi)
    table, present = confusion(val, box, predictions)
    joint_table = table / max(1, present.sum())
    change = mean_prediction(not_empty(target), box, predictions) - joint_table.sum(axis=1)
    bound = np.log(2 * len(log_pi) / delta)
    rho = 3 * (2 * bound / (3 * max(1, len(val))) + np.sqrt(2 * bound / max(1, len(val))))
    theta = solve_weights(joint_table, change, alpha * rho)
    log_q = safe_log((1 + theta) / len(theta))
    return shifted(joint, log_q - log_pi, log_q, class_counts)


def solve_weights(table: NDArray[np.float64], change: NDArray[np.float64], penalty: float) -> NDArray[np.float64]:
    """θ ≥ -1 that minimises ‖K θ - change‖ + penalty ‖θ‖, (C,).

    >>> solve_weights(np.diag([0.5, 0.5]), np.array([0.1, -0.1]), 0.0).round(3)
    array([ 0.2, -0.2])
    """
    from scipy.optimize import minimize

    tiny = 1e-9  # a norm has no gradient at 0

    def objective(theta: Array) -> tuple[float, Array]:
        residual = table @ theta - change
        one, two = np.sqrt(residual @ residual + tiny**2), np.sqrt(theta @ theta + tiny**2)
        gradient: Array = table.T @ residual / one + penalty * theta / two
        return float(one + penalty * two), gradient

    solution = minimize(
        objective,
        np.zeros(table.shape[1]),
        jac=True,
        method="L-BFGS-B",
        bounds=[(-1.0, None)] * table.shape[1],
        options={"maxiter": 5000, "maxfun": 10_000, "ftol": 1e-14, "gtol": 1e-10},
    )
    return np.asarray(solution.x)


METHOD = Method(
    "rlls",
    regularized_shift,
    title="regularized shift estimation",
    label="RLLS",
    equation="z_c - log π_c + log q_c",
    source="Azizzadenesheli et al., ICLR 2019",
    how="L-BFGS-B, two passes",
    example="ltpost rlls --predictions soft",
)
