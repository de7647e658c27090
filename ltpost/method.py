"""A method is a function plus a few words.

    def logit_adjustment(joint: Head, class_counts: Array) -> Family:
        '''subtracts the class prior'''
        return Family.affine(joint, log_prior(class_counts))

    METHOD = Method("la", logit_adjustment, title="logit adjustment", equation="z_c - τ log π_c", …)

Everything else is read off the function: what it **needs** (its positional parameters, by name, see ``NEEDS``), its
**options** (its keyword-only parameters: type, default and choices from the signature, help from the docstring), its
command, its row in the README, its signature in results and its messages. A keyword-only parameter that is a dataclass
(``fit: Fit``) stands for its fields. Parameters named in ``SETTINGS`` are given by the experiment.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ltpost.errors import DataError, UsageError, listed_names
from ltpost.family import Family

#: name of a positional parameter to its name in the README and in messages
NEEDS = {
    "train": "train features",
    "head": "classifier",
    "joint": "classifier or logits",
    "class_counts": "counts",
    "val": "val labels",
    "target": "unlabelled rows to classify",
    "experts": "several experts",
    "views": "two augmented views of the rows to classify",
    "causal_head": "CausalNorm classifier",
    "zero_shot": "zero-shot classifier",
    "layers": "earlier layers",
}
#: needs that let a method see the rows that it is applied to, without their labels: it is made anew for every split
TRANSDUCTIVE = ("target", "views")
SETTINGS = ("seed", "device", "progress", "watch")
#: signs of chosen values, as options spell them
_IN_LETTERS = {"τ": "tau", "β": "beta", "γ": "gamma", "α": "alpha", "t": "weight"}
#: fields of an option dataclass that are no options
_HIDDEN = ("given",)


@dataclass(frozen=True)
class Option:
    """A keyword-only parameter of a method.

    Attributes:
        name: of the parameter.
        type: float, int, bool, str, or tuple for a tuple of floats.
        default: its default.
        choices: the values that it may have, or () for any.
        help: a sentence, from the docstring.
        optional: whether None is a value.
        part_of: the dataclass parameter that it is a field of, or None.
    """

    name: str
    type: type
    default: Any
    choices: tuple[Any, ...]
    help: str
    optional: bool
    part_of: str | None = None


@dataclass(frozen=True)
class Method:
    """A method, declared.

    Attributes:
        key: its name on the command line and in results.
        make: the function that makes its family of heads.
        title: its name in words, lower case.
        equation: one line.
        source: authors, venue, year.
        label: its name as the field writes it, for pictures; default its key.
        chosen: what is chosen on val, for the README; "" for nothing.
        grid: values of the hyperparameter to show; the choice is made between the least and the greatest.
        variant: how it relates to its source: "exact", or "head only" where the paper trains more than the head or on
            other inputs than cached features.
        how: how it is computed, for the README.
        example: a command.
        without: fields of its option dataclass that are no options of it, such as the solver where it has one only.
    """

    key: str
    make: Callable[..., Family]
    title: str
    equation: str
    source: str
    label: str = ""
    chosen: str = ""
    grid: tuple[float, ...] = ()
    variant: str = "exact"
    how: str = ""
    example: str = ""
    without: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "__doc__", self.make.__doc__)  # for help(ltpost.tau_norm)
        object.__setattr__(self, "label", self.label or self.key)
        for name in self.needs:
            if name not in NEEDS:
                raise TypeError(
                    f"{self.key}: a positional parameter must be one of {', '.join(NEEDS)}, but is {name!r}"
                )

    def __repr__(self) -> str:
        return f"Method({self.key}: {', '.join(self.needs)})"

    @property
    def text(self) -> str:
        """The docstring of the function."""
        return inspect.getdoc(self.make) or ""

    @property
    def does(self) -> str:
        """What the method does, for the README: the first sentence of the docstring."""
        return self.text.partition("\n\n")[0].replace("\n", " ").rstrip(".")

    @cached_property
    def _parameters(self) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(self.make).parameters

    @cached_property
    def needs(self) -> tuple[str, ...]:
        """Names of the positional parameters."""
        return tuple(name for name, p in self._parameters.items() if p.kind is not p.KEYWORD_ONLY)

    @cached_property
    def _keywords(self) -> dict[str, Any]:
        """Name of every keyword-only parameter to its default."""
        return {name: p.default for name, p in self._parameters.items() if p.kind is p.KEYWORD_ONLY}

    @cached_property
    def options(self) -> dict[str, Option]:
        """The options by name, fields of dataclasses among them."""
        hints, texts = get_type_hints(self.make), argument_texts(self.text)
        options: dict[str, Option] = {}
        for name, default in self._keywords.items():
            if is_dataclass(default):
                inner, words = get_type_hints(type(default)), _texts_of_dataclass(type(default))
                for part in fields(default):
                    if part.name not in (*SETTINGS, *_HIDDEN, *self.without):
                        text = texts.get(part.name) or words.get(part.name, "")
                        value = getattr(default, part.name)
                        options[part.name] = _option(part.name, inner[part.name], value, text, name)
            elif name not in SETTINGS:
                options[name] = _option(name, hints[name], default, texts.get(name, ""), None)
        return options

    @property
    def chosen_name(self) -> str:
        """The value that is chosen along the grid, in ASCII: "tau" for "τ" or "κ, τ"."""
        last = self.chosen.split(", ")[-1].split(" ")[0]
        return _IN_LETTERS.get(last, last)

    @property
    def marks(self) -> str:
        """How it relates to its source, and what it sees, for the README."""
        seen = {"fits on val": "val" in self.needs, "transductive": bool(set(TRANSDUCTIVE) & set(self.needs))}
        return ", ".join([self.variant, *(mark for mark, holds in seen.items() if holds)])

    @property
    def settings(self) -> tuple[str, ...]:
        """The names in ``SETTINGS`` that it takes."""
        inside = {part.name for default in self._keywords.values() if is_dataclass(default) for part in fields(default)}
        return tuple(name for name in SETTINGS if name in self._keywords or name in inside)

    def __call__(self, *needs: Any, **options: Any) -> Family:
        """The family of heads.

        Args:
            *needs: in the order of :attr:`needs`.
            **options: see :attr:`options` and :attr:`settings`; an option dataclass may be given whole.

        Raises:
            UsageError: an option that it does not have, a value that is none of its choices, or a need that is None.
            DataError: ``head`` has no weights.
        """
        if len(needs) != len(self.needs):
            raise UsageError(f"{self.key} needs ({', '.join(self.needs)}), but {len(needs)} were given")
        for name, need in zip(self.needs, needs, strict=True):
            if need is None:
                raise UsageError(f"{self.key} needs {name}=, {NEEDS[name]}, but it is None")
            if name == "head" and need.linear() is None:
                raise DataError(
                    f"{self.title} needs 'head/weight' (C, D), but only the logits of the classifier are known"
                )
        return self.make(*needs, **self.keywords(options))

    def keywords(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The keyword arguments of ``make`` for flat options."""
        self.check_options(options)
        keywords: dict[str, Any] = {}
        for name, default in self._keywords.items():
            if name in options:
                keywords[name] = options[name]
            elif is_dataclass(default) and not isinstance(default, type):
                names = {part.name for part in fields(default)}
                flat = {key: value for key, value in options.items() if key in names}
                given = frozenset(flat) - set(SETTINGS)
                keywords[name] = replace(default, **flat, **({"given": given} if "given" in names else {}))
        return keywords

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Raise UsageError for an option that the method does not have, or a value that is none of its choices."""
        known = {*self.options, *self.settings, *self._keywords}
        for name, value in options.items():
            if name not in known:
                raise UsageError(f"{name}= is no option of {self.key}; {listed_names('it has', self.options)}")
            option = self.options.get(name)
            if option is None or (value is None and option.optional) or value == option.default:
                continue
            if option.choices and value not in option.choices:
                raise UsageError(f"{name}= must be one of {', '.join(map(str, option.choices))}, but is {value!r}")

    def params(self, options: Mapping[str, Any], family: Family) -> dict[str, Any]:
        """How a head was made: the options of the method, and what the family says of its own."""
        own = {
            name: options.get(name, option.default) for name, option in self.options.items() if option.part_of is None
        }
        return {**{name: value for name, value in own.items() if value is not None}, **family.params}


def argument_texts(docstring: str) -> dict[str, str]:
    """Argument to its text, from the ``Args:`` section of a docstring.

    >>> argument_texts("Fit.\\n\\nArgs:\\n    epochs: how often\\n        to pass.\\n    seed: of it.\\n\\nRaises:")
    {'epochs': 'how often to pass.', 'seed': 'of it.'}
    """
    texts: dict[str, str] = {}
    name, inside = "", False
    for line in docstring.splitlines():
        if line.strip() == "Args:":
            inside = True
        elif inside and line and not line.startswith(" "):
            break
        elif inside and (begin := re.match(r" {4}(\w+): (.*)", line)):
            name = begin[1]
            texts[name] = begin[2].strip()
        elif inside and name and line.strip():
            texts[name] += " " + line.strip()
    return texts


def _texts_of_dataclass(kind: type) -> dict[str, str]:
    """The same for a dataclass and those that it inherits from."""
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if is_dataclass(base):
            texts.update(argument_texts(inspect.getdoc(base) or ""))
    return texts


def _option(name: str, hint: Any, default: Any, text: str, part_of: str | None) -> Option:
    kinds = (
        [kind for kind in get_args(hint) if kind is not NoneType] if get_origin(hint) in (Union, UnionType) else [hint]
    )
    optional = hint is not kinds[0]
    choices = get_args(kinds[0]) if get_origin(kinds[0]) is Literal else ()
    kind = type(choices[0]) if choices else (get_origin(kinds[0]) or kinds[0])
    return Option(name, kind, default, choices, text, optional, part_of)
