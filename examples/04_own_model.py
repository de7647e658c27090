"""A model and images of one's own: extract features, rebalance, and put the classifier back."""

from pathlib import Path

import torch
from torch import nn
from torch.utils.data import TensorDataset

import ltpost
from ltpost.demo import long_tailed_digits

folder = Path("ltpost-examples/own")
splits = {
    name: TensorDataset(torch.from_numpy(images)[:, None].float() / 255, torch.from_numpy(labels))
    for name, (images, labels) in long_tailed_digits(imbalance=20).items()
}

torch.manual_seed(0)
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
images, labels = splits["train"].tensors
optimizer = torch.optim.Adam(model.parameters(), 3e-3)
for _ in range(100):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(images), labels).backward()
    optimizer.step()

for split, data in splits.items():  # any data set or DataLoader; the classifier is the layer that gives the logits
    ltpost.extract_features(model, data, split, folder)

outcome = ltpost.Experiment(folder, many_shot=40, few_shot=10).run("crt")
print(outcome.report)

with torch.no_grad():
    model[5].weight.copy_(torch.tensor(outcome.head.weight))
    model[5].bias.copy_(torch.tensor(outcome.head.bias))
    images, labels = splits["test"].tensors
    print("accuracy of the model itself:", (model(images).argmax(1) == labels).double().mean().item())
