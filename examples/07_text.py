"""Texts: a small transformer that takes ids and a mask, in batches of a collate function of one's own."""

import torch
from torch import nn
from torch.utils.data import DataLoader

import ltpost

WORDS, CLASSES, FOLDER = 60, 5, "ltpost-examples/text"
torch.manual_seed(0)


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 32, padding_idx=0)
        self.block = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        self.classifier = nn.Linear(32, CLASSES)

    def forward(self, ids, mask):
        tokens = self.block(self.embedding(ids), src_key_padding_mask=~mask)
        return self.classifier((tokens * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))


def made_text(topic):  # a third are words of its topic, the others are any
    own, any_word = torch.randint(1, 12, (10,)) + 11 * topic, torch.randint(1, WORDS, (10,))
    return torch.where(torch.rand(10) < 0.35, own, any_word)[: 6 + topic], topic


def collate(texts):
    ids = nn.utils.rnn.pad_sequence([text for text, _ in texts], batch_first=True)
    return {"ids": ids, "mask": ids > 0, "labels": torch.tensor([topic for _, topic in texts])}


counts = {"train": [300, 150, 60, 25, 10], "val": [40] * CLASSES, "test": [80] * CLASSES}
splits = {name: [made_text(c) for c in range(CLASSES) for _ in range(each[c])] for name, each in counts.items()}
model, batch = Transformer(), collate(splits["train"])
optimizer = torch.optim.Adam(model.parameters(), 3e-3)
for _ in range(25):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(batch["ids"], batch["mask"]), batch["labels"]).backward()
    optimizer.step()
for split, texts in splits.items():
    ltpost.extract_features(model, DataLoader(texts, 64, collate_fn=collate), split, FOLDER)
print(ltpost.Experiment(FOLDER, many_shot=100, few_shot=30).run("la").report)
