"""Torture: kills at random moments, disks that fill, many processes at once. Writes to ``benchmarks/RELIABILITY.md``.

make torture                               everything; an hour or so
python -m benchmarks.reliability --kills 20 --no-write
"""

from __future__ import annotations

import argparse
import datetime
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.forks import in_a_fork, load_everything
from benchmarks.pages import write_section
from benchmarks.scenarios import inputs, scenarios
from benchmarks.torture import SIGNALS, Tally, at_once, full_disk, kills, prepare, tell

RESULTS = Path(__file__).parent / "RELIABILITY.md"
AT_ONCE = 50


def table(title: str, rows: Sequence[tuple[str, str, Tally]]) -> str:
    """Markdown: what was done, to which command, how often it struck, and how many faults there were."""
    lines = [f"### {title}", "", "| command | what | runs | struck | faults |", "| --- | --- | ---: | ---: | ---: |"]
    for name, what, tally in rows:
        lines.append(f"| {name} | {what} | {tally.tried} | {tally.struck} | {len(tally.faults)} |")
    total = (sum(getattr(tally, key) for _, _, tally in rows) for key in ("tried", "struck"))
    faults = sum(len(tally.faults) for _, _, tally in rows)
    lines.append("| **all** | | {} | {} | {} |".format(*total, faults))
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run everything, print the tables, and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=AT_ONCE)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="commands whose name begins so")
    parser.add_argument("--no-write", action="store_true", help="print only, leave RELIABILITY.md alone")
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    chosen = [scenario for scenario in scenarios() if scenario.name.startswith(args.only or "")]
    struck: list[tuple[str, str, Tally]] = []
    filled: list[tuple[str, str, Tally]] = []
    together: list[tuple[str, str, Tally]] = []
    with tempfile.TemporaryDirectory(prefix="ltpost-torture-") as home:
        tell("inputs")
        source = Path(home) / "inputs"
        in_a_fork(lambda: inputs(source))
        load_everything()
        for scenario in chosen:
            made = prepare(scenario, source, Path(home))
            tell(f"{scenario.name}: takes {made.seconds:.2f} s")
            tallies = kills(made, max(len(SIGNALS), round(args.kills / len(chosen))), rng)
            struck += [(scenario.name, name, tally) for name, tally in tallies.items()]
            filled.append((scenario.name, "files of limited size", full_disk(made)))
            number = min(args.at_once, 12) if scenario.resumes or made.seconds > 1 else args.at_once
            together.append((scenario.name, f"{number} processes", at_once(made, number)))
            parts = [("Kills", struck), ("Disk full", filled), ("At once", together)]
            text = "\n".join(table(title, rows) for title, rows in parts)
            faults = [fault for _, rows in parts for _, _, tally in rows for fault in tally.faults]
            if faults:
                text += "\n### Faults\n" + "".join(f"\n```\n{fault}\n```\n" for fault in faults)
            if not args.no_write:
                write_section(RESULTS, "Torture", _with_head(text))
    sys.stdout.write(text)
    sys.exit(bool(faults))


def _with_head(text: str) -> str:
    machine = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    return (
        f"Made by `make torture` on {datetime.date.today()} ({machine}). *Struck* are the runs that a signal or a full "
        "disk ended,\nor that a lock refused. A fault is a wrong row, a lost or half-written file, a traceback, "
        "another exit code, a file\nthat is left and not explained, or a command that does not run to the right files "
        "afterwards. Explained are, after\nSIGKILL, one temporary file per output and a lock, which the next run "
        "removes, and the unfinished rows and finished\nshards of an extraction, which the next run goes on from. Of "
        f"several ranks every second signal goes to all, the others\nto the first alone.\n\n{text}"
    )


if __name__ == "__main__":
    main()
