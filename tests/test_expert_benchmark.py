"""The parts of the benchmark of experts that make its data."""

import numpy as np
import pytest
import torch
from conftest import COUNTS, make_split

from benchmarks.experts import skewed
from benchmarks.three_networks import MEAN, STD, augmented, pixels, train, with_views


def test_pixels_are_normalised():
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    found = pixels(images)
    assert float(found[1, 2, 5, 7]) == pytest.approx((images[1, 5, 7, 2] / 255 - MEAN[2]) / STD[2], abs=1e-6)


def test_augmented_images_are_windows_of_the_padded_ones():
    images = torch.rand(5, 3, 8, 8) + 1
    found = augmented(images, torch.Generator().manual_seed(0))
    for image, view in zip(images, found, strict=True):
        padded = np.pad(image.numpy(), ((0, 0), (4, 4), (4, 4)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 8, 8))[0]
        candidates = np.concatenate([windows, windows[..., ::-1]]).reshape(-1, 3, 8, 8)
        assert (candidates == view.numpy()).all((1, 2, 3)).sum() == 1


def test_views_of_every_image():
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    views = with_views(images, "standard", 2, seed=0)
    assert views.shape == (3, 2, 3, 32, 32)
    assert not torch.equal(views[:, 0], views[:, 1])


def test_a_network_learns_the_prior_that_it_is_not_given():
    """With log π added in training, it has to learn the rest of the prior alone: here, none."""
    images = torch.zeros(256, 3, 8, 8)
    labels = (torch.arange(256) % 8 == 0).long()  # 7 of class 0 to 1 of class 1
    log_prior = torch.tensor([7 / 8, 1 / 8]).log()
    plain, balanced = (train(images, labels, tau * log_prior, seed=0, epochs=30) for tau in (0, 1))
    with torch.inference_mode():
        gaps = [float((logits := network(images[:1])[0])[0] - logits[1]) for network in (plain, balanced)]
    assert gaps[0] > gaps[1] + 1
    assert abs(gaps[1]) < 0.5


def test_skewed_rows():
    test = make_split("test", 50)
    for factor in (0.1, 10.0):
        counts = np.bincount(skewed(test, factor).labels, minlength=10)
        assert (counts.max(), counts.min()) == (50, 5)
        assert (np.diff(counts) <= 0).all() == (factor < 1)  # COUNTS fall from class to class
    assert (np.diff(COUNTS) < 0).all()
