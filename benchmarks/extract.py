"""Extraction against its two limits: the model on one resident batch, and the loader without a model.

python -m benchmarks.extract                              ResNet-50, JPEG files, this machine's CPU
python -m benchmarks.extract --device cuda --amp bf16 --images 20000 --batch-size 256

Our rate over the smaller of both, and with layers (auto) over without; rounds take turns, medians are reported. Where
decoding and the model share the cores of one CPU, the limit is what they can do together, 1 / (1/model + 1/loader);
that ratio is printed too.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.measure import Row
from ltpost.extract import extract_features
from ltpost.extract.data.forms import open_source
from ltpost.extract.networks.backbone import Backbone, choose_device
from ltpost.extract.networks.builders import builders
from ltpost.extract.networks.models import build
from ltpost.extract.pixels.views import Views
from ltpost.extract.run.images import Batches, loader_of, workers_for

SIZES = {"small": (64, "resnet18"), "imagenet-lt": (512, "resnet50"), "inat18": (512, "resnet50")}


def save_images(folder: Path, count: int) -> None:
    """JPEGs of 500 x 375, as ImageNet's are on average; 64 different ones, linked."""
    rng = np.random.default_rng(0)
    (folder / "val" / "class").mkdir(parents=True)
    for number in range(count):
        file = folder / "val" / "class" / f"{number:06d}.jpg"
        if number < 64:
            coarse = Image.fromarray(rng.integers(0, 256, (47, 63, 3), dtype=np.uint8))
            coarse.resize((500, 375), Image.Resampling.BICUBIC).save(file, quality=90)
        else:
            file.hardlink_to(folder / "val" / "class" / f"{number % 64:06d}.jpg")


def measure(
    arch: str, count: int, device: str, amp: str, batch_size: int, workers: int | None, repeats: int
) -> dict[str, float]:
    """Images per second: the model alone, the loader alone, the extraction."""
    state = builders(arch)[0].build(arch, 1).state_dict()
    model, preprocess = build(arch, state, 1)
    where = choose_device(device)
    model = model.to(where, memory_format=torch.channels_last)
    backbone = Backbone(model, device=where, amp=amp)
    with tempfile.TemporaryDirectory() as folder:
        save_images(Path(folder), count)
        source = open_source(folder, "val")
        starts = list(range(0, count, batch_size))
        number = workers_for(workers, source)

        def loader_alone() -> None:
            for _ in loader_of(Batches(source, Views(preprocess), batch_size, starts, count), number, where):
                pass

        _, pixels, _ = Batches(source, Views(preprocess), batch_size, starts, count)[0]
        images = preprocess.normalise(pixels.to(where))

        def model_alone() -> None:
            for start in starts:
                features, _ = backbone(images[: min(batch_size, count - start)])
            features.cpu()

        def extraction(layers: str | None = None) -> None:
            with contextlib.redirect_stderr(io.StringIO()):
                extract_features(
                    model, folder, "val", Path(folder) / "f", device=device, amp=amp, batch_size=batch_size,
                    workers=workers, **sizes(preprocess), layers=layers, restart=True,
                )  # fmt: skip

        runs = {"model": model_alone, "loader": loader_alone, "extraction": extraction}
        runs["extraction with layers"] = functools.partial(extraction, "auto")
        return rates(runs, count, repeats)


def sizes(preprocess: object) -> dict[str, object]:
    """The transform of an architecture, for a ready module that does not know its own."""
    crop, resize = preprocess.crop, preprocess.resize  # type: ignore[attr-defined]
    return {"img_size": crop, "crop_pct": crop / resize}


def rates(functions: dict[str, Callable[[], None]], count: int, repeats: int) -> dict[str, float]:
    """Median images per second of functions that take turns, the first round left out."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(repeats + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: count / statistics.median(values) for name, values in seconds.items()}


def rows_of(found: dict[str, float], device: str) -> list[Row]:
    """Lines for RESULTS.md."""
    best = min(found["model"], found["loader"])
    together = 1 / (1 / found["model"] + 1 / found["loader"])
    goal = ">= 0.90" if device.startswith("cuda") else ">= 0.95"
    return [
        *(
            Row(f"{name} alone" if name in ("model", "loader") else name, rate, "images/s")
            for name, rate in found.items()
        ),
        Row("extraction / min(model, loader)", found["extraction"] / best, "ratio", goal),
        Row("extraction / both on the same cores", found["extraction"] / together, "ratio"),
        Row("extraction with layers / without", found["extraction with layers"] / found["extraction"], "ratio"),
    ]


def run(size: str, device: str = "cpu") -> list[Row]:
    """For ``python -m benchmarks``."""
    count, arch = SIZES[size]
    return rows_of(measure(arch, count, device, "off", 32, None, 1 if size == "small" else 3), device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="resnet50")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--amp", default="off")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    found = measure(args.arch, args.images, args.device, args.amp, args.batch_size, args.workers, args.repeats)
    for row in rows_of(found, args.device):
        print(f"{row.name:38s} {row.value:10.3f} {row.unit}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
