import math
from collections import Counter

import pytest
import torch

from tacit.data import Dataset
from tacit.errors import ArgumentError
from tacit.losses import nt_xent
from tacit.nn import ResNet
from tacit.pretrain import GSimCLR, spread_batches
from tacit.pretrain._g_simclr import DenoisingAutoencoder


@pytest.mark.parametrize("sizes", [[5, 5, 5, 5], [9, 6, 3, 2], [1, 1, 1, 17], [20]])
@pytest.mark.parametrize("batch_size", [4, 5])
def test_labels_are_spread_as_evenly_as_can_be(sizes, batch_size):
    labels = torch.tensor([label for label, size in enumerate(sizes) for _ in range(size)])[torch.randperm(20)]
    batches = [batch.tolist() for batch in spread_batches(labels, batch_size, torch.Generator().manual_seed(1))]
    assert sorted(item for batch in batches for item in batch) == list(range(20))  # each once
    for batch in batches:
        for label, times in Counter(labels[batch].tolist()).items():
            assert times <= math.ceil(sizes[label] / len(batches))


def test_with_clusters_of_one_size_a_batch_has_one_of_each():
    labels = (torch.arange(60) % 6)[torch.randperm(60)]
    for batch in spread_batches(labels, 6, torch.Generator()):
        assert sorted(labels[batch].tolist()) == list(range(6))


def test_each_epoch_meets_others_and_what_is_left_over_is_drawn():
    labels = torch.arange(60) % 6
    generator = torch.Generator().manual_seed(0)
    first, second = ({frozenset(b.tolist()) for b in spread_batches(labels, 6, generator)} for _ in range(2))
    assert len(first & second) <= 1
    left = Counter()
    for _ in range(300):
        left.update(set(range(60)) - {int(i) for batch in spread_batches(labels, 8, generator) for i in batch})
    assert min(left[i] for i in range(60)) > 5
    assert max(left.values()) < 45


def test_clusters_are_those_of_the_images():
    """Dark and bright images, which any autoencoder tells apart."""
    x = torch.randint(0, 30, (40, 3, 16, 16), dtype=torch.uint8)
    x[::2] += 200
    learner = GSimCLR(ResNet(8, width=4, image_size=16), hidden_dim=8, n_clusters=2, autoencoder_epochs=3)
    learner.before_fit(Dataset({"x": x}, modality="image"))
    assert len(set(learner.labels[::2].tolist())) == len(set(learner.labels[1::2].tolist())) == 1
    for batch in learner.batches(Dataset({"x": x}, modality="image"), 2, torch.Generator()):
        assert sorted((batch % 2).tolist()) == [0, 1]


def test_loss_is_nt_xent_and_the_autoencoder_paints_without_the_noise(mirror, images, monkeypatch):
    learner = GSimCLR(ResNet(8, width=4, image_size=8), views=mirror, hidden_dim=8, temperature=0.3)
    a, b = (learner.projector(learner.encoder(view)) for view in mirror(images))
    torch.testing.assert_close(learner.loss(images), nt_xent(a, b, 0.3))
    autoencoder = DenoisingAutoencoder(ResNet(8, width=4, image_size=8), noise=0.5).eval()
    monkeypatch.setattr(torch, "randn_like", torch.ones_like)
    x = images.float() / 255 if images.dtype == torch.uint8 else images
    expected = (autoencoder.decoder(autoencoder.encoder(x + 0.5)) - x).square().mean()
    torch.testing.assert_close(autoencoder.loss(images), expected)


def test_what_cannot_be_is_refused():
    with pytest.raises(ArgumentError, match="n_clusters=1"):
        GSimCLR(ResNet(8, width=4, image_size=8), n_clusters=1)
