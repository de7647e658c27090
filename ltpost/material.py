"""What methods are made from: each need of ``ltpost.method.NEEDS``, out of feature files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ltpost.data import distributed
from ltpost.data.features import FeatureSet
from ltpost.data.folder import FeatureFolder
from ltpost.data.memory import FeatureSets
from ltpost.data.unlabelled import UnlabelledRows
from ltpost.errors import DataError, no_features
from ltpost.heads import CausalNormHead, Head, load_head
from ltpost.method import Method

CAUSAL_NORM, ZERO_SHOT = "causal_norm.safetensors", "zero_shot.safetensors"


class Material:
    """What the feature files of an experiment hold for methods.

    Args:
        folder: the feature files.
        report_set: the split that is reported.
        chosen_on: the split that values are chosen on; it may be the same.
    """

    def __init__(self, folder: FeatureFolder | FeatureSets, report_set: FeatureSet, chosen_on: FeatureSet):
        self.folder, self.report_set, self.chosen_on = folder, report_set, chosen_on

    @property
    def reported(self) -> list[FeatureSet]:
        """The splits that are reported: test, and val where it is another one."""
        return [self.report_set, *([self.chosen_on] if self.chosen_on is not self.report_set else [])]

    @cached_property
    def train(self) -> FeatureSet:
        """The training split; of several processes (``distributed``), the rows of this one."""
        train = self.folder["train"]
        return train if self.folder.parts else distributed.shard(train)

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that train and every reported split have, in the order of train."""
        if "train" not in self.folder:
            return ()
        parts = self.reported
        return tuple(name for name in self.folder["train"].layers if all(name in part.layers for part in parts))

    @cached_property
    def causal_head(self) -> CausalNormHead:
        """The CausalNorm classifier beside the feature files."""
        head = load_head(self.folder.path / CAUSAL_NORM)
        if not isinstance(head, CausalNormHead):
            raise DataError(f"{self.folder.path / CAUSAL_NORM}: must hold a CausalNorm head, but holds {head!r}")
        return head

    @cached_property
    def zero_shot(self) -> Head:
        """The zero-shot classifier beside the feature files."""
        return load_head(self.folder.path / ZERO_SHOT)

    def has_train(self, method: Method) -> bool:
        """Whether there is a training split that will do: with features, or logits for a method of the joint ones."""
        if "train" not in self.folder:
            return False
        train = self.folder["train"]
        return train.num_features is not None or ("joint" in method.needs and train.has_logits)

    def lacks(self, method: Method) -> list[str]:
        """The needs of a method that the files do not meet."""
        return [need for need in method.needs if not _NEEDS[need].met(self, method) or self._lacks_features(need)]

    def _lacks_features(self, need: str) -> bool:
        return _NEEDS[need].reads_features and any(part.num_features is None for part in self.reported)

    def of(self, method: Method, fit_to: FeatureSet, target: FeatureSet) -> list[Any]:
        """The needs of a method, in its order.

        Args:
            method: what they are for.
            fit_to: labelled rows that it may fit to.
            target: rows that it may look at, without labels.

        Raises:
            DataError: the files lack one of them.
        """
        for need in self.lacks(method):
            if _NEEDS[need].met(self, method):
                raise no_features(next(part.name for part in self.reported if part.num_features is None))
            bare = next((part for part in self.reported if not part.has_views), self.report_set)
            words = {"name": self.report_set.name, "folder": self.folder.path, "title": method.title}
            raise DataError(_NEEDS[need].message.format(**words, without_views=bare.name, split=bare.split))
        return [_NEEDS[need].get(self, fit_to, target) for need in method.needs]


@dataclass(frozen=True)
class _Need:
    get: Callable[[Material, FeatureSet, FeatureSet], Any]
    met: Callable[[Material, Method], bool] = lambda material, method: True
    message: str = ""
    reads_features: bool = False  # of the reported splits


_NEEDS = {
    "train": _Need(
        lambda material, fit_to, target: material.train,
        Material.has_train,
        "{folder}: has no train.h5 with features, which {title} fits to; run ltpost extract --split train",
    ),
    "head": _Need(
        lambda material, fit_to, target: material.report_set.head,
        lambda material, method: material.report_set.head is not None,
        "{name}: has no 'head/weight' (C, D), which {title} needs; ltpost extract stores it",
    ),
    "joint": _Need(
        lambda material, fit_to, target: material.report_set.joint,
        lambda material, method: material.report_set.head is not None or material.report_set.has_logits,
        "{name}: {title} needs 'head/weight' (C, D) or 'logits' (N, C), but neither is there; see ltpost extract",
    ),
    "class_counts": _Need(
        lambda material, fit_to, target: material.report_set.class_counts,
        lambda material, method: material.report_set.class_counts is not None,
        "{name}: has no 'class_counts' (C,), which {title} needs; ltpost extract counts them in the training split, or "
        "reads them from --class-counts FILE",
    ),
    "val": _Need(lambda material, fit_to, target: fit_to),
    "target": _Need(lambda material, fit_to, target: UnlabelledRows(target)),
    "experts": _Need(
        lambda material, fit_to, target: material.report_set.experts,
        lambda material, method: material.report_set.num_experts > 1,
        "{name}: holds one expert only, and {title} needs several; extract a checkpoint of several with --expert all, "
        "or name the folders of several networks with --features a,b",
        reads_features=True,
    ),
    "views": _Need(
        lambda material, fit_to, target: UnlabelledRows(target),
        lambda material, method: all(part.has_views for part in material.reported),
        "{without_views}: has no augmented views of its rows, which {title} needs; write them with ltpost extract "
        "--split {split} --views 2 --out {folder}",
    ),
    "causal_head": _Need(
        lambda material, fit_to, target: material.causal_head,
        lambda material, method: (material.folder.path / CAUSAL_NORM).is_file(),
        "{folder}: has no causal_norm.safetensors, which {title} needs: the classifier of a network that was trained "
        "as CausalNorm, with the moving mean 'embed' of its features; CausalNormHead(weight, embed).save writes it",
        reads_features=True,
    ),
    "zero_shot": _Need(
        lambda material, fit_to, target: material.zero_shot,
        lambda material, method: (material.folder.path / ZERO_SHOT).is_file(),
        "{folder}: has no zero_shot.safetensors, which {title} needs: a classifier over the same features, made from "
        "class names; LinearHead(scale * text_vectors).save writes it",
        reads_features=True,
    ),
    "layers": _Need(
        lambda material, fit_to, target: material.layers,
        lambda material, method: bool(material.layers),
        "{folder}: {title} needs 'layers/<name>' (N, D_l) in train and in every split that is chosen on or reported, "
        "but no layer is in all of them; write them with h5py, see FORMAT.md",
    ),
}
