"""A checkpoint file to named tensors."""
