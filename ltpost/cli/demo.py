"""``ltpost demo``: the whole way on real images."""

from __future__ import annotations

import time
from pathlib import Path

import click

OWN = """
The same with a network and images of your own (data/<split>/<class>/..., see ltpost extract --help):
   $ ltpost extract --ckpt r50.pth --split train
   $ ltpost extract --ckpt r50.pth --split val
   $ ltpost extract --ckpt r50.pth --split test
   $ ltpost tnorm --tau-grid 0:2:0.1
   $ ltpost compare
   $ ltpost export --head heads/tnorm.safetensors --ckpt r50.pth"""


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("ltpost-demo"),
    show_default=True,
    help="Folder for everything that it makes.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the split, the network and the methods.")
def demo(out: Path, seed: int) -> None:
    """Train a small network on long-tailed digits, rebalance it by every method, compare.

    Example: ltpost demo
    """
    from ltpost.demo import run_demo

    started = time.perf_counter()
    run_demo(out, seed=seed, say=click.echo)
    click.echo(f"Done in {time.perf_counter() - started:.0f} s.")
    click.echo(OWN)
