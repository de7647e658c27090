"""Finds and opens one split of images. ``FORMS`` is the table of the forms of data on disk.

Each form finds the rows of one split and, for the class counts, the labels of the train split beside it. Rows keep the
order of the list, file or sorted folder tree.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ltpost.errors import UsageError
from ltpost.extract.data.arrays import npz_in, open_npz
from ltpost.extract.data.cifar import cifar_in, open_cifar
from ltpost.extract.data.datasets import dataset_in, open_dataset
from ltpost.extract.data.image_files import open_tree
from ltpost.extract.data.lists import list_in, open_list
from ltpost.extract.data.presets import preset
from ltpost.extract.data.source import Source, check_split
from ltpost.extract.data.tars import open_tars, tars_in


@dataclass(frozen=True)
class Form:
    """A form of data on disk.

    Args:
        name: for messages.
        find: takes (data, split), gives the file or folder that holds the split, or None.
        open: takes (that file or folder, split, root, class order), gives the rows.
    """

    name: str
    find: Callable[[Path, str], Path | None]
    open: Callable[[Path, str, Path, str | None], Source]


FORMS: tuple[Form, ...] = (
    Form("<split>/ saved by datasets", dataset_in, lambda folder, split, *_: open_dataset(folder, split)),
    Form("<split>*.tar (WebDataset)", tars_in, lambda data, split, *_: open_tars(data, split)),
    Form("<split>/<class>/ folders", lambda data, split: data if (data / split).is_dir() else None,
         lambda data, split, _, order: open_tree(data, split, order)),
    Form("<split>.npz", npz_in, lambda file, split, *_: open_npz(file, split)),
    Form("<split>.txt, .csv or .parquet", list_in, lambda file, split, root, _: open_list(file, split, root)),
    Form("cifar-100-python", cifar_in, lambda folder, split, *_: open_cifar(folder, split)),
)  # fmt: skip


def open_source(
    data: str | os.PathLike[str],
    split: str,
    list_file: str | os.PathLike[str] | None = None,
    root: str | os.PathLike[str] | None = None,
    class_order: str | None = None,
    dataset: str | None = None,
) -> Source:
    """The rows of one split.

    Args:
        data: a folder with the split in one of ``FORMS``, or an .npz file.
        split: its name.
        list_file: a list ``path label``, or a .csv or .parquet table, with paths relative to ``root``.
        root: the folder in which the paths of a list start; default ``data``.
        class_order: how class folders are sorted, see ``class_order.CLASS_ORDERS``; other forms ignore it.
        dataset: one of ``PRESETS``; its own list is used where ``data`` holds it.

    Raises:
        UsageError: the folder does not exist, or holds no such split.
        DataError: a file of the split is damaged or lacks something.
    """
    check_split(split)
    folder = Path(data)
    start = Path(root) if root is not None else folder
    lists = preset(dataset).lists if dataset is not None else None
    if list_file is None and lists is not None and (folder / lists.format(split=split)).is_file():
        list_file = folder / lists.format(split=split)
    if list_file is not None:
        return open_list(Path(list_file), split, start)
    if not folder.exists():
        raise UsageError(
            f"{folder}: no such folder; put images into {folder / split}/<class>/, or name the place with data= "
            "(or LTPOST_DATA), or a list with list_file="
        )
    for form in FORMS:
        if (place := form.find(folder, split)) is not None:
            return form.open(place, split, start, class_order)
    forms = ", ".join(form.name.replace("<split>", split) for form in FORMS)
    entries = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) if folder.is_dir() else folder.name
    raise UsageError(
        f"{folder}: holds no split '{split}' ({forms}); it holds {entries or 'nothing'}; see split=, list_file="
    )
