"""One of several processes that fit heads to their shards of a feature file; process 0 saves the heads.

python distributed_worker.py train.h5 folder          (a file that all share)
python distributed_worker.py train-0.h5 train-1.h5 … folder
"""

import sys

import torch
from long_tail import crt_path, crt_sgd, lws_path, lws_sgd

import ltpost
from ltpost.data import distributed


def main(files: list[str], folder: str) -> None:
    torch.set_num_threads(1)
    distributed.start()
    own = files[0] if len(files) == 1 else files[distributed.rank()]  # the others may be on another machine
    train = distributed.shard(ltpost.load(own)) if len(files) == 1 else ltpost.load(own)
    heads = {
        "ncm": ltpost.nearest_class_mean(train).head(),
        "ncm_euclidean": ltpost.nearest_class_mean(train, metric="euclidean").head(),
        **{f"crt_{head.info['strength']:g}": head for head in crt_path(train, strengths=(1.0, 0.1), tolerance=1e-6)},
        **{f"lws_{head.info['strength']:g}": head for head in lws_path(train, strengths=(0.1, 0.01), tolerance=1e-6)},
        "crt_sgd": crt_sgd(train, batch_size=16),
        "crt_sgd_instance": crt_sgd(train, batch_size=16, sampler="instance"),
        "lws_sgd": lws_sgd(train, batch_size=16),
    }
    heads["ncm_cl2n"] = ltpost.nearest_class_mean(train, metric="cl2n").head()
    for name, head in heads.items():
        head.save(f"{folder}/{distributed.rank()}/{name}.safetensors")
    distributed.stop()


if __name__ == "__main__":
    main(sys.argv[1:-1], sys.argv[-1])
