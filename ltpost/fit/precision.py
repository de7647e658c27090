"""Whether a device multiplies in bfloat16 faster than in float32.

bfloat16 keeps 8 bits of a number, so that a product is off by some thousandths: good enough for a change from a point
where all is known exactly.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch

from ltpost.data import distributed

CPUINFO = Path("/proc/cpuinfo")  # of Linux; elsewhere float32 serves throughout
FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # Intel and AMD, Intel, ARM, as Linux names them


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device, of every process, multiplies in bfloat16 faster than in float32."""
    return not distributed.sum_array(np.array([not _multiplies_bfloat16(device)], dtype=np.int64)).any()


@cache
def _multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)  # Ampere
    if device.type != "cpu" or not CPUINFO.is_file():
        return False
    return bool(FLAGS & set(CPUINFO.read_text().split()))
