"""What is reported: results and their tables, and the summary of a feature file."""
