"""Bad images among good ones, in class folders and in tar files.

Each is an image with the pixels that Pillow itself gives for the same bytes, or one that cannot be read; the images
beside it keep their pixels, labels and places. A checksum that Pillow does not check cannot be seen.
"""

from __future__ import annotations

import functools
import io
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ltpost import LtpostError
from ltpost.extract.data.forms import open_source
from ltpost.extract.data.image_files import IMAGE_SUFFIXES
from ltpost.extract.data.source import Source, Unreadable
from ltpost.extract.pixels.preprocess import Preprocess
from ltpost.extract.pixels.views import Views
from ltpost.extract.run.images import Batches
from tests.fuzz.case import Case, refusal, spoil

SIDE = 24


def picture(seed: int = 0, mode: str = "RGB") -> Image.Image:
    """A smooth image with some noise."""
    rng = np.random.default_rng(seed)
    ramp = np.add.outer(np.arange(SIDE), np.arange(SIDE))[..., None] * np.array([3, 2, 1]) + rng.integers(0, 60, 3)
    return Image.fromarray((ramp + rng.integers(0, 20, ramp.shape)).astype(np.uint8)).convert(mode)


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


@functools.cache
def good_images() -> list[tuple[str, bytes]]:
    """An ending and the content of an image of each kind."""
    one, two, grey = picture(0), picture(1), picture(2, "L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    return [
        (".jpg", encoded(one, "JPEG")), (".jpeg", encoded(one, "JPEG", progressive=True, quality=60)),
        (".jpg", encoded(picture(0, "CMYK"), "JPEG")), (".jpg", encoded(grey, "JPEG", exif=Image.Exif().tobytes())),
        (".png", encoded(one, "PNG")), (".png", encoded(picture(0, "P"), "PNG")), (".png", encoded(deep, "PNG")),
        (".png", encoded(picture(0, "RGBA"), "PNG", compress_level=0)), (".png", encoded(grey.convert("1"), "PNG")),
        (".webp", encoded(one, "WEBP")), (".webp", encoded(picture(0, "RGBA"), "WEBP", lossless=True)),
        (".webp", encoded(one, "WEBP", save_all=True, append_images=[two], duration=9)),
        (".png", encoded(one, "GIF")), (".jpg", encoded(one, "GIF", save_all=True, append_images=[two])),
        (".tif", encoded(one, "TIFF")), (".tiff", encoded(one, "TIFF", compression="tiff_lzw")),
        (".tif", encoded(one, "TIFF", compression="jpeg")), (".tif", encoded(deep, "TIFF")),
        (".tif", encoded(one, "TIFF", compression="tiff_adobe_deflate", save_all=True, append_images=[two])),
        (".bmp", encoded(one, "BMP")), (".bmp", encoded(picture(0, "P"), "BMP")), (".ppm", encoded(one, "PPM")),
        (".pgm", encoded(grey, "PPM")), (".png", encoded(one, "JPEG2000")), (".png", encoded(one, "DDS")),
        *([(".png", encoded(one, "AVIF", quality=60))] if "AVIF" in Image.SAVE else []),
    ]  # fmt: skip


# -- files that a format allows, or that are no images: each gives an ending, the content, and whether to refuse it ----


def _png(width: int, height: int, data: bytes, kind: int = 2, depth: int = 8, more: bytes = b"") -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", width & 0xFFFFFFFF, height & 0xFFFFFFFF, depth, kind, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + more + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    )


def long_and_thin(rng: np.random.Generator) -> tuple[str, bytes, bool]:
    """Sides of 1 and of tens of thousands: resized by its shorter side it would not fit into memory."""
    length = int(rng.choice([300, 10_000, 60_000]))
    shape = (1, length, 3) if rng.random() < 0.5 else (length, 1, 3)
    image = Image.fromarray(np.zeros(shape, np.uint8))
    return ".png", encoded(image, str(rng.choice(["PNG", "BMP", "PPM", "JPEG"]))), length > 300


def claimed_size(rng: np.random.Generator) -> tuple[str, bytes, bool]:
    """A header that says more, or fewer, pixels than there are."""
    width, height = (int(rng.choice([0, 1, 7, 2**12, 2**16, 2**31 - 1, -1])) for _ in range(2))
    way = int(rng.integers(4))
    if way == 0:
        return (
            ".png",
            _png(width, height, bytes(10), int(rng.choice([0, 2, 3, 4, 6, 9])), int(rng.choice([1, 8, 16]))),
            False,
        )
    if way == 1:
        return ".ppm", f"P6\n{width} {height}\n{int(rng.choice([255, 65535, 0, -1]))}\n".encode() + bytes(30), False
    if way == 2:
        head = struct.pack("<iihhIIiiII", width, height, 1, int(rng.choice([1, 4, 8, 24, 32])), 0, 30, 0, 0, 0, 0)
        return ".bmp", b"BM" + struct.pack("<IHHI", 84, 0, 0, 54) + struct.pack("<I", 40) + head + bytes(30), False
    head = struct.pack("<HHBBB", width & 0xFFFF, height & 0xFFFF, 0x80, 0, 0)
    return (
        ".png",
        b"GIF89a" + head + bytes(6) + b"," + struct.pack("<HHHHB", 0, 0, width & 0xFFFF, 9, 0) + bytes(9),
        False,
    )


def bomb(rng: np.random.Generator) -> tuple[str, bytes, bool]:
    """Few bytes that unfold to very many."""
    text = zlib.compress(bytes(2**26))
    body = b"zTXt" + b"a\0\0" + text
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    if rng.random() < 0.5:
        return ".png", _png(4, 4, bytes(13 * 4), more=chunk), False
    return ".png", _png(20_000, 20_000, bytes(2**20)), True


def cut_short(rng: np.random.Generator) -> tuple[str, bytes, bool]:
    files = [(ending, content) for ending, content in good_images() if ending in (".jpg", ".png", ".bmp", ".ppm")]
    ending, content = files[int(rng.integers(len(files)))]
    return ending, content[: int(len(content) * rng.uniform(0, 0.6))], b"GIF" not in content[:3]


def no_image(rng: np.random.Generator) -> tuple[str, bytes, bool]:
    """Other files, and formats for which Pillow starts a program (EPS) or that no data set uses."""
    contents = [
        b"", b"\0" * 1000, b"<html>404</html>", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
        b"PK\x03\x04" + bytes(100), b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"BM", b"II*\0",
        b"RIFF\0\0\0\0WEBP",
        b"\xc5\xd0\xd3\xc6" + bytes(40), b"%PDF-1.4\n", b"SIMPLE  =                    T" + b" " * 2850, b"P6 9",
        b"II*\0\x08\0\0\0" + struct.pack("<H", 1) + struct.pack("<HHII", 256, 4, 1, 9) + struct.pack("<I", 8),
    ]  # fmt: skip
    return str(rng.choice([".jpg", ".png", ".tif"])), contents[int(rng.integers(len(contents)))], True


CHANGES: list[Callable[[np.random.Generator], tuple[str, bytes, bool]]] = [
    long_and_thin, claimed_size, claimed_size, bomb, cut_short, no_image,
]  # fmt: skip


# -- cases -------------------------------------------------------------------------------------------------------------


def make(rng: np.random.Generator, folder: Path) -> Case:
    refuse = False
    if rng.random() < 0.75:
        files = good_images()
        ending, content = files[int(rng.integers(len(files)))]
        kind = Image.open(io.BytesIO(content)).format or ""
        content, how = spoil(content, rng)
        how = f"{kind} {how}"
    else:
        change = CHANGES[int(rng.choice(len(CHANGES), p=[0.2, 0.25, 0.25, 0.02, 0.14, 0.14]))]
        how = change.__name__
        ending, content, refuse = change(rng)
    if rng.random() < 0.1:
        ending = str(rng.choice(sorted(IMAGE_SUFFIXES)))
    good = [encoded(picture(7), "PNG"), encoded(picture(8), "PNG")]
    rows = [("a/0.png", good[0]), (f"a/1{ending}", content), ("b/2.png", good[1])]
    in_tar = rng.random() < 0.2
    if in_tar:
        with tarfile.open(folder / "val.tar", "w") as archive:
            for name, image in rows:
                key = name.replace("/", "")
                for member, body in ((key, image), (f"{key.partition('.')[0]}.cls", b"1" if name[0] == "b" else b"0")):
                    info = tarfile.TarInfo(member)
                    info.size = len(body)
                    archive.addfile(info, io.BytesIO(body))
    else:
        for name, image in rows:
            path = folder / "val" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image)
    return Case(folder, how, refuse, more=(content, 256 if rng.random() < 0.5 else None))


def check(case: Case) -> str:
    content, resize = case.more
    try:
        source = open_source(case.path, "val")
    except LtpostError as error:
        return f"wrong: refused as a whole, {refusal(error)}"
    if source.labels.tolist() != [0, 0, 1]:
        return "wrong: labels"
    read = list(source.images.read(slice(0, 3)))
    for number in (0, 2):
        if isinstance(read[number], Unreadable) or read[number].tobytes() != picture(7 + number // 2).tobytes():
            return "wrong: the image beside it"
    answer = wrong_pixels(content, read[1], case.must_be_refused) or batches(source, read[1], resize)
    return answer or ("refused" if isinstance(read[1], Unreadable) else "ok")


def wrong_pixels(content: bytes, found: Any, refuse: bool) -> str:
    if not isinstance(found, Unreadable) and found.width * found.height > 2**24:
        return ""  # it would take seconds to compare them
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            grey = image.mode[0] in "IF"
            expected = None if grey and image.mode != "I;16" else image
            pixels = None if expected is None else np.asarray(expected)
            if pixels is not None:
                if grey:
                    expected = Image.fromarray((pixels >> 8).astype(np.uint8))
                pixels = np.asarray(expected.convert("RGB"))  # type: ignore[union-attr]
    except Exception:
        return "" if isinstance(found, Unreadable) else "wrong: an image that Pillow cannot read"
    if isinstance(found, Unreadable) or pixels is None:
        return ""
    if found.mode != "RGB" or not np.array_equal(np.asarray(found), pixels):
        return "wrong: pixels"
    return ""


def batches(source: Source, found: Any, resize: int | None) -> str:
    """What the workers of an extraction make of the rows: pixels cut to size, or rows marked as unreadable."""
    preprocess = Preprocess(resize, 224) if resize else Preprocess(8, 8)
    made = Batches(source, Views(preprocess), 3, [0], 3)[0]
    if isinstance(made, LtpostError):
        return f"wrong: stops the extraction: {made}"
    _, pixels, bad = made
    side = preprocess.crop
    if set(bad) - {1} or tuple(pixels.shape) != (3, side, side, 3):
        return "wrong: batch"
    if isinstance(found, Unreadable) != (1 in bad) and "too" not in bad.get(1, ""):
        return f"wrong: {bad or 'not marked'}"
    return ""
