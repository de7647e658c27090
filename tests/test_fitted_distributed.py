"""Two processes with half of the rows each fit what one with all rows fits."""

import sys

import numpy as np
import pytest
from conftest import in_processes
from long_tail import long_tail

from ltpost import methods
from ltpost.data import distributed

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


def work(target):
    """One of two processes: fits to its rows, and the first one saves the scores."""
    distributed.start()
    train = long_tail()
    mine = np.arange(len(train))[:40] if distributed.rank() == 0 else np.arange(len(train))[40:]
    scores = fit_all(train.subset(mine))
    if distributed.rank() == 0:
        np.save(target, scores)
    distributed.stop()


@pytest.mark.skipif(sys.platform == "win32", reason="processes are forked")
def test_two_processes_fit_what_one_fits(tmp_path):
    outputs, codes = in_processes(tmp_path, 2, str(tmp_path / "scores.npy"), program=__file__)
    assert codes == [0, 0], outputs
    together, alone = np.load(tmp_path / "scores.npy"), fit_all(long_tail())
    for (key, options), one, other in zip(FITS, alone, together, strict=True):
        np.testing.assert_allclose(other, one, atol=5e-3, err_msg=f"{key} {options}")


if __name__ == "__main__":
    work(sys.argv[1])
