"""Writes a head back into its checkpoint, or into a file of its own."""

from ltpost.extract.export.checkpoint import export_head

__all__ = ["export_head"]
