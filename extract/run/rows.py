"""A network and rows of any form to a feature file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from ltpost.errors import DataError, UsageError, first_line
from ltpost.extract.messages import tell
from ltpost.extract.networks.backbone import Backbone, choose_device
from ltpost.extract.networks.classifier import certain_head_key, head_key_by_running, head_key_of
from ltpost.extract.networks.opening import Network
from ltpost.extract.run.feed import Feed, Known
from ltpost.extract.run.images import ImageFeed
from ltpost.extract.run.layers import cost_of_layers, tapped
from ltpost.extract.run.loop import Job
from ltpost.extract.run.merge import clear_if_joined, merge_if_complete
from ltpost.extract.run.partial import LayerSpec, Spec, is_finished
from ltpost.extract.run.samples import SampleFeed
from ltpost.extract.run.settings import Settings


def extract_rows(network: Network, feed: ImageFeed | SampleFeed, settings: Settings) -> Path:
    """Run the rows of a feed through a network, and write the feature file of ``settings``, or this process's part.

    The network is left as it was: on its device, in its mode, without our hooks.

    Raises:
        UsageError, DataError: as of :func:`~ltpost.extract.extract_features`.
    """
    target, part = settings.target, settings.part
    passing = isinstance(feed, SampleFeed) and not feed.in_order
    if passing and part is not None:
        raise UsageError("data=: these batches come once, so several processes cannot share them; pass a data set")
    with left_as_it_was(network.model) as device_now:
        stays = network.own and settings.device == "auto"
        where = device_now if stays else choose_device(settings.device, part.local if part else None)
        network.model.eval().to(where)
        backbone = Backbone(
            network.model,
            _head_key(network, feed, where),
            device=where,
            amp=settings.amp,
            gated=network.gated,
            compiled=settings.compile,
        )
        spec = _spec(network, backbone, feed, settings)
        if settings.layers is not None:
            spec = _with_layers(spec, tapped(backbone, settings.layers, settings.layers_dtype, feed), settings)
        if part is None or part.index == 0:
            tell(f"{network.arch}, classifier '{backbone.head_key}', on {where}; {feed}")
            if spec.layers:
                tell(cost_of_layers(spec, target))
        job = Job(feed, backbone, spec, settings.restart, settings.max_bad, settings.expect_top1)
        if isinstance(feed, SampleFeed) and passing:
            return job.run_once(target, feed.passing())
        joins = settings.shard is None and part is not None
        if (joins or settings.skip_finished) and not settings.restart and is_finished(target, spec):
            if joins:
                clear_if_joined(target)
            tell(f"{target}: is finished already with these settings; compute it again with ltpost extract --restart")
            return target
        if part is None:
            return job.run(target, slice(0, len(feed)))
        path = job.run(part.path(target), part.rows(len(feed), feed.batch_size), target, part)
        joined = joins and (merge_if_complete(target, part.count) or clear_if_joined(target))
        return target if joined else path


@contextlib.contextmanager
def left_as_it_was(model: nn.Module) -> Iterator[torch.device]:
    """Give the model's device, and at the end restore the device and the training flags.

    Modules that were compiled in place (``module.compile()``) run as they are inside, so that hooks see their inputs.
    """
    flags = {module: (module.training, module._compiled_call_impl) for module in model.modules()}
    first = next(model.parameters(), None)
    device = torch.device("cpu") if first is None else first.device
    try:
        for module in flags:
            module._compiled_call_impl = None
        yield device
    finally:
        model.to(device)
        for module, (training, compiled) in flags.items():
            module.training, module._compiled_call_impl = training, compiled


def _head_key(network: Network, feed: Feed, device: torch.device) -> str:
    """Name of the classifier: as given, or the layer that gives the logits, or the one that is called like one."""
    if network.head_key is None and network.found_by_running and certain_head_key(network.model) is None:
        example = feed.example(device)
        try:
            return head_key_by_running(network.model, example)
        except UsageError:
            pass  # perhaps it is called like one; the loop checks that it gives the logits
        except (RuntimeError, ValueError, TypeError, AssertionError) as error:
            raise DataError(f"the model cannot take {example} ({first_line(error)})") from None
    return head_key_of(network.model, network.head_key)


def _spec(network: Network, backbone: Backbone, feed: Feed, settings: Settings) -> Spec:
    head = backbone.head
    known = feed.known(head.num_classes)
    counts = known.class_counts if known.class_counts is not None else settings.given_counts(head.num_classes)
    if counts is None and not _counted_elsewhere(known, settings):
        tell(
            f"warning: {feed.name}: no train split beside it, so no class counts are stored: many/medium/few is "
            "'–' and logit adjustment cannot run; give --class-counts FILE"
        )
    return Spec(
        labels=known.labels,
        head=None if network.gated else head,
        shape=head.shape,
        dtype=settings.dtype,
        logits=network.gated or settings.stores_logits(len(feed), head.num_classes),
        expert_bias=getattr(network.model, "expert_bias", backbone.expert_bias),
        class_counts=counts,
        class_names=settings.given_names(head.num_classes) or known.class_names,
        paths=known.paths,
        columns=known.columns,
        attrs={
            "split": settings.split,
            "arch": network.arch,
            **network.attrs,
            "head_key": backbone.head_key,
            **({"experts": backbone.num_experts} if backbone.num_experts > 1 else {}),
            **known.attrs,
            "dtype": settings.dtype,
            "amp": settings.amp,
            "torch_version": str(torch.__version__),
        },
    )


def _with_layers(spec: Spec, layers: Mapping[str, LayerSpec], settings: Settings) -> Spec:
    attrs = {**spec.attrs, "layers": ",".join(layers), "layers_dtype": settings.layers_dtype}
    return replace(spec, layers=layers, attrs=attrs)


def _counted_elsewhere(known: Known, settings: Settings) -> bool:
    """Whether class counts come with the last row, or from the training split in the folder of the file."""
    return settings.split == "train" or (settings.target.parent / "train.h5").is_file()
