"""The extraction: one process or several turn rows into a feature file, interrupted or not."""
