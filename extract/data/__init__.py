"""Readers of images and labels: one module for each form of data on disk."""
