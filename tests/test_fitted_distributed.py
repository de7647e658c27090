"""Two processes with half of the rows each fit what one with all rows fits."""

import os
import socket
import sys

import numpy as np
import pytest
import torch.multiprocessing as mp
from long_tail import long_tail

from ltpost import methods

#: key, and options
FITS = [
    ("lade", {"solver": "convex", "strengths": (0.1,), "tolerance": 1e-5}),
    ("gm", {"solver": "convex", "strengths": (0.1,), "tolerance": 1e-5}),
    ("wb", {"solver": "convex", "strengths": (0.01,), "tolerance": 1e-5}),
    ("disalign", {"solver": "convex", "strengths": (0.1,), "tolerance": 1e-5}),
    ("lade", {"solver": "sgd", "epochs": 2, "batch_size": 32}),
    ("gm", {"solver": "sgd", "epochs": 2, "batch_size": 32}),
    ("mislas", {"solver": "sgd", "epochs": 2, "batch_size": 32}),
    ("disalign", {"solver": "sgd", "epochs": 2, "batch_size": 32}),
    ("cosine-la", {"solver": "sgd", "epochs": 2, "batch_size": 32, "start": "random"}),
]


def fit_all(train):
    known = {"head": train.head, "class_counts": train.class_counts, "train": train}
    scores = []
    for key, options in FITS:
        method = methods.get(key)
        family = method(*(known[need] for need in method.needs), progress=False, **options)
        head = family.head(options["strengths"][0]) if "strengths" in options else family.head()
        scores.append(head.logits(long_tail().features[:20]))
    return np.stack(scores)


def work(rank, port, target):
    import torch.distributed as dist

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    train = long_tail()
    mine = np.arange(len(train))[:40] if rank == 0 else np.arange(len(train))[40:]
    scores = fit_all(train.subset(mine))
    if rank == 0:
        np.save(target, scores)
    dist.destroy_process_group()


@pytest.mark.skipif(sys.platform == "win32", reason="gloo over fork")
def test_two_processes_fit_what_one_fits(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(work, (port, str(tmp_path / "scores.npy")), nprocs=2)
    together, alone = np.load(tmp_path / "scores.npy"), fit_all(long_tail())
    for (key, options), one, other in zip(FITS, alone, together, strict=True):
        np.testing.assert_allclose(other, one, atol=5e-3, err_msg=f"{key} {options}")
