"""Several processes, each with its own rows: sums over all of them, on an existing engine (torch.distributed).

Under ``torchrun`` every process loads its shard of the training rows and calls the same functions. A fit needs sums
over rows: class sums of features, an objective and its gradient, the gradient of a batch. So summing over the processes
gives the result of one process with all rows, up to rounding. All processes compute everything else alike.
In a single process all functions here do nothing, and do not import torch.

What this module does not do: move rows between processes.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from ltpost.data.features import FeatureSet
from ltpost.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

Number = TypeVar("Number", np.int64, np.float64)


def start(device: str = "cpu") -> None:
    """Join the other processes, if torchrun started this one as one of several; gloo on CPUs, NCCL on GPUs.

    Raises:
        UsageError: torchrun's variables are incomplete.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or is_active():
        return
    import torch
    import torch.distributed as dist

    if device.startswith("cuda"):
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    try:
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    except ValueError as error:
        raise UsageError(
            f"WORLD_SIZE says there are several processes, but {error}; start them with torchrun"
        ) from None


def stop() -> None:
    """Leave the other processes."""
    if is_active():
        import torch.distributed as dist

        dist.destroy_process_group()


def is_active() -> bool:
    """Whether there are other processes."""
    if "torch" not in sys.modules:
        return False
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """The number of this process, from 0."""
    if not is_active():
        return 0
    import torch.distributed as dist

    return dist.get_rank()


def world_size() -> int:
    """The number of processes."""
    if not is_active():
        return 1
    import torch.distributed as dist

    return dist.get_world_size()


def shard(train: FeatureSet) -> FeatureSet:
    """The rows of this process, one consecutive run, of a feature set that every process can read."""
    if not is_active():
        return train
    return train.subset(np.array_split(np.arange(len(train)), world_size())[rank()])


def own_part(files: list[Path]) -> Path:
    """The file of this process among the parts of a split: one for each process, or for each on this machine.

    Raises:
        UsageError: there are more or fewer parts than processes.
    """
    world, local = (int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if len(files) == world:
        return files[int(os.environ.get("RANK", "0"))]
    if len(files) == local:
        return files[int(os.environ.get("LOCAL_RANK", "0"))]
    raise UsageError(
        f"folder= names {len(files)} parts of the training split, but there are {world} processes, {local} of them "
        f"on this machine; start one for each part: torchrun --nproc-per-node {len(files)} -m ltpost …"
    )


def sum_(tensor: Tensor) -> Tensor:
    """The sum over all processes, in place."""
    if is_active():
        import torch.distributed as dist

        dist.all_reduce(tensor)
    return tensor


def agree_(tensor: Tensor) -> Tensor:
    """The values of process 0, in place. Processors may round differently, but must take the same decisions."""
    if is_active():
        import torch.distributed as dist

        dist.broadcast(tensor, 0)
    return tensor


def sum_array(array: NDArray[Number]) -> NDArray[Number]:
    """The sum over all processes of a numpy array."""
    if not is_active():
        return array
    import torch

    device = _device()
    summed: NDArray[Number] = sum_(torch.from_numpy(array).to(device)).cpu().numpy()
    return summed


def join(array: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """The arrays of all processes one after the other, and the position of this process's array."""
    if not is_active():
        return array, 0
    import torch.distributed as dist

    parts: list[NDArray[np.int64]] = [array] * world_size()
    dist.all_gather_object(parts, array)
    return np.concatenate(parts), sum(len(part) for part in parts[: rank()])


def _device() -> str:
    import torch.distributed as dist

    return "cuda" if dist.get_backend() == "nccl" else "cpu"
