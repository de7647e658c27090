"""The report: one HTML file that needs nothing else, and no network.

``content`` makes the numbers, ``packed`` writes them into the file, and the scripts and the style here show them.
"""

from ltpost.page.write import write_report

__all__ = ["write_report"]
