"""Turns a checkpoint file into named tensors."""
