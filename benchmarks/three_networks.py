"""Three small networks trained on CIFAR-100-LT with three priors, as BalPoE does, and their features as files.

    CE(z_e + τ_e log π, y),   τ_e = 0, 1, 2

(Aimar et al., "Balanced Product of Calibrated Experts", CVPR 2023, without its mixup.) Each is a CIFAR ResNet of its
own; none shares layers. Every network gets a folder: train, val and test with one plain row per image, and two
augmented views of every image in ``val-views.h5`` and ``test-views.h5``. Training takes about five minutes a network
on one core and is kept in ``benchmarks/cache``.

    python -m benchmarks.three_networks        prints the folders, for ltpost compare --features
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad
from tqdm.auto import tqdm

import ltpost
from ltpost.extract.networks.cifar_resnet import CifarResNet

SHARED = Path(os.environ.get("LTPOST_SHARED_DATA", Path(__file__).parents[1] / "../shared/data"))
CACHE = Path(__file__).parent / "cache" / "three-networks"
MEAN, STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)  # of CIFAR-100
TAUS = (0.0, 1.0, 2.0)
DEPTH, EPOCHS, BATCH, LEARNING_RATE, WEIGHT_DECAY = 8, 30, 128, 0.1, 5e-4


def pixels(images: np.ndarray) -> Tensor:
    """(N, 32, 32, 3) uint8 to (N, 3, 32, 32) float32, normalised."""
    scaled = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return (scaled - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def augmented(images: Tensor, random: torch.Generator) -> Tensor:
    """A random crop of each image with 4 pixels of black around it (0 after normalisation), and a random flip."""
    count, _, height, width = images.shape
    padded = pad(images, (4, 4, 4, 4))
    top, left = torch.randint(0, 9, (2, count, 1), generator=random)
    rows = (torch.arange(height) + top)[:, None, :, None]
    columns = (torch.arange(width) + left)[:, None, None, :]
    flip = torch.rand((count, 1, 1, 1), generator=random) < 0.5
    columns = torch.where(flip, columns.flip(3), columns)
    return padded[torch.arange(count)[:, None, None, None], torch.arange(3)[:, None, None], rows, columns]


def train(images: Tensor, labels: Tensor, log_prior: Tensor, seed: int, epochs: int = EPOCHS) -> CifarResNet:
    """A network by SGD with momentum; the rate rises for two epochs and then falls to 0 as a cosine."""
    torch.manual_seed(seed)
    random = torch.Generator().manual_seed(seed)
    network = CifarResNet(DEPTH, len(log_prior)).to(memory_format=torch.channels_last)
    steps = -(-len(images) // BATCH)
    optimizer = torch.optim.SGD(
        network.parameters(), LEARNING_RATE, momentum=0.9, weight_decay=WEIGHT_DECAY, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, epochs=epochs, steps_per_epoch=steps, pct_start=2 / epochs, cycle_momentum=False
    )
    for epoch in tqdm(range(epochs), desc=f"network {seed}", disable=None):
        started, total = time.perf_counter(), 0.0
        for rows in torch.randperm(len(images), generator=random).split(BATCH):
            batch = augmented(images[rows], random).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                scores = network(batch)
            loss = cross_entropy(scores.float() + log_prior, labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach()) * len(rows)
        print(f"network {seed} epoch {epoch + 1}: {total / len(images):.3f}, {time.perf_counter() - started:.0f} s")
    return network.eval()


def networks() -> list[CifarResNet]:
    """The three networks; those that are not in the cache are trained."""
    data = np.load(SHARED / "cifar100lt_resnet32" / "images.npz")
    counts = torch.from_numpy(data["class_counts"]).double()
    log_prior = (counts / counts.sum()).log().float()
    found = []
    for seed, tau in enumerate(TAUS):
        file = CACHE / f"network{seed}.pth"
        if not file.is_file():
            images, labels = pixels(data["x_train"]), torch.from_numpy(data["y_train"]).long()
            trained = train(images, labels, tau * log_prior, seed)
            CACHE.mkdir(parents=True, exist_ok=True)
            torch.save({"arch": f"resnet{DEPTH}", "state_dict": trained.state_dict(), "tau": tau}, file)
        network = CifarResNet(DEPTH, len(counts)).eval()
        network.load_state_dict(torch.load(file, weights_only=True)["state_dict"])
        found.append(network)
    return found


def with_views(images: np.ndarray, kind: str, count: int, seed: int) -> Tensor:
    """``count`` augmented views of every image, (N, count, 3, 32, 32), normalised.

    Args:
        images: (N, 32, 32, 3) uint8.
        kind: "standard", a crop and a flip as ``ltpost extract --augment standard`` makes them; "sade", with the colour
            jitter, grey and blur of SADE's CIFAR views too.
        count: of views.
        seed: of the augmentation.
    """
    if kind == "standard":
        random = torch.Generator().manual_seed(seed)
        plain = pixels(images)
        return torch.stack([augmented(plain, random) for _ in range(count)], dim=1)
    from torchvision.transforms import v2

    torch.manual_seed(seed)
    change = v2.Compose(
        [
            v2.RandomCrop(32, padding=4),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            v2.RandomGrayscale(p=0.2),
            v2.RandomApply([v2.GaussianBlur(3, (0.1, 2.0))], p=0.2),
            v2.RandomHorizontalFlip(),
        ]
    )
    raw = torch.from_numpy(images).permute(0, 3, 1, 2)
    views = torch.stack([torch.stack([change(image) for _ in range(count)]) for image in raw])
    shape = views.shape
    return pixels(views.flatten(0, 1).permute(0, 2, 3, 1).numpy()).reshape(shape)


@torch.inference_mode()
def features_of(network: CifarResNet, images: Tensor) -> np.ndarray:
    """(N, 64) float32, what the classifier gets."""
    found: list[Tensor] = []
    hook = network.linear.register_forward_hook(lambda _, inputs, __: found.append(inputs[0].float()))
    for batch in images.split(512):
        network(batch.contiguous(memory_format=torch.channels_last))
    hook.remove()
    return torch.cat(found).numpy()


def folders(kind: str = "standard", num_views: int = 2) -> list[Path]:
    """A folder of feature files for each network: train, val, test, and augmented views of val and test."""
    data = np.load(SHARED / "cifar100lt_resnet32" / "images.npz")
    split = np.load(SHARED / "cifar100lt_resnet32" / "split_seed0.npz")
    parts = {
        "train": (data["x_train"], data["y_train"]),
        "val": (data["x_test"][split["val_rows"]], data["y_test"][split["val_rows"]]),
        "test": (data["x_test"][split["test_rows"]], data["y_test"][split["test_rows"]]),
    }
    places = [CACHE / kind / f"network{number}" for number in range(len(TAUS))]
    if all((place / "test-views.h5").is_file() for place in places):
        return places
    inputs = {name: pixels(images) for name, (images, _) in parts.items()}
    for name in ("val", "test"):
        inputs[f"{name}-views"] = with_views(parts[name][0], kind, num_views, seed=len(name)).flatten(0, 1)
    for network, place, tau in zip(networks(), places, TAUS, strict=True):
        weight, bias = network.linear.weight.detach().numpy(), network.linear.bias.detach().numpy()
        for name, images in inputs.items():
            labels, columns = parts[name.removesuffix("-views")][1].astype(np.int64), {}
            if name.endswith("-views"):
                columns = {
                    "sample": np.repeat(np.arange(len(labels)), num_views),
                    "view": np.tile(np.arange(num_views), len(labels)),
                }
                labels = np.repeat(labels, num_views)
            ltpost.FeatureSet(
                features_of(network, images),
                labels,
                head=ltpost.LinearHead(weight, bias),
                class_counts=data["class_counts"],
                split=name.removesuffix("-views"),
                attrs={"arch": f"cifar_resnet{DEPTH}", "tau": tau},
                **columns,
            ).save(place / f"{name}.h5")
    return places


if __name__ == "__main__":
    print(",".join(map(str, folders())))
