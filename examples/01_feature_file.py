"""A feature file from anything: here raw pixels as features, and scikit-learn's classifier as the network."""

from pathlib import Path

import h5py
import numpy as np
from sklearn.linear_model import LogisticRegression

import ltpost
from ltpost.demo import long_tailed_digits

folder = Path("ltpost-examples/pixels")
folder.mkdir(parents=True, exist_ok=True)

splits = {name: (images.reshape(-1, 64) / 255, labels) for name, (images, labels) in long_tailed_digits().items()}
joint = LogisticRegression(C=1.0, max_iter=1000).fit(*splits["train"])

for name, (features, labels) in splits.items():
    with h5py.File(folder / f"{name}.h5", "w") as file:
        file["features"] = features.astype(np.float32)  # (N, D) what enters the classifier
        file["labels"] = labels  # (N,) from 0
        file["head/weight"] = joint.coef_.astype(np.float32)  # (C, D)
        file["head/bias"] = joint.intercept_.astype(np.float32)  # (C,)
        file["class_counts"] = np.bincount(splits["train"][1])  # (C,) of the training split, in every file

val = ltpost.load(folder / "val.h5")
print(val)
print(ltpost.evaluate(val.joint, val, name="joint"))
