"""Prototype classifier (Sharma et al., "Learning Prototype Classifiers for Long-Tailed Recognition", IJCAI 2023).

    z_c = -½ ‖(x - p_c) / T‖        min over p, T   CE(z + log n / s, y)

The prototypes p_c start at the class means, the temperature T of every channel at 1. The distance is not squared.
"""

from __future__ import annotations

import numpy as np

from ltpost.data.class_sums import class_sums
from ltpost.data.features import FeatureSet
from ltpost.data.priors import log_prior
from ltpost.errors import UsageError
from ltpost.family import Family
from ltpost.fit.options import Recipe
from ltpost.fit.sampling import rows_per_class
from ltpost.heads import Array, PrototypeHead
from ltpost.method import Method


def prototype_classifier(
    train: FeatureSet,
    class_counts: Array,
    *,
    epochs: int = 1,
    learning_rate: float = 4.2,
    temperature_rate: float = 0.005,
    temperature_decay: float = 2e-4,
    logit_scale: float = 3.8,
    batch_size: int = 64,
    seed: int = 0,
    device: str = "cpu",
    progress: bool = True,
) -> Family:
    """Learns a prototype per class and a temperature per channel, from the class means on.

    Args:
        train: training features (N, D) and labels; several views of a sample are several rows.
        class_counts: (C,) training samples per class, all positive.
        epochs: of class-balanced batches; 0 keeps the class means and T = 1.
        learning_rate: of the prototypes, without weight decay.
        temperature_rate: learning rate of the temperatures.
        temperature_decay: weight decay of the temperatures.
        logit_scale: s; log n / s is added to the scores in training.
        batch_size: rows per step.
        seed: of the batches.
        device: where to fit.
        progress: show a bar, on a terminal.

    Returns:
        One head, which is not linear. One pass for the means and ``epochs`` passes of two products.

    Raises:
        DataError: a class without a row or a count.
        UsageError: a number that must be positive, and is not.

    NOTE[DIFF]: the paper trains on augmented images; here on cached rows. Its sampler draws four rows of a class at a
    time, here each row is drawn by itself (see ``fit.sampling``). Momentum and the shape of the learning rate are those
    of ``fit.sgd``.
    """
    for name, value in (("temperature_rate", temperature_rate), ("logit_scale", logit_scale)):
        if not 0 < value < np.inf:
            raise UsageError(f"{name}= must be positive, but is {value}")
    if temperature_decay < 0 or epochs < 0:
        raise UsageError("temperature_decay= and epochs= must not be negative")
    logs = log_prior(class_counts) + np.log(np.sum(class_counts))
    means = class_sums(train) / rows_per_class(train)[:, None]
    if epochs == 0:
        return Family.single(PrototypeHead(means, np.ones(means.shape[1])))
    recipe = Recipe(learning_rate, 0.0, batch_size, epochs)
    from ltpost.fit.prototypes import learn_prototypes

    head = learn_prototypes(
        train,
        means,
        logs / logit_scale,
        recipe,
        temperature_rate=temperature_rate,
        temperature_decay=temperature_decay,
        seed=seed,
        device=device,
        progress=progress,
    )
    return Family.single(head, params={"seed": seed})


METHOD = Method(
    "prototypes",
    prototype_classifier,
    title="prototype classifier",
    equation="-½ ‖(x - p_c) / T‖",
    source="Sharma et al., IJCAI 2023",
    variant="head only",
    how="SGD recipe",
    example="ltpost prototypes --epochs 5",
)
