"""``ltpost extract``: read the options, one library call, say what was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ltpost.errors import UsageError


class Numbers(click.ParamType):
    """Numbers separated by commas or spaces, e.g. 0.485,0.456,0.406."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Text to floats."""
        if not isinstance(value, str):
            return tuple(value)
        try:
            return tuple(float(word) for word in value.replace(",", " ").split())
        except ValueError:
            self.fail(f"must be numbers like 0.485,0.456,0.406, but is '{value}'", param, ctx)


@click.command()
@click.option("--ckpt", "model", required=True, metavar="FILE", help="Checkpoint (.pth, .pt, .tar, .safetensors, …).")
@click.option("--split", default="val", show_default=True, help="Which split of the data.")
@click.option(
    "--data",
    default="data",
    envvar="LTPOST_DATA",
    show_default=True,
    show_envvar=True,
    help="Folder with SPLIT/CLASS/ folders, SPLIT.npz or SPLIT.txt; or an .npz file.",
)
@click.option("--out", default="features", show_default=True, help="Folder, which gets SPLIT.h5, or a .h5 file.")
@click.option("--arch", help="torchvision or timm name, cifar_resnet32, or module:factory.  [default: from the shapes]")
@click.option("--head-key", help="Name of the classifier layer.  [default: found]")
@click.option("--list", "list_file", metavar="FILE", help="Lines 'path label' instead of a folder tree.")
@click.option("--root", metavar="DIR", help="Where the paths of a list start.  [default: --data]")
@click.option(
    "--class-counts",
    metavar="FILE",
    help="Training samples per class: JSON list, one a line, or .npy.  [default: the train split's]",
)
@click.option("--img-size", type=int, help="Side of the centre crop.  [default: the architecture's]")
@click.option("--crop-pct", type=float, help="img-size / resized shorter side, e.g. 0.875.")
@click.option("--interpolation", help="bilinear, bicubic, …")
@click.option("--mean", type=Numbers(), help="Channel means for pixels in 0..1, e.g. 0.485,0.456,0.406.")
@click.option("--std", type=Numbers(), help="Channel standard deviations.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …")
@click.option(
    "--amp", type=click.Choice(["off", "bf16", "fp16"]), default="off", show_default=True, help="Mixed precision."
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="Of the stored features.",
)
@click.option("--logits/--no-logits", default=None, help="Store logits too.  [default: yes, train only below 1 GiB]")
@click.option("--batch-size", type=int, default=64, show_default=True, help="Images at a time.")
@click.option("--workers", type=int, help="Processes that decode images.  [default: one per core, at most 8]")
@click.option("--shard", metavar="I/N", help="Only part I of N (0 <= I < N), joined later by ltpost merge.")
@click.option("--restart", is_flag=True, help="Discard the rows of an interrupted run.  [default: go on from there]")
def extract(**options: Any) -> None:
    r"""Cache the features of one split: what enters the classifier of a trained network.

    \b
    Example:
      ltpost extract --ckpt r50.pth --split val
    """
    from ltpost.extract import extract_features

    path: Path = extract_features(**options)
    click.echo(f"ltpost: wrote {path}", err=True)


@click.command()
@click.argument("files", nargs=-1, metavar="[FEATURES.h5]...")
def merge(files: tuple[str, ...]) -> None:
    r"""Join the shards that ltpost extract --shard I/N wrote.

    FEATURES.h5 is the file to be; by default every features/SPLIT.h5 that has shards.

    \b
    Example:
      ltpost extract --ckpt r50.pth --split train --shard 0/2
      ltpost extract --ckpt r50.pth --split train --shard 1/2
      ltpost merge features/train.h5
    """
    from ltpost.extract.shards import merge_shards

    shards = sorted(Path("features").glob("*.shards"))
    for file in files or [str(folder.with_suffix(".h5")) for folder in shards]:
        click.echo(f"ltpost: wrote {merge_shards(file)}", err=True)
    if not files and not shards:
        raise UsageError("features: has no shards; name the feature file to be, as in ltpost merge features/train.h5")
