"""Every benchmark, and the table ``benchmarks/RESULTS.md``.

python -m benchmarks                          small and imagenet-lt; about 20 minutes on 2 cores
python -m benchmarks --size small             seconds; what CI runs
python -m benchmarks --size inat18 --only fitting
python -m benchmarks --only gpu --device cuda  on a machine with a GPU; see benchmarks/gpu.py
python -m benchmarks --only path --size imagenet-lt      convex cRT in bfloat16 and float32; an hour
python -m benchmarks --only costs --size imagenet-lt   every method at an eighth of the rows; hours
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import os
import platform
from pathlib import Path

from benchmarks.measure import Row

PARTS = ("sweep", "fitting", "scaling", "extract")
LONG_PARTS = ("path", "costs", "gpu")  # run where they are named
RESULTS = Path(__file__).parent / "RESULTS.md"
KEPT = Path(__file__).parent / "cache" / "results.json"


def table(results: dict[str, list[dict[str, object]]]) -> str:
    """Markdown, a section per part and size."""
    lines = [
        "# Results",
        "",
        "Made by `python -m benchmarks`; every ratio was measured in one run, medians of repeats that took turns.",
        "Longer measurements, and why goals are missed: `PROFILES.md`.",
    ]
    for title, rows in results.items():
        lines += ["", f"## {title}", "", "| what | value | unit | goal | met |", "| --- | ---: | --- | --- | --- |"]
        for row in rows:
            one = Row(**row)  # type: ignore[arg-type]
            lines.append(f"| {one.name} | {one.value:.3g} | {one.unit} | {one.goal} | {one.verdict} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what was asked for; what was not keeps its last figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", action="append", choices=["small", "imagenet-lt", "inat18"])
    parser.add_argument("--only", action="append", choices=[*PARTS, *LONG_PARTS])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-write", action="store_true", help="print only, leave RESULTS.md alone")
    args = parser.parse_args()
    kept = json.loads(KEPT.read_text()) if KEPT.is_file() else {}
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {args.device}, {datetime.date.today()}"
    for size in args.size or ["small", "imagenet-lt"]:
        for part in args.only or PARTS:
            if part == "extract" and importlib.util.find_spec("torchvision") is None:
                print("extract: left out, torchvision is not installed\n")
                continue
            rows = importlib.import_module(f"benchmarks.{part}").run(size, args.device)
            title = f"{part}, {size}"
            kept = {name: value for name, value in kept.items() if not name.startswith(f"{title} (")}
            kept[f"{title} ({machine})"] = [vars(row) for row in rows]
            print(table({title: [vars(row) for row in rows]}), flush=True)
            if not args.no_write:
                KEPT.parent.mkdir(exist_ok=True)
                KEPT.write_text(json.dumps(kept))
                RESULTS.write_text(table(kept))


if __name__ == "__main__":
    main()
