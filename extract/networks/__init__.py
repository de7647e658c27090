"""Named tensors to a model that gives features and logits."""
