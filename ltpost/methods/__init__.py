"""The methods, one short file each, and their table.

A file declares ``METHOD`` (see ``ltpost.method``). It is imported when its method is asked for. Other packages add
methods through the entry point group ``ltpost.methods``, whose objects are methods too.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING

from ltpost.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from ltpost.method import Method

#: title of a group to its methods: key to the module here, whose function has the same name
GROUPS: dict[str, dict[str, str]] = {
    "Decoupled training": {
        "tnorm": "tau_norm",
        "ncm": "nearest_class_mean",
        "lws": "lws",
        "crt": "crt",
    },
    "Priors": {
        "la": "logit_adjustment",
        "mla": "multiplicative_adjustment",
        "pc-softmax": "pc_softmax",
        "ic": "prior_rebalancing",
        "rs": "weight_rescaling",
        "cdt": "class_dependent_temperature",
        "pairwise": "pairwise_adjustment",
        "p2p": "prior_to_posterior",
        "p2p-val": "prior_to_posterior_val",
        "eigenprior": "eigenvector_prior",
        "eigenprior-free": "eigenvector_prior_unlabelled",
        "tde": "causal_effect",
        "mix": "mixed_heads",
        "tnorm-la": "tau_norm_adjusted",
        "crt-la": "crt_adjusted",
        "lda-la": "discriminant_adjusted",
        "gla": "zero_shot_ensemble",
    },
    "Fitted heads": {
        "marc": "marc",
        "balanced-softmax": "balanced_softmax",
        "ldam": "ldam",
        "vs": "vs_head",
        "cdt-head": "cdt_head",
        "cb-ce": "class_balanced_head",
        "cb-focal": "class_balanced_focal",
        "lade": "lade_head",
        "gcl": "gcl",
        "los": "los",
        "gm": "geometric_mean_head",
        "cosine-la": "cosine_head",
        "wb": "weight_balancing",
        "mislas": "mislas",
        "h2t": "h2t",
        "do-head": "do_head",
        "vector-scaling": "vector_scaling",
        "bias-only": "bias_only",
        "disalign": "disalign",
        "class-offsets": "class_offsets",
        "crt-val": "crt_train_val",
    },
    "Several experts": {
        "mean": "expert_mean",
        "balpoe": "balpoe",
        "ace": "ace",
        "mix-experts": "expert_mixing",
        "early-exit": "early_exit",
        "sade": "sade",
        "do": "instance_weights",
    },
    "Label shift": {
        "em": "label_shift",
        "em-bcts": "label_shift_calibrated",
        "map-em": "label_shift_map",
        "bbse": "black_box_shift",
        "rlls": "regularized_shift",
        "sinkhorn": "sinkhorn",
    },
    "Feature space": {
        "lda": "linear_discriminant",
        "layers": "layer_discriminants",
        "eb-lda": "empirical_bayes_discriminant",
        "eb-layers": "empirical_bayes_layers",
        "knn": "nearest_neighbours",
        "prototypes": "prototype_classifier",
        "tailcalib": "tail_calibration",
        "alphanet": "alphanet",
    },
}
TABLE = {key: module for group in GROUPS.values() for key, module in group.items()}
#: what ``ltpost compare`` runs: the methods that most papers compare with; all take seconds
DEFAULT = ("tnorm", "la", "mla", "ncm", "lws", "crt")
#: names for several methods, for ``ltpost compare --methods``; seeds are those of the works that ltpost starts from
SETS: dict[str, tuple[str, ...]] = {
    "default": DEFAULT,
    "seeds": ("tnorm", "ncm", "lws", "crt", "wb", "mla", "do-head", "do"),
    "decoupled": tuple(GROUPS["Decoupled training"]),
    "priors": tuple(GROUPS["Priors"]),
    "fitted": tuple(GROUPS["Fitted heads"]),
    "space": tuple(GROUPS["Feature space"]),
    "experts": tuple(GROUPS["Several experts"]),
    "shift": tuple(GROUPS["Label shift"]),
}


def added() -> dict[str, EntryPoint]:
    """Methods of other packages by key, not loaded."""
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group="ltpost.methods") if point.name not in TABLE}


def all_keys() -> list[str]:
    """The keys of all methods."""
    return [*TABLE, *sorted(added())]


def keys_of(names: Iterable[str]) -> list[str]:
    """The keys of methods by their own names or by names of sets, each once.

    Raises:
        UsageError: a name is neither.

    >>> keys_of(["decoupled", "la"])
    ['tnorm', 'ncm', 'lws', 'crt', 'la']
    """
    keys: list[str] = []
    for name in names:
        keys += all_keys() if name == "all" else SETS.get(name) or [get(name).key]
    return list(dict.fromkeys(keys))


def get(key: str) -> Method:
    """The method of a key.

    Raises:
        UsageError: there is none.
    """
    if key in TABLE:
        method: Method = import_module(f"ltpost.methods.{TABLE[key]}").METHOD
        return method
    others = added()
    if key in others:
        loaded: Method = others[key].load()
        return loaded
    keys = all_keys()
    raise UsageError(f"the method must be one of {', '.join(keys)}, but is {key!r}{did_you_mean(key, keys)}")


def label_of(name: str) -> str:
    """A method's name as the field writes it, from its key; other names are left as they are.

    >>> label_of("tnorm"), label_of("crt"), label_of("heads/mine.safetensors")
    ('τ-norm', 'cRT', 'heads/mine.safetensors')
    """
    return get(name).label if name in TABLE or name in added() else name
