"""An image to the pixels that a network takes: the evaluation transform and augmented views."""
