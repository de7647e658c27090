"""Feature files and what is in them: rows, splits, folders, class counts."""
