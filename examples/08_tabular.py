"""A table of numbers and categories: a network with two inputs."""

import torch
from torch import nn
from torch.utils.data import TensorDataset

import ltpost

CLASSES, NUMBERS, CATEGORIES, FOLDER = 4, 8, 10, "ltpost-examples/tabular"
torch.manual_seed(0)
centres, habits = torch.randn(CLASSES, NUMBERS), torch.rand(CLASSES, CATEGORIES) ** 3


class Tabular(nn.Module):
    def __init__(self):
        super().__init__()
        self.category = nn.Embedding(CATEGORIES, 4)
        self.hidden = nn.Sequential(nn.Linear(NUMBERS + 4, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU())
        self.out = nn.Linear(16, CLASSES)

    def forward(self, numbers, category):
        return self.out(self.hidden(torch.cat([numbers, self.category(category)], dim=1)))


def made_rows(counts):
    labels = torch.repeat_interleave(torch.arange(CLASSES), torch.tensor(counts))
    numbers = 0.7 * centres[labels] + torch.randn(len(labels), NUMBERS)
    return TensorDataset(numbers, torch.multinomial(habits[labels], 1)[:, 0], labels)


splits = {"train": made_rows([900, 200, 50, 15]), "val": made_rows([60] * CLASSES), "test": made_rows([100] * CLASSES)}
model, (numbers, category, labels) = Tabular(), splits["train"].tensors
optimizer = torch.optim.Adam(model.parameters(), 1e-2)
for _ in range(60):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(numbers, category), labels).backward()
    optimizer.step()
for split, rows in splits.items():  # categories are whole numbers as labels are, so both are named
    ltpost.extract_features(model, rows, split, FOLDER, inputs=(0, 1), labels=2)
print(ltpost.Experiment(FOLDER, many_shot=100, few_shot=20).run("la").report)
