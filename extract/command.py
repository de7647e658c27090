"""The commands of extraction. Each reads its options, makes one library call, and prints what it wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ltpost.errors import UsageError
from ltpost.extract.option_types import Names, Numbers


@click.command()
@click.option(
    "--ckpt", "model", required=True, metavar="FILE", help="Checkpoint (.pth, .safetensors, …), or a model folder."
)
@click.option(
    "--split",
    "splits",
    type=Names(),
    multiple=True,
    default=["val"],
    show_default=False,
    metavar="NAME",
    help="Which split of the data, or several: train,val,test.  [default: val]",
)
@click.option(
    "--data",
    default="data",
    envvar="LTPOST_DATA",
    show_default=True,
    show_envvar=True,
    help="Folder with SPLIT/CLASS/ folders, SPLIT.npz, a list SPLIT.txt, SPLIT*.tar (WebDataset), CIFAR pickles or a "
    "data set of Hugging Face; or an .npz file. For models of texts or sounds a table SPLIT.csv or SPLIT.parquet.",
)
@click.option("--out", default="features", show_default=True, help="Folder, which gets SPLIT.h5, or a .h5 file.")
@click.option("--arch", help="torchvision or timm name, cifar_resnet32, or module:factory.  [default: from the shapes]")
@click.option(
    "--head-key", help="Name of the classifier layer, or of several: head,head_dist.  [default: the usual one]"
)
@click.option("--expert", metavar="E", help="Which expert of a RIDE or SADE checkpoint, 0, 1, …, or all.")
@click.option("--head-scale", type=float, default=30.0, show_default=True, help="Scale of a cosine classifier (LDAM).")
@click.option(
    "--dataset",
    metavar="NAME",
    help="imagenet-lt, places-lt, inat18 or cifar100-lt: sets mean and std, checks the number of classes.",
)
@click.option(
    "--list",
    "list_file",
    metavar="FILE",
    help="Lines 'path label', or a .csv or .parquet table; {split} in its name stands for the split.",
)
@click.option("--root", metavar="DIR", help="Where the paths of a list start.  [default: --data]")
@click.option(
    "--class-order",
    type=click.Choice(["string", "natural", "frequency"]),
    help="Number classes by their names, sorted as torchvision does or as timm, or the most frequent first.  "
    "[default: string for folders, else the labels as they are]",
)
@click.option("--column", metavar="NAME", help="Column of the texts or sounds of a table.  [default: found]")
@click.option("--label-column", metavar="NAME", help="Column of their labels.  [default: found]")
@click.option("--max-length", type=float, help="Tokens, or seconds of a sound, that are read.  [default: all it takes]")
@click.option(
    "--class-counts",
    metavar="FILE",
    help="Training samples per class: JSON list, one a line, or .npy.  [default: the train split's]",
)
@click.option("--class-names", metavar="FILE", help="Names of the classes, one a line, or JSON.  [default: the data's]")
@click.option("--img-size", type=int, help="Side of the centre crop.  [default: the architecture's]")
@click.option("--crop-pct", type=float, help="img-size / resized shorter side, e.g. 0.875.")
@click.option("--interpolation", help="bilinear, bicubic, …")
@click.option("--mean", type=Numbers(), help="Channel means for pixels in 0..1, e.g. 0.485,0.456,0.406.")
@click.option("--std", type=Numbers(), help="Channel standard deviations.")
@click.option(
    "--channels", type=click.Choice(["rgb", "bgr"]), help="Order of the channels.  [default: the network's, rgb]"
)
@click.option(
    "--weights",
    metavar="KEY",
    help="Which weights of a checkpoint with several, such as state_dict.  [default: averaged or best ones]",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …")
@click.option(
    "--amp", type=click.Choice(["off", "bf16", "fp16"]), default="off", show_default=True, help="Mixed precision."
)
@click.option("--compile", is_flag=True, help="Run the network through torch.compile.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="Type of the stored features.",
)
@click.option("--logits/--no-logits", default=None, help="Store logits too.  [default: yes, train only below 1 GiB]")
@click.option(
    "--layers",
    metavar="TAPS",
    help="Store pooled outputs of earlier layers too: auto, or modules with a pooling each, layer2@4,blocks.5@cls.",
)
@click.option(
    "--layers-dtype",
    type=click.Choice(["float16", "float32"]),
    default="float16",
    show_default=True,
    help="Type of the stored layers.",
)
@click.option("--batch-size", type=int, default=64, show_default=True, help="Images at a time.")
@click.option("--workers", type=int, help="Processes that decode images.  [default: one per core, at most 16]")
@click.option(
    "--views",
    type=int,
    default=1,
    show_default=True,
    help="Rows per image; of val and test in a file of their own, SPLIT-views.h5.",
)
@click.option(
    "--augment",
    type=click.Choice(["standard", "none"]),
    help="Random crop and flip, seeded per row.  [default: standard for several views, else none]",
)
@click.option(
    "--tta",
    type=click.Choice(["off", "flip", "five-crop"]),
    default="off",
    show_default=True,
    help="Average fixed variants of each image; with --views 2 (flip) or 5 store each as a row.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the augmentation.")
@click.option("--max-bad", type=int, help="Stop when more images than this cannot be read.  [default: mark them]")
@click.option("--expect-top1", type=float, help="Fail unless the joint top-1 is within a point of this.")
@click.option("--shard", metavar="I/N", help="Only part I of N (0 <= I < N), joined later by ltpost merge.")
@click.option(
    "--probe",
    "images",
    type=int,
    metavar="N",
    help="Write nothing. Measure on N labelled images how the accuracy depends on mean and std, sizes, crops, the "
    "order of channels and classes, and the weights.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result of --probe as JSON.")
@click.option("--restart", is_flag=True, help="Discard the rows of an interrupted run.  [default: go on from there]")
def extract(splits: tuple[tuple[str, ...], ...], images: int | None, as_json: bool, **options: Any) -> None:
    """Cache the features of a split, or of several: the input of the classifier of a trained network.

    \b
    For example:
      ltpost extract --ckpt r50.pth --split val
      ltpost extract --ckpt r50.pth --split train,val,test
      ltpost extract --ckpt r50.pth --split train --layers auto
      ltpost extract --ckpt r50.pth --split val --probe 500
    """
    from ltpost.extract import extract_splits

    names = [name for several in splits for name in several]
    if images is not None:
        if len(names) != 1:
            raise UsageError(f"--probe takes one --split, not {', '.join(names)}")
        _probe(images, as_json, {**options, "split": names[0]})
        return
    if as_json:
        raise UsageError("--json goes with --probe N; ltpost info --json describes a feature file")
    for path in extract_splits(splits=names, **options):
        click.echo(f"ltpost: wrote {path}", err=True)


def _probe(images: int, as_json: bool, options: dict[str, Any]) -> None:
    """Print which reading of images and labels is best; options that do not concern it are left out."""
    from dataclasses import fields
    from inspect import signature

    from ltpost.extract.run.probe import probe
    from ltpost.extract.run.reading import Reading

    known = {*signature(probe).parameters, *(field.name for field in fields(Reading))}
    report = probe(images=images, **{name: value for name, value in options.items() if name in known})
    click.echo(json.dumps(report.as_dict(), indent=2) if as_json else str(report))


@click.command()
@click.argument("files", nargs=-1, metavar="[FEATURES.h5]...")
def merge(files: tuple[str, ...]) -> None:
    """Join the shards that ltpost extract --shard I/N wrote.

    FEATURES.h5 is the file to write. By default every features/SPLIT.h5 with shards is written.

    \b
    For example:
      ltpost extract --ckpt r50.pth --split train --shard 0/2
      ltpost extract --ckpt r50.pth --split train --shard 1/2
      ltpost merge features/train.h5
    """
    from ltpost.extract.run.merge import merge_shards

    shards = sorted(Path("features").glob("*.shards"))
    for file in files or [str(folder.with_suffix(".h5")) for folder in shards]:
        click.echo(f"ltpost: wrote {merge_shards(file)}", err=True)
    if not files and not shards:
        raise UsageError(
            "features: has no shards; name the feature file to write, as in ltpost merge features/train.h5"
        )


@click.command()
@click.option("--head", required=True, metavar="FILE", help="heads/METHOD.safetensors, as the methods write it.")
@click.option(
    "--ckpt", metavar="FILE", help="The checkpoint that the features came from, or a model folder of transformers."
)
@click.option("--out", metavar="FILE", help="What to write.  [default: the checkpoint's name with -METHOD]")
@click.option(
    "--format",
    type=click.Choice(["checkpoint", "safetensors", "onnx", "torch-head", "torch-export"]),
    default="checkpoint",
    show_default=True,
    help="A copy of the checkpoint, or the head alone; onnx with --ckpt and torch-export are the whole model.",
)
@click.option("--head-key", help="Name of the classifier in the checkpoint.  [default: the one in the feature file]")
@click.option(
    "--features",
    default="features",
    show_default=True,
    metavar="PATH",
    help="Feature file or folder to prove the result on.",
)
@click.option("--arch", help="As for extract; needed for --data and for onnx only.")
@click.option("--data", metavar="PATH", help="Images to run through the exported checkpoint as a further proof.")
@click.option("--split", default="val", show_default=True, help="Which split of --data.")
@click.option(
    "--card", is_flag=True, help="Write beside it what was done, with figures: <name>.md, or a folder's README.md."
)
def export(**options: Any) -> None:
    """Write a rebalanced head back into its checkpoint: container, keys and types stay, only the classifier is new.

    The written file gets its name only after it was loaded again and gave the head's logits on stored rows.
    A head that is not one linear layer, such as one that reads earlier layers, is written with its network.

    \b
    For example:
      ltpost export --head heads/crt.safetensors --ckpt r50.pth --out r50-crt.pth
      ltpost export --head heads/layers.safetensors --ckpt r50.pth --format onnx
    """
    from ltpost.extract.export.checkpoint import export_head

    click.echo(f"ltpost: wrote {export_head(**options)}", err=True)


@click.command("inspect-ckpt")
@click.argument("ckpt", metavar="FILE_OR_FOLDER")
def inspect_ckpt(ckpt: str) -> None:
    """Show the content of a checkpoint: container, candidates for architecture and classifier, unused tensors.

    \b
    For example:
      ltpost inspect-ckpt r50.pth
    """
    from ltpost.extract.networks.inspection import describe

    click.echo(describe(ckpt))


@click.command()
@click.argument("source", metavar="SOURCE")
@click.argument("out", metavar="OUT")
@click.option("--split", help="Name of the split.  [default: from the file names]")
@click.option("--labels", metavar="FILE", help="Labels of a source that has none: .npy, or one a line.")
@click.option(
    "--holds",
    type=click.Choice(["features", "logits"]),
    default="features",
    show_default=True,
    help="What an .npy file is.",
)
@click.option("--probabilities", is_flag=True, help="The logits are probabilities: store their logarithm.")
@click.option(
    "--column",
    metavar="NAME,…",
    help="Column of a table that holds the scores of class 1 of two, or one for each class, in their order.  "
    "[default: found by name]",
)
@click.option(
    "--label-column", metavar="NAME", help="Column of a table that holds the labels.  [default: found by name]"
)
@click.option(
    "--class-names",
    metavar="FILE",
    help="Names of the classes, one a line, or JSON.  [default: from the source, the checkpoint, or the labels sorted]",
)
@click.option("--ckpt", metavar="FILE", help="Take the joint classifier from this checkpoint.")
@click.option("--head-key", help="Name of the classifier in it.")
@click.option("--class-counts", metavar="FILE", help="Training samples per class: JSON list, one a line, or .npy.")
def convert(**options: Any) -> None:
    """Turn cached features or logits of another program into a feature file (.h5), or back.

    Others are .csv and .parquet (columns label, f_0, f_1, …, logit_0, …), .npy with --labels, .npz and .pkl.

    \b
    For example:
      ltpost convert scores.csv features/test.h5 --probabilities
      ltpost convert x.npy features/train.h5 --labels y.npy --ckpt r50.pth
      ltpost convert trainfeat_all.pkl features/train.h5 --ckpt final_model_checkpoint.pth
      ltpost convert features/val.h5 val.npz
    """
    from ltpost.extract.convert import convert as convert_file

    click.echo(f"ltpost: wrote {convert_file(**options)}", err=True)
