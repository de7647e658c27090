"""One of several processes that fit heads to their shards of feature files, and save them, each its own.

python distributed_worker.py folder     with train.h5, which all share, and train-0.h5, train-1.h5, … for one each
"""

import sys
from pathlib import Path

import torch
from long_tail import crt_path, crt_sgd, lws_path, lws_sgd

import ltpost
from ltpost.data import distributed


def fit(train):
    """Name to head, of every kind of fit."""
    return {
        "ncm": ltpost.nearest_class_mean(train).head(),
        "ncm_euclidean": ltpost.nearest_class_mean(train, metric="euclidean").head(),
        **{f"crt_{head.info['strength']:g}": head for head in crt_path(train, strengths=(1.0, 0.1), tolerance=1e-6)},
        **{f"lws_{head.info['strength']:g}": head for head in lws_path(train, strengths=(0.1, 0.01), tolerance=1e-6)},
        "crt_sgd": crt_sgd(train, batch_size=16),
        "crt_sgd_instance": crt_sgd(train, batch_size=16, sampler="instance"),
        "lws_sgd": lws_sgd(train, batch_size=16),
        "ncm_cl2n": ltpost.nearest_class_mean(train, metric="cl2n").head(),
    }


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.start()
    rank = distributed.rank()
    shares = {
        "shared": distributed.shard(ltpost.load(folder / "train.h5")),
        "apart": ltpost.load(folder / f"train-{rank}.h5", part=True),  # the others may be on another machine
    }
    for layout, train in shares.items():
        for name, head in fit(train).items():
            head.save(folder / layout / str(rank) / f"{name}.safetensors")
    distributed.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
