"""The global heaps of an HDF5 file, which hold its texts, read from the bytes of the file.

A heap begins with a signature, a version and three zeros, and its size (8 bytes). Then comes a row of objects: number,
references (2 bytes each), 4 zeros, size (8 bytes), and the value. The object number 0 is the free room at the end. HDF5
goes on by the size of an object, and by nothing if that is 0.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterable, Iterator

_HEAP = b"GCOL\x01\x00\x00\x00"
_TEXT_CLASS = 9  # in the first byte of a type: of variable length
#: the parts of a file that are searched: where each begins and ends
Parts = Iterable[tuple[int, int]]


def all_heaps(content: mmap.mmap, parts: Parts) -> Iterator[tuple[int, bool]]:
    """Where each heap is, and whether it is sound."""
    for start, stop in parts:
        place = content.find(_HEAP, start, stop)
        while place >= 0:
            yield place, _heap_is_sound(content, place)
            place = content.find(_HEAP, place + 8, stop)


def text_of_attribute(content: mmap.mmap, parts: Parts, name: str) -> tuple[int, int] | None:
    """Length and place of the text of an attribute; None where no attribute of that name is one text.

    An attribute in an object header: version, flags, sizes of name, type and shape (2 bytes each), from version 3 on
    the encoding, then those three (in version 1 filled up to 8 bytes), then the value: length (4 bytes), place of the
    heap (8), number (4).
    """
    text = name.encode() + b"\0"
    for start, stop in parts:
        place = content.find(text, start, stop)
        while place >= 0:
            for begin in (place - 8, place - 9):
                value = _value_of_attribute(content, begin, len(text))
                if value is not None:
                    return value
            place = content.find(text, place + 1, stop)
    return None


def outside(extents: Parts, size: int) -> Iterator[tuple[int, int]]:
    """The parts of a file of ``size`` bytes that no extent covers.

    >>> list(outside([(10, 20), (15, 30)], 50))
    [(0, 10), (30, 50)]
    """
    start = 0
    for begin, end in sorted(extents):
        if begin > start:
            yield start, begin
        start = max(start, end)
    if start < size:
        yield start, size


def _value_of_attribute(content: mmap.mmap, begin: int, name_bytes: int) -> tuple[int, int] | None:
    """Length and place of the text of an attribute that is one text; None where no such attribute begins here."""
    if begin < 0 or begin + 9 > len(content):
        return None
    version, flags, name, kind, shape = struct.unpack_from("<BBHHH", content, begin)
    if version not in (1, 2, 3) or flags or name != name_bytes or not 8 <= kind <= 64 or not 4 <= shape <= 16:
        return None
    sizes = [-(-size // 8) * 8 if version == 1 else size for size in (name, kind, shape)]
    start = begin + 8 + (version == 3)
    value = start + sum(sizes)
    if value + 16 > len(content) or content[start + sizes[0]] & 15 != _TEXT_CLASS:
        return None
    length, place = struct.unpack_from("<IQ", content, value)
    return length, place


def _heap_is_sound(content: mmap.mmap, place: int) -> bool:
    """Whether the objects of a heap fill it, or end with its free room."""
    (size,) = struct.unpack_from("<Q", content, place + 8) if place + 16 <= len(content) else (0,)
    position, end = place + 16, place + size
    if size < 16 or end > len(content):
        return False
    while end - position >= 16:
        number, length = struct.unpack_from("<H6xQ", content, position)
        step = length if number == 0 else 16 + (length + 7) // 8 * 8
        if step < 16 or position + step > end:
            return False
        position += step
    return True
