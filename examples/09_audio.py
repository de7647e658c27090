"""Sounds: a convolution over waves, on tones that are made here."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import ltpost

RATE, CLASSES, FOLDER = 1000, 4, "ltpost-examples/audio"
torch.manual_seed(0)


def tones(counts):
    """Notes of a quarter of a second, each a little out of tune and in noise."""
    labels = torch.repeat_interleave(torch.arange(CLASSES), torch.tensor(counts))
    pitch = 100 + 25 * labels + 8 * torch.randn(len(labels))
    time = torch.arange(RATE // 4) / RATE
    waves = torch.sin(2 * torch.pi * (pitch[:, None] * time + torch.rand(len(labels), 1)))
    return TensorDataset((waves + 0.5 * torch.randn_like(waves))[:, None], labels)


splits = {"train": tones([300, 100, 30, 10]), "val": tones([40] * CLASSES), "test": tones([80] * CLASSES)}
model = nn.Sequential(
    nn.Conv1d(1, 16, 50, stride=4), nn.ReLU(), nn.Conv1d(16, 32, 3), nn.ReLU(),
    nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(32, CLASSES),
)  # fmt: skip
optimizer, (waves, labels) = torch.optim.Adam(model.parameters(), 1e-2), splits["train"].tensors
for _ in range(60):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(waves), labels).backward()
    optimizer.step()

for split, sounds in splits.items():
    ltpost.extract_features(model, DataLoader(sounds, batch_size=64), split, FOLDER)
print(ltpost.Experiment(FOLDER, many_shot=100, few_shot=20).run("la").report)
