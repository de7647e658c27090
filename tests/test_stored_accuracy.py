"""The accuracy that training code has left with a model: what is read, and what is not compared."""

import json
from argparse import Namespace

import numpy as np
import pytest
import torch

from ltpost.extract import extract_features
from ltpost.extract.checkpoints.checkpoint import read_checkpoint
from ltpost.extract.checkpoints.stored_accuracy import accuracy_of_folder, is_accuracy, stored_accuracy
from ltpost.extract.networks.cifar_resnet import CifarResNet


@pytest.mark.parametrize(
    "name",
    ["val_acc", "valid_acc1", "max val_accuracy", "val/top1", "eval_accuracy", "accuracy", "acc@1", "Acc@1",
     "test_top_1_accuracy", "val-prec1"],
)  # fmt: skip
def test_names_of_accuracies(name):
    assert is_accuracy(name)


@pytest.mark.parametrize(
    "name",
    ["val_loss", "min val_loss", "train_acc", "train/accuracy", "acc5", "val_top5", "eval_top_5_accuracy", "f1",
     "balanced_accuracy", "val_bal_acc", "mean_class_accuracy", "macro_acc", "precision", "val_auc", "stop", "pace"],
)  # fmt: skip
def test_names_of_other_metrics(name):
    assert not is_accuracy(name)


def checkpoint_of_lightning(**state):
    """The callbacks as ``ModelCheckpoint.state_dict`` writes them."""
    watching = {"monitor": "val_acc", "current_score": torch.tensor(0.5), "best_model_score": torch.tensor(0.61),
                "best_k_models": {"/runs/a/epoch=3.ckpt": torch.tensor(0.61)}, "dirpath": "/runs/a"}  # fmt: skip
    callbacks = {"EarlyStopping{'monitor': 'val_loss'}": {"wait_count": 0, "best_score": torch.tensor(0.2)},
                 "ModelCheckpoint{'monitor': 'val_acc', 'mode': 'max'}": {**watching, **state}}  # fmt: skip
    return {"pytorch-lightning_version": "2.4.0", "callbacks": callbacks}


@pytest.mark.parametrize(
    ("container", "expected"),
    [
        (checkpoint_of_lightning(), ("val_acc", 0.5)),
        (checkpoint_of_lightning(current_score=None), ("val_acc", 0.61)),
        (checkpoint_of_lightning(monitor="val_loss"), None),
        (checkpoint_of_lightning(monitor=None), None),
        ({"callbacks": [1]}, None),
        ({"callbacks": {"a": 3}}, None),
        ({"metric": 71.5, "args": Namespace(eval_metric="top1")}, ("metric", 0.715)),
        ({"metric": 71.5, "args": Namespace(eval_metric="loss")}, None),
        ({"monitor_best": 0.4, "config": {"trainer": {"monitor": "max val_accuracy"}}}, ("monitor_best", 0.4)),
        ({"monitor_best": 0.4, "config": {"trainer": {"monitor": "min val_loss"}}}, None),
        ({"acc1": True}, None),
        ({"acc1": 140.0}, None),
    ],
)
def test_of_a_checkpoint(container, expected):
    found = stored_accuracy(container, "last.ckpt")
    assert (found is None) if expected is None else found == (expected[0], pytest.approx(expected[1]))


def test_lightning_s_score_of_the_file_itself(tmp_path):
    torch.manual_seed(0)
    state = {f"model.{key}": value for key, value in CifarResNet(8, 3).state_dict().items()}
    file = tmp_path / "epoch=3.ckpt"
    torch.save({"state_dict": state, **checkpoint_of_lightning()}, file)
    assert read_checkpoint(file).accuracy == ("val_acc", pytest.approx(0.61))


def write(folder, **files):
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name.replace("__", ".")).write_text(text)
    return folder


LOG = [{"step": 10, "loss": 1.0}, {"step": 10, "eval_accuracy": 0.4}, {"step": 20, "eval_accuracy": 0.6},
       {"step": 30, "eval_accuracy": 0.5, "eval_loss": 1.0}]  # fmt: skip
CARD = """---
license: mit
model-index:
- name: net
  results:
  - task: {type: image-classification}
    dataset: {name: flowers, split: SPLIT}
    metrics:
    - {type: accuracy, value: 0.93}
    - {type: f1, value: 0.91}
---
# Net
"""


def test_of_a_folder_of_hugging_face(tmp_path):
    assert accuracy_of_folder(tmp_path) is None
    write(tmp_path, README__md=CARD.replace("SPLIT", "train"))
    assert accuracy_of_folder(tmp_path) is None
    write(tmp_path, README__md=CARD.replace("SPLIT", "test"))
    assert accuracy_of_folder(tmp_path) == ("model-index in README.md", 0.93)
    write(tmp_path, trainer_state__json={"log_history": LOG})
    assert accuracy_of_folder(tmp_path) == ("eval_accuracy in trainer_state.json", 0.5)
    write(tmp_path, trainer_state__json={"log_history": LOG, "best_model_checkpoint": "out/checkpoint-20"})
    assert accuracy_of_folder(tmp_path) == ("eval_accuracy in trainer_state.json", 0.6)
    step = tmp_path / "checkpoint-10"
    step.mkdir()
    write(step, trainer_state__json={"log_history": LOG, "best_model_checkpoint": "out/checkpoint-20"})
    assert accuracy_of_folder(step) == ("eval_accuracy in trainer_state.json", 0.4)
    write(tmp_path, all_results__json={"train_accuracy": 0.99, "eval_loss": 0.7, "eval_accuracy": 0.62})
    assert accuracy_of_folder(tmp_path) == ("eval_accuracy in all_results.json", 0.62)
    write(tmp_path, eval_results__json={"eval_top5_accuracy": 0.9, "eval_accuracy": 63.5})
    assert accuracy_of_folder(tmp_path) == ("eval_accuracy in eval_results.json", 0.635)
    write(tmp_path, eval_results__json="[1", all_results__json="[]", trainer_state__json="x", README__md="---\n: {")
    assert accuracy_of_folder(tmp_path) is None


def test_is_not_compared_with_an_accuracy_of_another_kind(tmp_path, capsys):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "val.npz", images=images, labels=np.arange(60) % 3)
    torch.manual_seed(0)
    state = CifarResNet(8, 3).state_dict()
    torch.save({"state_dict": state, "state_dict_ema": state, "acc1": 99.0}, tmp_path / "c.pth")

    def warned(**options):
        extract_features(tmp_path / "c.pth", tmp_path, "val", tmp_path / "f", restart=True, **options)
        return "but the checkpoint holds acc1 99.00" in capsys.readouterr().err

    assert warned()
    assert not warned(tta="flip")
    assert not warned(weights="state_dict")  # the accuracy is that of the averaged weights, which are the default
