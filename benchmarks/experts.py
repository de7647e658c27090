"""Three experts and two views on real images: the plain mean, SADE and DO compared.

    python -m benchmarks.experts                      trains the networks first, about 15 minutes on one core
    python -m benchmarks.experts --views sade         with the colour jitter, grey and blur of SADE's views

CIFAR-100-LT, imbalance factor 100: three small networks trained with τ = 0, 1, 2 (``benchmarks.three_networks``); two
augmented views of val and test. The first table shows test accuracy in %, and the weights of the experts per shot
group, as the paper of DO does in its Table 9; the second top-1 accuracy on test rows that are drawn long-tailed, most
of them of the classes that are frequent (forward) or rare (backward) in training, as SADE is evaluated. What both say
is in ``docs/experts.md``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable

import numpy as np

import ltpost
from benchmarks.three_networks import TAUS, folders
from ltpost import Experiment, FeatureSet, Outcome
from ltpost.data.priors import GROUPS
from ltpost.data.unlabelled import UnlabelledRows
from ltpost.evaluation import result_of
from ltpost.report.results import Result
from ltpost.scores.metrics import FIGURES
from ltpost.scores.predict import predict
from ltpost.tables import percent, text_table

SADE = {"learning_rate": 0.1}  # the paper's for CIFAR-100-LT
RUNS: list[tuple[str, str, dict[str, object]]] = [
    ("mean", "mean", {}),
    ("SADE, its recipe", "sade", SADE),
    ("SADE, optimum", "sade", {"solver": "optimum"}),
    ("DO, cosine of softmax", "do", {}),
    ("DO, the same, shrunk on val", "do", {"shrink": True}),
    ("DO, cosine of logits", "do", {"space": "logits"}),
    ("DO, the same, shrunk on val", "do", {"space": "logits", "shrink": True}),
    ("DO, dot of softmax", "do", {"similarity": "dot"}),
    ("DO, dot of logits", "do", {"space": "logits", "similarity": "dot"}),
    ("early exit", "early-exit", {}),
]


def row(name: str, result: Result, weights: str, seconds: float) -> list[str]:
    figures = [percent(getattr(result.figures, figure)) for figure in FIGURES if figure != "top1"]
    return [name, *figures, weights, f"{seconds:.1f}"]


def of_method(results: Iterable[Result], key: str) -> Result:
    return next(result for result in results if result.name == key and result.split.startswith("test"))


def weights_of(outcome: Outcome) -> str:
    """The same weights for all rows, or their means for many, medium and few."""
    if "weights" in outcome.params:
        return " ".join(f"{weight:.2f}" for weight in outcome.params["weights"])
    if not outcome.per_group:
        return ""
    groups = [[means[group] for means in outcome.per_group.values()] for group in GROUPS]
    return " | ".join(" ".join(f"{value:.2f}" for value in values) for values in groups)


def mean_of_views(experiment: Experiment) -> Result:
    """The mean of all experts over the plain view and both augmented ones: what views give without any weights."""
    test = experiment.report_set
    views, index = test.two_views()
    plain, augmented = (rows.head.logits(rows.features[:]) for rows in (test, views))
    total = plain + augmented[index].sum(axis=1)
    return result_of(total.argmax(axis=1) == test.labels, test, experiment.groups, name="mean of views")


def skewed(test: FeatureSet, factor: float) -> FeatureSet:
    """Some rows of a balanced test split: ``factor`` as many of the rarest class as of the most frequent one."""
    assert test.class_counts is not None
    rank = np.argsort(np.argsort(-test.class_counts, kind="stable"))
    share = factor ** (rank / (len(rank) - 1))
    wanted = np.maximum(1, np.round(np.bincount(test.labels).min() * share / share.max())).astype(int)
    random = np.random.default_rng(0)
    rows = [random.permutation(np.flatnonzero(test.labels == c))[:count] for c, count in enumerate(wanted)]
    return test.subset(np.sort(np.concatenate(rows)))


def under_other_priors(test: FeatureSet) -> list[list[str]]:
    """Top-1 accuracy on skewed test rows, and the weights that SADE finds there."""
    table = []
    for name, factor in (("forward-50", 1 / 50), ("forward-10", 0.1), ("backward-10", 10.0), ("backward-50", 50.0)):
        rows = skewed(test, factor)
        hidden = UnlabelledRows(rows)
        found = ltpost.sade(rows.experts, hidden, **SADE)
        heads = [family.head() for family in (ltpost.expert_mean(rows.experts), found)]
        heads.append(ltpost.instance_weights(rows.experts, hidden).head())
        figures = [percent(float((predict(head, rows) == rows.labels).mean())) for head in heads]
        weights = " ".join(f"{weight:.2f}" for weight in found.params["weights"])
        table.append([name, f"{len(rows):,}", *figures, weights])
    return table


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--views", default="standard", choices=["standard", "sade"])
    places = folders(parser.parse_args().views)
    rows = []
    for tau, place in zip(TAUS, places, strict=True):
        alone = Experiment(place, progress=False)
        rows.append(row(f"network with tau {tau:g}", alone.joint_results[0], "", 0.0))
    experiment = Experiment(",".join(map(str, places)), progress=False)
    for name, key, options in RUNS:
        started = time.perf_counter()
        outcome = experiment.run(key, **options)
        rows.append(row(name, of_method(outcome.results, key), weights_of(outcome), time.perf_counter() - started))
    rows.append(row("mean, also over the views", mean_of_views(experiment), "", 0.0))
    print(text_table(["", "Many", "Medium", "Few", "All", "weights (many | medium | few)", "s"], rows, left=1))
    other = under_other_priors(experiment.report_set)
    print("\n" + text_table(["test rows", "", "mean", "SADE", "DO", "weights of SADE"], other, left=1))


if __name__ == "__main__":
    main()
