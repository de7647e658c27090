"""How tau is usually swept, to be timed against; not ours.

21 matrix products with rescaled weights, labels mapped row by row in Python, a boolean mask per class. Written from the
description of common scripts.
"""

import h5py
import numpy as np
import torch

with h5py.File("features/val.h5") as file:
    features = torch.from_numpy(file["features"][()].astype(np.float32))
    labels, counts = file["labels"][()], file["class_counts"][()]
    weight = torch.from_numpy(file["head/weight"][()])
names = dict(enumerate(range(len(counts))))
norms = weight.norm(dim=1, keepdim=True)
for tau in np.linspace(0, 2, 21):
    scaled = weight / norms**tau
    found = torch.cat([(features[i : i + 512] @ scaled.T).argmax(1) for i in range(0, len(features), 512)])
    predicted = np.array([names[int(value)] for value in found])
    accuracy = np.array([(predicted[labels == c] == c).mean() for c in range(len(counts))])
    many, few = counts > 100, counts < 20
    groups = [accuracy[group].mean() for group in (many, ~many & ~few, few) if group.any()]
    print(" ".join(f"{100 * value:.2f}" for value in [*groups, accuracy.mean()]))
