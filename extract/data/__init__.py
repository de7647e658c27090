"""What reads images and labels: one module for each form in which data lies on disk."""
