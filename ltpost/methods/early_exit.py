"""RIDE's early exit (Wang et al., "Long-tailed Recognition by Routing …", ICLR 2021, arXiv:2010.01809, 3.3), simulated.

    row i is given experts 0, 1, … while   σ(v · [relu(U_e x̂_ie); k largest of the mean logits so far] + v_0) > 1/2

x̂ is a row's feature of expert e at unit length, U_e a layer for each gate, v one layer for all. Gates learn on cached
training rows to ask on where the mean so far is wrong and that of more experts right. All experts are cached, so that
nothing is saved: the method says what early exit would give, and how many experts each group would use.

Cost: one pass over all experts' features and logits per epoch (2 E C D products a row); the gates themselves are small.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ltpost.data import distributed
from ltpost.data.features import FeatureSet
from ltpost.errors import DataError, UsageError
from ltpost.family import Family
from ltpost.fit.sampling import rows_per_class
from ltpost.heads import Array, ExpertHead, RoutedHead
from ltpost.heads.aggregated import stacked_logits
from ltpost.heads.normalized import normalized
from ltpost.heads.routed import Gates, largest_first
from ltpost.method import Method

HIDDEN = 16  # units of a gate, as in the reference code
_MANY_CLASSES = 100  # up to which k is 30


def early_exit(
    experts: Sequence[ExpertHead],
    train: FeatureSet,
    *,
    top: int | None = None,
    threshold: float = 0.5,
    epochs: int = 5,
    learning_rate: float = 0.01,
    weight_decay: float = 5e-4,
    batch_size: int = 512,
    positive_weight: float = 100.0,
    seed: int = 0,
) -> Family:
    """Gives each row only as many experts as small gates ask for.

    Args:
        experts: E heads, in the order in which they are asked.
        train: training features (N, D) and labels of all experts.
        top: k, how many of the largest mean logits a gate sees. Default as in the reference code, 30 up to 100 classes
            and 50 beyond.
        threshold: the probability above which a gate asks for one more expert.
        epochs: of SGD on class-balanced rows, N rows each.
        learning_rate: at the start; it falls to 0 as a cosine, once per epoch.
        weight_decay: of the gates.
        batch_size: of SGD.
        positive_weight: how much more it counts to miss a row that one more expert would have right.
        seed: of the gates and of the rows.

    Returns:
        One head (:class:`~ltpost.heads.RoutedHead`), which says how many experts each row uses.

    Raises:
        DataError: experts without features.
        UsageError: an option that is not positive.

    NOTE[DIFF]: gates see cached training rows without augmentation. A network that fits its training rows completely
    leaves a gate nothing to learn, and then the first expert alone is used, or by the positive weight all.
    """
    for name, value in (("epochs", epochs), ("batch_size", batch_size), ("learning_rate", learning_rate)):
        if value <= 0:
            raise UsageError(f"{name}= must be positive, but is {value:g}")
    if distributed.is_active():
        raise UsageError("early-exit fits in one process; start it without torchrun")
    if top is not None and top < 1:
        raise UsageError(f"top= must be at least 1, but is {top}")
    classes = experts[0].num_classes
    k = min(classes, top or (30 if classes <= _MANY_CLASSES else 50))
    widths = [train.expert(expert.number).num_features for expert in experts[:-1]]
    if None in widths:
        raise DataError(f"{train.name}: holds no 'features', which the gates read; extract them with ltpost extract")
    rows_per_class(train)
    gates = _train(
        experts,
        train,
        [int(width or 0) for width in widths],
        k,
        epochs=epochs,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        batch_size=batch_size,
        positive_weight=positive_weight,
        seed=seed,
    )
    return Family.single(RoutedHead(experts, gates, k, threshold), params={"top": k})


def gate_targets(correct: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where a gate should be open, (n, E-1), from whether the mean of the first 1, 2, …, E experts is right, (n, E).

    >>> gate_targets(np.array([[False, True, False], [True, False, True]])).tolist()
    [[True, False], [False, True]]
    """
    later = np.logical_or.accumulate(correct[:, ::-1], axis=1)[:, ::-1]  # right with these experts or with more
    return np.asarray(~correct[:, :-1] & later[:, 1:])


def _train(
    experts: Sequence[ExpertHead],
    train: FeatureSet,
    widths: Sequence[int],
    top: int,
    *,
    epochs: int,
    learning_rate: float,
    weight_decay: float,
    batch_size: int,
    positive_weight: float,
    seed: int,
) -> Gates:
    import torch
    from torch import nn

    random = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)

    def layer(inputs: int, outputs: int) -> nn.Linear:
        with torch.no_grad():
            made = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")
            for part in (made.weight, made.bias):
                part.uniform_(-(inputs**-0.5), inputs**-0.5, generator=generator)
        return made

    hidden = [layer(width, HIDDEN) for width in widths]
    shared = layer(HIDDEN + top, 1)
    parameters = [part for gate in (*hidden, shared) for part in gate.parameters()]
    optimizer = torch.optim.SGD(parameters, learning_rate, momentum=0.9, nesterov=True, weight_decay=weight_decay)
    loss_of = nn.BCEWithLogitsLoss(pos_weight=torch.tensor([float(positive_weight)]))
    own = [train.expert(expert.number) for expert in experts[:-1]]
    for epoch in range(epochs):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * (1 + np.cos(np.pi * epoch / epochs)) / 2
        for rows in np.split(_balanced(train, random), range(batch_size, len(train), batch_size)):
            largest, targets = _seen(experts, train, rows, top)
            scores = []
            for number, gate in enumerate(hidden):
                features = normalized(own[number].read_features(rows).astype(np.float32))
                inside = torch.relu(gate(torch.from_numpy(features)))
                scores.append(shared(torch.cat([inside, torch.from_numpy(largest[number])], dim=1)))
            loss = loss_of(torch.cat(scores, dim=1), torch.from_numpy(targets.astype(np.float32)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        layers = tuple((gate.weight.numpy().copy(), gate.bias.numpy().copy()) for gate in hidden)
        return Gates(layers, shared.weight[0].numpy().copy(), float(shared.bias[0]))


def _balanced(train: FeatureSet, random: np.random.Generator) -> NDArray[np.int64]:
    """(N,) rows of uniformly drawn classes."""
    order = np.argsort(train.labels, kind="stable")
    counts = np.bincount(train.labels, minlength=train.num_classes)
    first = np.cumsum(counts) - counts
    classes = random.integers(train.num_classes, size=len(train))
    return np.asarray(order[first[classes] + (random.random(len(train)) * counts[classes]).astype(np.int64)])


def _seen(
    experts: Sequence[ExpertHead], train: FeatureSet, rows: NDArray[np.int64], top: int
) -> tuple[list[Array], NDArray[np.bool_]]:
    """The largest mean logits that every gate sees, (n, k) each, and where it should be open, (n, E-1)."""
    logits = stacked_logits(experts, train, rows)
    means = np.cumsum(logits, axis=1) / np.arange(1, len(experts) + 1)[:, None]
    correct = means.argmax(axis=2) == train.labels[rows, None]
    largest = [largest_first(means[:, number], top).astype(np.float32) for number in range(len(experts) - 1)]
    return largest, gate_targets(correct)


METHOD = Method(
    "early-exit",
    early_exit,
    title="early exit through the experts",
    label="early exit",
    equation="Σ_{e ≤ m_i} z_ec / m_i",
    source="Wang et al., ICLR 2021",
    variant="head only",
    how="SGD recipe of the gates",
    example="ltpost early-exit --threshold 0.3",
)
