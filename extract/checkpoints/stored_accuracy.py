"""The accuracy that training code has stored with a model.

Only what is a top-1 accuracy on val or test counts: no loss, no top-5, no F1, no accuracy on training rows, and no mean
over classes. Values above 1 are percent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ltpost.extract.checkpoints.layouts import Container, at

#: an accuracy as a fraction, and the key that it was stored under
Accuracy = tuple[str, float]

#: keys of PyTorch training code, the saved epoch's first
_KEYS = ("acc1", "top1", "val_acc", "val_acc1", "test_acc", "best_acc1", "best_prec1", "best_acc", "best_top1",
         "monitor_best", "metric")  # fmt: skip
#: keys whose meaning another entry decides, to the place of that entry
_MEANT = {
    "monitor_best": (("config", "trainer", "monitor"), ("config", "monitor")),
    "metric": (("args", "eval_metric"),),
}
#: the key of the accuracy on all classes, where groups of classes are stored beside it
_OVERALL = ("all", "top1", "acc1", "overall")

_ACCURACY = re.compile(r"(?<![a-z])((acc|accuracy)([_@-]?1)?|(top|prec)[_@-]?1)(?![a-z0-9])", re.IGNORECASE)
_ANOTHER = re.compile(
    r"train|loss|(top|acc|accuracy|prec)[_@-]?[2-9]|bal|macro|per_?class|class_?(mean|avg)|mean_?class|f1|auc|error",
    re.IGNORECASE,
)


def is_accuracy(name: str) -> bool:
    """Whether a metric of this name is the top-1 accuracy on rows that were not trained on.

    >>> [is_accuracy(name) for name in ("val_acc", "eval_accuracy", "max val/top1", "val_loss", "train_acc", "acc5")]
    [True, True, True, False, False, False]
    """
    return _ACCURACY.search(name) is not None and _ANOTHER.search(name) is None


def stored_accuracy(container: Container, file_name: str = "") -> Accuracy | None:
    """The accuracy in a checkpoint file, or None.

    Args:
        container: the content of the file.
        file_name: its name, by which Lightning stores the scores of its checkpoints.
    """
    for key in _KEYS:
        meant = [name for place in _MEANT.get(key, ()) if isinstance(name := _below(container, place), str)]
        if meant and not is_accuracy(meant[0]):
            continue
        value = container.get(key)
        if isinstance(value, Mapping):  # many, medium, few and all
            value = next((value[name] for name in _OVERALL if name in value), None)
        if (fraction := _fraction(value)) is not None:
            return key, fraction
    return _of_lightning(container, file_name)


def accuracy_of_folder(folder: Path) -> Accuracy | None:
    """The accuracy that the Trainer of transformers, or a model card, has left in a model folder; None without."""
    for name in ("eval_results.json", "all_results.json"):
        results = _json(folder / name)
        for key, value in results.items():
            if is_accuracy(key) and (fraction := _fraction(value)) is not None:
                return f"{key} in {name}", fraction
    return _of_trainer_state(folder / "trainer_state.json") or _of_model_card(folder / "README.md")


def _fraction(value: Any) -> float | None:
    """A stored number as a fraction; None where it cannot be an accuracy."""
    if isinstance(value, np.number) or (isinstance(value, Tensor) and _is_one_number(value)):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 100:
        return None
    return value / 100 if value > 1 else float(value)


def _is_one_number(tensor: Tensor) -> bool:
    """Whether a tensor from a file can be read as one number; sparse, nested and empty ones cannot."""
    plain = tensor.layout == torch.strided and not tensor.is_nested and tensor.device.type == "cpu"
    return plain and tensor.numel() == 1


def _below(container: Any, place: tuple[str, ...]) -> Any:
    """The value at a place of nested mappings and options of argparse, or None."""
    for key in place:
        container = container.get(key) if isinstance(container, Mapping) else getattr(container, key, None)
    return container


def _of_lightning(container: Container, file_name: str) -> Accuracy | None:
    """From the state of a ModelCheckpoint: the score of this file, or of the best one, if it watches an accuracy."""
    callbacks = at(container, "callbacks")
    for state in callbacks.values() if isinstance(callbacks, Mapping) else ():
        monitor = state.get("monitor") if isinstance(state, Mapping) else None
        if not isinstance(monitor, str) or not is_accuracy(monitor):
            continue
        scores = state.get("best_k_models")
        named = {Path(str(path)).name: score for path, score in scores.items()} if isinstance(scores, Mapping) else {}
        for value in (named.get(file_name), state.get("current_score"), state.get("best_model_score")):
            if (fraction := _fraction(value)) is not None:
                return monitor, fraction
    return None


def _of_trainer_state(file: Path) -> Accuracy | None:
    """From trainer_state.json: the evaluation at the step in the folder's name, at the best step, or the last one."""
    state = _json(file)
    history = state.get("log_history")
    accuracies = [
        (entry.get("step"), key, fraction)
        for entry in (history if isinstance(history, list) else [])
        if isinstance(entry, Mapping)
        for key, value in entry.items()
        if isinstance(key, str) and key.startswith("eval_") and is_accuracy(key)
        if (fraction := _fraction(value)) is not None
    ]
    if not accuracies:
        return None
    names = file.absolute().parent.name, str(state.get("best_model_checkpoint"))
    steps = [int(match[1]) for name in names if (match := re.search(r"checkpoint-(\d+)$", name))]
    _, key, fraction = next((row for row in accuracies if steps and row[0] == steps[0]), accuracies[-1])
    return f"{key} in trainer_state.json", fraction


def _of_model_card(file: Path) -> Accuracy | None:
    """From the ``model-index`` at the head of README.md, where it holds a single accuracy of image classification."""
    try:
        import yaml

        _, head, *_ = file.read_text(encoding="utf-8").split("---\n", 2)
        card = yaml.safe_load(head)
        accuracies = {
            fraction
            for model in card["model-index"]
            for result in model["results"]
            if result.get("task", {}).get("type") == "image-classification"
            and "train" not in str(result.get("dataset", {}).get("split", ""))
            for metric in result["metrics"]
            if is_accuracy(str(metric.get("type"))) and (fraction := _fraction(metric.get("value"))) is not None
        }
    except Exception:  # noqa: BLE001,RUF100 - a card is free text; without a card, yaml or an index there is no accuracy
        return None
    return ("model-index in README.md", accuracies.pop()) if len(accuracies) == 1 else None


def _json(file: Path) -> Mapping[str, Any]:
    """The mapping in a JSON file; empty where it is missing or holds something else."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, Mapping) else {}
