"""Fitting heads: what is minimised (``loss``), how (``options``, ``optim``), and on which rows (``sampling``)."""
