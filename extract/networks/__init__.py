"""Turns named tensors into a model that gives features and logits."""
