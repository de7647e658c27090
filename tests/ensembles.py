"""Small ensembles that every test may use: made-up experts in one file, or in a folder each, with views beside them."""

import numpy as np
from conftest import COUNTS, make_split

from ltpost import FeatureSet, LinearHead
from ltpost.data.experts import side_by_side

WIDTHS = (16, 16, 16)


def expert_sets(split, *, widths=WIDTHS, noise=0.0, logits=False, rows_per_class=12, **changes):
    """Experts that see the features through different rotations and with different noise, each with a head."""
    sets = []
    for e, width in enumerate(widths):
        one = make_split(split, rows_per_class)
        random = np.random.default_rng([e, len(split)])
        turn = np.linalg.qr(np.random.default_rng(e).normal(size=(16, 16)))[0][:, :width].astype(np.float32)
        features = one.features @ turn + (noise * (1 + e) * random.normal(size=(len(one), width))).astype(np.float32)
        weight = 3 * one.head.weight @ turn + 0.3 * np.random.default_rng(e + 10).normal(size=(10, width))
        head = LinearHead(weight, np.random.default_rng(e + 20).normal(size=10))
        known = {"head": head, "class_counts": COUNTS, "split": split, "name": f"expert{e}/{split}.h5", **changes}
        if logits:
            known["logits"] = head.logits(features)
        sets.append(FeatureSet(features.astype(np.float32), one.labels, **known))
    return sets


def views_of(sets, count=2, noise=0.7):
    """Augmented views of the rows of every expert, as feature sets."""
    found = []
    for e, one in enumerate(sets):
        random = np.random.default_rng(e + 30)
        features = np.repeat(one.features, count, axis=0)
        features = features + (noise * random.normal(size=features.shape)).astype(np.float32)
        found.append(
            FeatureSet(
                features.astype(np.float32),
                np.repeat(one.labels, count),
                head=one.head,
                class_counts=COUNTS,
                split=one.split,
                sample=np.repeat(np.arange(len(one)), count),
                view=np.tile(np.arange(count), len(one)),
                name=f"{one.name}-views",
            )
        )
    return found


def ensemble(split="test", *, views=True, **options):
    """All experts of a split as one feature set."""
    sets = expert_sets(split, **options)
    found = side_by_side(sets)
    if views:
        found.view_rows = side_by_side(views_of(sets))
    return found


def save_folder(path, **options):
    """One folder of files that hold all experts side by side."""
    for split in ("train", "val", "test"):
        sets = expert_sets(split, **options)
        side_by_side(sets).save(path / f"{split}.h5")
        if split != "train":
            side_by_side(views_of(sets)).save(path / f"{split}-views.h5")
    return path


def save_folders(path, **options):
    """A folder for each expert; returns their names with commas between."""
    for split in ("train", "val", "test"):
        sets = expert_sets(split, **options)
        named = [(split, sets)] if split == "train" else [(split, sets), (f"{split}-views", views_of(sets))]
        for name, parts in named:
            for e, part in enumerate(parts):
                part.save(path / f"network{e}" / f"{name}.h5")
    return ",".join(str(path / f"network{e}") for e in range(len(options.get("widths", WIDTHS))))
