"""What ``predict`` answers for: images, texts or sounds without labels, as inputs of a network in their order."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ltpost.errors import DataError, UsageError
from ltpost.extract.data.batches import Arguments
from ltpost.extract.data.columns import TABLES, open_values
from ltpost.extract.data.image_files import IMAGE_SUFFIXES, ImageFiles, image_files, walk
from ltpost.extract.data.source import Unreadable, storable
from ltpost.extract.messages import reading
from ltpost.extract.networks.collating import Sounds, Tokens
from ltpost.extract.pixels.preprocess import Preprocess

SOUND_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".mp3", ".opus", ".aiff", ".aif"})
Source = str | os.PathLike[str] | Sequence[Any]


@dataclass
class Images:
    """Image files, prepared as the features were; ``names`` are their paths."""

    files: ImageFiles
    names: list[str]
    preprocess: Preprocess

    def batches(self, rows: range, device: torch.device, errors: dict[int, str]) -> Iterator[Arguments]:
        """The inputs for some rows, in order; those that cannot be read are left out, and ``errors`` says why."""
        pixels = []
        for number, image in enumerate(self.files.read(slice(rows.start, rows.stop)), rows.start):
            if isinstance(image, Unreadable):
                errors[number] = image.reason
            else:
                pixels.append(self.preprocess.cut(image))
        for same in _of_one_size(pixels):
            yield Arguments.of(self.preprocess.normalise(torch.from_numpy(same).to(device)))

    def __str__(self) -> str:
        return str(self.preprocess)


@dataclass
class Values:
    """Texts or sounds; ``columns`` holds one list of them, or two for pairs of texts."""

    columns: list[Sequence[Any]]
    names: list[str]
    collate: Tokens | Sounds

    def batches(self, rows: range, device: torch.device, errors: dict[int, str]) -> Iterator[Arguments]:
        """As of :class:`Images`."""
        batch = self.collate([(*(column[row] for column in self.columns), 0) for row in rows])
        bad = {rows.start + place: reason for place, reason in batch.get("unreadable", {}).items()}
        errors.update(bad)
        keep = torch.tensor([place for place, row in enumerate(rows) if row not in bad], dtype=torch.long)

        def kept(value: Any) -> Any:
            return value[keep].to(device) if isinstance(value, Tensor) else value

        if len(keep):
            inputs = {name: kept(value) for name, value in batch.items() if name not in ("labels", "cut", "unreadable")}
            yield Arguments((), inputs, len(keep))

    def __str__(self) -> str:
        return str(self.collate)


def images_of(source: Source, root: str | os.PathLike[str] | None, preprocess: Preprocess) -> Images:
    """The images of a folder, a list of paths, or one image."""
    start, paths = _paths(source, root, IMAGE_SUFFIXES, "image")
    return Images(image_files(start, paths), [storable(path) for path in paths], preprocess)


def values_of(
    source: Source, root: str | os.PathLike[str] | None, column: str | None, collate: Tokens | Sounds
) -> Values:
    """The texts or sounds of a table, of a file with one a line, or of a list; sounds of a folder too.

    Rows of a table, and texts, are called by their numbers, sounds by their paths.
    """
    of_texts = isinstance(collate, Tokens)
    if isinstance(source, str | os.PathLike) and Path(source).suffix in TABLES:
        if not Path(source).is_file():
            raise UsageError(f"source={source}: no such table")
        columns = open_values(Path(source), "text" if of_texts else "audio", column)
        start = Path(source).parent if root is None else Path(root)
        names = [str(row) for row in range(len(columns[0]))]
    elif column is not None:
        raise UsageError(f"column= is for tables ({', '.join(TABLES)}), but source= is {source}")
    elif of_texts:
        start, texts = Path(), _lines(source)
        columns, names = [texts], [str(row) for row in range(len(texts))]
    else:
        start, paths = _paths(source, root, SOUND_SUFFIXES, "sound")
        columns, names = [paths], paths
    return Values(columns, names, replace(collate, root=start) if isinstance(collate, Sounds) else collate)


def _lines(source: Source) -> list[str]:
    """The texts of a list, or of a file with one a line."""
    if not isinstance(source, str | os.PathLike):
        return [str(text) for text in source]
    if not Path(source).is_file():
        raise UsageError(f"source={source}: no such file; texts come as a table ({', '.join(TABLES)}) or one a line")
    with reading(Path(source), "texts"):
        return Path(source).read_text(encoding="utf-8-sig").splitlines()


def _paths(
    source: Source, root: str | os.PathLike[str] | None, suffixes: frozenset[str], kind: str
) -> tuple[Path, list[str]]:
    """Where paths start, and the paths."""
    if not isinstance(source, str | os.PathLike):
        paths, start = [str(path) for path in source], Path(root or "")
    else:
        place = Path(source)
        if place.is_dir():
            start = place
            paths = sorted(
                str(Path(folder, file).relative_to(place))
                for folder, _, files in walk(place)
                for file in files
                if Path(file).suffix.lower() in suffixes and not file.startswith("._")
            )
        elif place.suffix.lower() in suffixes:
            paths, start = [str(place)], Path()
        elif place.is_file():
            with reading(place, f"a list of {kind}s"):
                paths = [line.strip() for line in place.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
            start = place.parent if root is None else Path(root)
        else:
            raise UsageError(f"source={place}: no such folder, {kind}, list of {kind}s or feature file")
    if not paths:
        raise DataError(f"{source or Path()}: holds no {kind}s ({', '.join(sorted(suffixes))})")
    return start, paths


def _of_one_size(pixels: list[Any]) -> Iterator[Any]:
    """Consecutive images of equal shape, stacked."""
    start = 0
    for stop in range(1, len(pixels) + 1):
        if stop == len(pixels) or pixels[stop].shape != pixels[start].shape:
            yield np.stack(pixels[start:stop])
            start = stop
