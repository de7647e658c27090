"""Three networks trained with three priors, as experts of one ensemble: their mean, SADE's and DO's weights."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

import ltpost
from ltpost.demo import FEW_SHOT, MANY_SHOT, long_tailed_digits
from ltpost.extract import extract_features

folder = Path("ltpost-examples/experts")
folder.mkdir(parents=True, exist_ok=True)
splits = {name: (np.kron(x, np.ones((1, 4, 4), x.dtype)), y) for name, (x, y) in long_tailed_digits().items()}
for name, (images, labels) in splits.items():  # 32 x 32 pixels, so that a crop moves a digit a little
    np.savez(folder / f"{name}.npz", images=images, labels=labels)

images, labels = torch.from_numpy(splits["train"][0])[:, None].float() / 255, torch.from_numpy(splits["train"][1])
log_prior = (labels.bincount() / len(labels)).log()
places = []
for number, tau in enumerate((0, 1, 2)):  # the loss of BalPoE: cross entropy of z + tau log prior
    torch.manual_seed(number)
    model = nn.Sequential(nn.Flatten(), nn.Linear(1024, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(100):
        moved = images.roll(torch.randint(-4, 5, (2,)).tolist(), (2, 3))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(moved) + tau * log_prior, labels).backward()
        optimizer.step()
    place = folder / f"tau{tau}"
    for split in splits:  # the plain view of every image
        extract_features(model, folder, split, place, head_key="3")
    for split in ("val", "test"):  # and beside it two augmented ones
        views = place / f"{split}-views.h5"
        extract_features(model, folder, split, views, head_key="3", views=2, augment="standard")
    places.append(str(place))

experiment = ltpost.Experiment(",".join(places), many_shot=MANY_SHOT, few_shot=FEW_SHOT)
print(*[experiment.run(method) for method in ("mean", "sade", "do")], sep="\n\n")
