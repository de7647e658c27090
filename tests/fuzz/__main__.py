"""Run the fuzzer and print what happened, by kind of damage."""

from __future__ import annotations

import argparse
import collections
import datetime
import json
import os
import queue
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.pages import section, write_section
from ltpost.tables import text_table
from tests.fuzz import KINDS

PAGE = Path(__file__).parents[2] / "benchmarks" / "RELIABILITY.md"
LIMIT = 20.0  # seconds of the processor for one file, as a busy machine makes no hang; 6 times as long by the clock
OUTCOMES = ("ok", "refused", "traceback", "crash", "hang", "wrong")


@dataclass(frozen=True)
class Result:
    """What happened to one case."""

    seed: int
    how: str
    outcome: str
    text: str = ""


class _Child:
    """One worker process, started again after it has crashed or was stopped."""

    def __init__(self, kind: str):
        self.kind, self.read = kind, b""
        self.process: subprocess.Popen[bytes] | None = None

    def run(self, seed: int) -> Result:
        if self.process is None:
            self.read = b""
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": ""}
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzz.worker", self.kind],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, bufsize=0,
                start_new_session=True,  # Ctrl-C is for this process
            )  # fmt: skip
        process = self.process
        assert process.stdin is not None
        process.stdin.write(f"{seed}\n".encode())
        how = self._line(process, 60.0).get("made", "making it")
        said = self._line(process, LIMIT)
        if "answer" in said:
            outcome, _, text = said["answer"].partition(": ")
            return Result(seed, how, outcome, text)
        code = self.close()
        outcome = "hang" if said.get("late") else "crash"
        return Result(seed, how, outcome, f"exit {code}")

    def _line(self, process: subprocess.Popen[bytes], limit: float) -> dict[str, str]:
        assert process.stdout is not None
        started, used = time.monotonic(), _processor_time(process.pid)
        while b"\n" not in self.read:
            if not select.select([process.stdout], [], [], 1.0)[0]:
                waited = time.monotonic() - started
                if waited > 6 * limit or (waited > limit and _processor_time(process.pid) - used > limit):
                    return {"late": "yes"}
                continue
            piece = os.read(process.stdout.fileno(), 65536)
            if not piece:
                process.wait()
                return {}
            self.read += piece
        line, _, self.read = self.read.partition(b"\n")
        said: dict[str, str] = json.loads(line)
        return said

    def close(self) -> int:
        """End the process; its exit code."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.kill()
        code = self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
        self.process = None
        return code


def _processor_time(process: int) -> float:
    """Seconds of the processor that a process has used; those of the clock where the system does not say."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return time.monotonic()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run(kind: str, seeds: Iterable[int], workers: int = 2) -> Iterator[Result]:
    """The result of every seed, in no order. After Ctrl-C no further ones are begun."""
    numbers = iter(list(seeds))
    results: queue.SimpleQueue[Result | None] = queue.SimpleQueue()

    def work() -> None:
        child = _Child(kind)
        for seed in numbers:
            results.put(child.run(seed))
        child.close()
        results.put(None)  # this one has ended

    with ThreadPoolExecutor(workers) as pool:
        done = [pool.submit(work) for _ in range(workers)]
        ended = 0
        while ended < workers:
            try:
                result = results.get()
            except KeyboardInterrupt:
                collections.deque(numbers, maxlen=0)
                continue
            ended += result is None
            if result is not None:
                yield result
        for work_done in done:
            work_done.result()


def table(results: Iterable[Result]) -> str:
    """How often each outcome came, by kind of damage."""
    found = list(results)
    counts = Counter((result.how.split(" x")[0], result.outcome) for result in found)
    kinds = sorted({how for how, _ in counts})
    rows = [[how, *(str(counts[how, outcome]) for outcome in OUTCOMES)] for how in kinds]
    total = Counter(result.outcome for result in found)
    rows.append(["all", *(str(total[outcome]) for outcome in OUTCOMES)])
    return text_table(["damage", *OUTCOMES], rows, left=1)


def row(kind: str, seed: int, results: list[Result]) -> str:
    """A row of the table in RELIABILITY.md."""
    total = Counter(result.outcome for result in results)
    cells = [kind, str(datetime.date.today()), str(seed), *(f"{total[name]:,}" for name in OUTCOMES)]
    return f"| {' | '.join([*cells[:3], f'{len(results):,}', *cells[3:]])} |"


def write(kind: str, seed: int, results: list[Result]) -> None:
    """Put the row of a kind into RELIABILITY.md, in place of an earlier one."""
    lines = section(PAGE, "Fuzz").splitlines()
    rows = {name: line for line in lines for name in KINDS if line.startswith(f"| {name} |")}
    rows[kind] = row(kind, seed, results)
    head = [
        "Damaged and hostile files of each kind, made from seeds, read in a child process by",
        "`python -m tests.fuzz --kind KIND --runs 10000 --write`. *Wrong* is a file that was read as something else",
        "than it holds, or that had to be refused; a hang is 20 seconds without an end.",
        "",
        f"| kind | date | first seed | runs | read | {' | '.join(OUTCOMES[1:])} |",
        f"| --- | --- |{' ---: |' * (2 + len(OUTCOMES))}",
    ]
    write_section(PAGE, "Fuzz", "\n".join([*head, *(rows[name] for name in KINDS if name in rows)]))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--kind", choices=[*KINDS], required=True)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="of the first case; the next ones count on")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="put the counts into benchmarks/RELIABILITY.md")
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell has SIGINT ignored in the background
        signal.signal(number, signal.default_int_handler)
    started = time.monotonic()
    results = list(run(options.kind, range(options.seed, options.seed + options.runs), options.workers))
    sys.stdout.write(table(results) + "\n")
    bad = [result for result in results if result.outcome not in ("ok", "refused")]
    seen: Counter[str] = Counter()
    for result in sorted(bad, key=lambda result: result.seed):
        last = result.text.strip().splitlines()[-1:] or [""]
        kind = f"{result.outcome} {last[0][:60]}"
        seen[kind] += 1
        if seen[kind] <= 2:
            sys.stdout.write(f"\nseed {result.seed}, {result.how}: {result.outcome}\n{result.text}\n")
    took = time.monotonic() - started
    sys.stdout.write(
        f"\n{options.kind}: {len(results):,} cases from seed {options.seed}, {len(bad)} bad, {took:.0f} s\n"
    )
    if options.write:
        write(options.kind, options.seed, results)
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
