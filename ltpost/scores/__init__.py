"""From logits to figures: predictions, accuracies, and the exact sweep over a parameter."""
