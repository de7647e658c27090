"""``python -m ltpost``."""

from ltpost.cli import main

main()
