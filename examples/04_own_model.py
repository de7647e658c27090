"""A model and images of one's own: extract features, rebalance, and put the classifier back."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

import ltpost
from ltpost.demo import long_tailed_digits
from ltpost.extract import extract_features

folder = Path("ltpost-examples/own")
folder.mkdir(parents=True, exist_ok=True)
splits = long_tailed_digits(imbalance=20)
for name, (images, labels) in splits.items():
    np.savez(folder / f"{name}.npz", images=images, labels=labels)

torch.manual_seed(0)
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
images, labels = torch.from_numpy(splits["train"][0])[:, None].float() / 255, torch.from_numpy(splits["train"][1])
optimizer = torch.optim.Adam(model.parameters(), 3e-3)
for _ in range(100):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(images), labels).backward()
    optimizer.step()

for split in splits:  # the last linear layer is the classifier: named, since this model has three
    extract_features(model, folder, split, folder / "features", head_key="5")

outcome = ltpost.Experiment(folder / "features", many_shot=40, few_shot=10).run("crt")
print(outcome.report)

with torch.no_grad():
    model[5].weight.copy_(torch.tensor(outcome.head.weight))
    model[5].bias.copy_(torch.tensor(outcome.head.bias))
    test = torch.from_numpy(splits["test"][0])[:, None].float() / 255
    print("accuracy of the model itself:", (model(test).argmax(1).numpy() == splits["test"][1]).mean())
