"""The extraction: rows to a feature file, by one process or several, interrupted or not."""
