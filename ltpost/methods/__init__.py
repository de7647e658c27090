"""The methods, one short file each, and their table.

A file declares ``METHOD`` (see ``ltpost.method``). It is imported when its method is asked for. Other packages add
methods through the entry point group ``ltpost.methods``, whose objects are methods too.
"""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import TYPE_CHECKING

from ltpost.errors import UsageError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from ltpost.method import Method

#: key of a method to its module here, whose function has the same name
TABLE = {
    "tnorm": "tau_norm",
    "la": "logit_adjustment",
    "mla": "multiplicative_adjustment",
    "ncm": "nearest_class_mean",
    "lws": "lws",
    "crt": "crt",
    "marc": "marc",
    "balanced-softmax": "balanced_softmax",
    "ldam": "ldam",
    "vs": "vs_head",
    "cdt": "cdt_head",
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
}


def added() -> dict[str, EntryPoint]:
    """Methods of other packages by key, not loaded."""
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group="ltpost.methods") if point.name not in TABLE}


def all_keys() -> list[str]:
    """The keys of all methods."""
    return [*TABLE, *sorted(added())]


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
    close = difflib.get_close_matches(key, all_keys(), 1)
    meant = f"; did you mean {close[0]}?" if close else ""
    raise UsageError(f"the method must be one of {', '.join(all_keys())}, but is {key!r}{meant}")
