"""Texts and sounds to what a model of transformers is called with, a batch at a time.

What is cut, padded or resampled is said once, and counted.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ltpost.errors import DataError, UsageError, first_line

_WITHOUT_LIMIT = 10**6  # a tokenizer that does not know its limit says 10**30


@dataclass
class Tokens:
    """Pairs (text, label), or triples (text, text, label), to a batch.

    Args:
        tokenizer: of transformers.
        longest: tokens that a text is cut to.
    """

    tokenizer: Any
    longest: int
    unit: str = "text"

    def __call__(self, samples: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
        """Padded to the longest text of the batch."""
        *columns, labels = zip(*samples, strict=True)
        texts = [["" if text is None or text != text else str(text) for text in column] for column in columns]
        batch = self.tokenizer(
            *texts, truncation=True, max_length=self.longest, padding=len(samples) > 1, return_tensors="pt"
        )
        if batch.encodings is not None:
            cut = sum(bool(encoding.overflowing) for encoding in batch.encodings)
        else:
            cut = sum(int(mask.sum()) >= self.longest for mask in batch["attention_mask"])
        return {**batch, "labels": torch.tensor(labels), "cut": cut}

    def limit(self) -> str:
        """What is cut, for a message."""
        return f"longer than {self.longest} tokens"

    def __str__(self) -> str:
        return f"{type(self.tokenizer).__name__}, at most {self.longest} tokens, padded to the longest text of a batch"


@dataclass
class Sounds:
    """Pairs (sound, label) to a batch.

    Args:
        extractor: feature extractor of transformers.
        root: the folder that paths start from.
        seconds: that a sound is cut to; None leaves it to the extractor.
    """

    extractor: Any
    root: Path = Path()
    seconds: float | None = None
    unit: str = "sound"

    @property
    def rate(self) -> int:
        """Samples per second that the model takes."""
        return int(self.extractor.sampling_rate)

    def __call__(self, samples: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
        """Padded to the longest sound of the batch, or as the extractor does."""
        sounds, labels = zip(*samples, strict=True)
        waves: list[NDArray[np.float32] | None] = []
        unreadable, cut = {}, 0
        for row, sound in enumerate(sounds):
            try:
                wave = resampled(*decoded(sound, self.root), self.rate)
            except Exception as error:  # noqa: BLE001,RUF100 - decoders raise errors of any kind on damaged files
                unreadable[row] = first_line(error)
                waves.append(None)
                continue
            longest = len(wave) if self.seconds is None else int(self.seconds * self.rate)
            cut += len(wave) > longest
            waves.append(wave[:longest])
        silence = np.zeros(max((len(wave) for wave in waves if wave is not None), default=self.rate), np.float32)
        filled = [silence if wave is None else wave for wave in waves]
        padding = {} if getattr(self.extractor, "max_length", None) else {"padding": True}
        batch = self.extractor(filled, sampling_rate=self.rate, return_tensors="pt", **padding)
        return {**batch, "labels": torch.tensor(labels), "cut": cut, "unreadable": unreadable}

    def limit(self) -> str:
        """What is cut, for a message."""
        return f"longer than {self.seconds:g} seconds"

    def __str__(self) -> str:
        cut = "" if self.seconds is None else f", at most {self.seconds:g} s"
        return f"{type(self.extractor).__name__}, {self.rate} Hz, one channel{cut}, padded within a batch"


def decoded(sound: Any, root: Path) -> tuple[NDArray[np.float32], int]:
    """The mean of all channels (T,), in -1..1, and the sampling rate of a sound.

    Args:
        sound: a path, bytes of a file, or a mapping with ``bytes`` and ``path`` or ``array`` and ``sampling_rate``.
        root: the folder that a path starts from.
    """
    if isinstance(sound, Mapping):
        if sound.get("array") is not None:
            return np.asarray(sound["array"], np.float32), int(sound["sampling_rate"])
        sound = sound["bytes"] if sound.get("bytes") is not None else sound["path"]
    file = io.BytesIO(sound) if isinstance(sound, bytes) else root / str(sound)
    try:
        import soundfile
    except ImportError:
        return _wav(file)
    wave, rate = soundfile.read(file, dtype="float32", always_2d=True)
    return wave.mean(axis=1), int(rate)


def _wav(file: Path | io.BytesIO) -> tuple[NDArray[np.float32], int]:
    """A .wav file, without soundfile."""
    from scipy.io import wavfile

    if isinstance(file, Path) and file.suffix.lower() != ".wav":
        raise UsageError(f'sounds of type {file.suffix} need soundfile; install it with: pip install "ltpost[audio]"')
    rate, wave = wavfile.read(file)
    if wave.dtype.kind == "u":  # 8 bits
        wave = (wave.astype(np.float32) - 128) / 128
    elif wave.dtype.kind == "i":
        wave = wave.astype(np.float32) / -float(np.iinfo(wave.dtype).min)
    return (wave if wave.ndim == 1 else wave.mean(axis=1)).astype(np.float32), int(rate)


def resampled(wave: NDArray[np.float32], rate: int, wanted: int) -> NDArray[np.float32]:
    """The same sound at another sampling rate."""
    if rate == wanted:
        return wave
    from scipy.signal import resample_poly

    common = gcd(rate, wanted)
    return resample_poly(wave, wanted // common, rate // common).astype(np.float32)


def tokens_of(tokenizer: Any, model: Any, longest: int | None, folder: Path) -> Tokens:
    """How texts become the inputs of a model.

    Raises:
        DataError: the tokenizer has no token to pad with.
        UsageError: ``longest`` is above what the model has positions for.
    """
    limit = int(tokenizer.model_max_length)
    if limit > _WITHOUT_LIMIT:
        limit = int(getattr(model.config, "max_position_embeddings", 0) or 512)
    if longest is not None and not 1 <= longest <= limit:
        raise UsageError(f"max_length= must be 1 to {limit} tokens for {folder}, but is {longest}")
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise DataError(f"{folder}: its tokenizer has no pad_token and no eos_token to fill texts with")
        tokenizer.pad_token = tokenizer.eos_token
    if getattr(model.config, "pad_token_id", None) is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    return Tokens(tokenizer, int(longest or limit))
