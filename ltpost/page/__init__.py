"""The report: one HTML file that needs nothing else, and no network.

``content`` makes the numbers, ``packed`` writes them into the file, the scripts and the style beside this file show them.
"""

from ltpost.page.write import write_report

__all__ = ["write_report"]
