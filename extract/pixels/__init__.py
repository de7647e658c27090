"""Turns an image into the pixels that a network takes: the evaluation transform and augmented views."""
