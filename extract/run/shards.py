"""Several processes, one file: each writes a shard, and the last one to finish joins the shards by copying.

Shards are feature files of contiguous rows, ``<split>.shards/<index>-of-<count>.h5``, cut at whole batches so that
every row is computed in the same batch as by one process. Each process takes its number from torch.distributed where a
script has joined its processes, else from torchrun (RANK, WORLD_SIZE), srun (SLURM_PROCID, SLURM_STEP_NUM_TASKS) or
``--shard i/n``. Processes do not communicate.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ltpost.data import distributed
from ltpost.errors import UsageError

#: the variables that hold the number of this process, of how many processes
LAUNCHERS = (("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"))


@dataclass(frozen=True)
class Shard:
    """Part ``index`` of ``count``; ``local`` is the process's number on its machine, None where unknown."""

    index: int
    count: int
    local: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise UsageError(f"shard= must be i/n with 0 <= i < n, e.g. 0/4, but is {self.index}/{self.count}")

    def rows(self, total: int, batch_size: int) -> slice:
        """The rows of this shard, of ``total``: whole batches."""
        batches = -(-total // batch_size)
        first, last = (batches * part // self.count for part in (self.index, self.index + 1))
        return slice(min(first * batch_size, total), min(last * batch_size, total))

    def path(self, target: Path) -> Path:
        """The file of this shard."""
        return folder_of(target) / f"{self.index}-of-{self.count}.h5"


def folder_of(target: Path) -> Path:
    """The folder of the shards of a feature file."""
    return target.with_name(f"{target.stem}.shards")


def parse_shard(text: str) -> Shard:
    """Read ``i/n`` with 0 <= i < n."""
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if match is None or not int(match[1]) < int(match[2]):
        raise UsageError(f"shard= must be i/n with 0 <= i < n, e.g. 0/4, but is '{text}'")
    return Shard(int(match[1]), int(match[2]))


def launched(environment: Mapping[str, str] = os.environ) -> Shard | None:
    """This process's part by torch.distributed, or the variables of torchrun or srun; None for the only process.

    Raises:
        UsageError: only some of the variables are set.
    """
    if distributed.is_active():
        local = environment.get("LOCAL_RANK", "")
        return Shard(distributed.rank(), distributed.world_size(), int(local) if local.isdecimal() else None)
    for rank, size, local in LAUNCHERS:
        if size not in environment:
            continue
        try:
            shard = Shard(int(environment[rank]), int(environment[size]), int(environment.get(local, 0)))
        except (KeyError, ValueError):
            raise UsageError(f"{size} is set, so {rank} must be a number too; start with torchrun or srun") from None
        return shard if shard.count > 1 else None
    return None
