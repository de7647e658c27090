"""A child process of the fuzzer: seeds in, one line of JSON per case out."""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import traceback
import warnings
from importlib import import_module
from pathlib import Path

import numpy as np

from tests.fuzz import KINDS

MEMORY = 6 * 2**30  # bytes of address space: a shape of 2**40 rows must not take the machine down


def say(what: dict[str, str]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def main(kind: str) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    module = import_module(KINDS[kind])
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            case = module.make(np.random.default_rng([int(line), sum(map(ord, kind))]), Path(folder))
            say({"made": case.how})
            try:
                answer = module.check(case)
            except Exception:
                answer = f"traceback: {traceback.format_exc()}"
            say({"answer": answer})


if __name__ == "__main__":
    main(sys.argv[1])
