import numpy as np
import pytest
import torch
from torch import nn

from tacit.data import Dataset
from tacit.errors import ArgumentError
from tacit.nn import ResNet
from tacit.pretrain import ClusterFit
from tacit.pretrain._clusterfit import clusters
from tacit.training import fit


class Colour(nn.Module):
    """A network of one feature for each colour."""

    dim = 3

    def forward(self, x):
        return x.mean((2, 3))


class AsIs(nn.Module):
    def forward(self, x):
        return x


def tinted(n=30, seed=0):
    """Images of three tints, one after the other."""
    draw = torch.Generator().manual_seed(seed)
    tints = torch.eye(3)[torch.arange(n) % 3]
    return (tints[:, :, None, None] * 0.8 + 0.2 * torch.rand(n, 3, 8, 8, generator=draw)).clamp(0, 1)


def made(**arguments):
    torch.manual_seed(0)
    return ClusterFit(ResNet(8, width=4, image_size=8), views=AsIs(), **{"n_clusters": 3, **arguments})


def test_labels_are_the_clusters_of_the_pretrained_networks_features():
    learner = made(pretrained=Colour())
    learner.before_fit(Dataset({"x": tinted()}))
    names = learner.labels[:3].tolist()
    assert sorted(names) == [0, 1, 2]
    assert learner.labels.tolist() == names * 10


def test_clusters_are_lloyds_fixed_point():
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    found = clusters(x, 5)
    rows = (x / x.norm(dim=1, keepdim=True)).numpy()
    centres = np.stack([rows[found == k].mean(0) for k in range(5)])
    for row, label in zip(rows, found, strict=True):
        assert np.argmin([((row - centre) ** 2).sum() for centre in centres]) == label


def test_loss_is_cross_entropy_on_the_label_of_each_item():
    learner = made(pretrained=Colour()).eval()
    x = tinted()
    learner.before_fit(Dataset({"x": x}))
    index = torch.tensor([4, 11, 6])
    logits = learner.head(learner.encoder(x[index])).double()
    expected = 0.0
    for row, item in zip(logits, index, strict=True):
        expected -= (row[learner.labels[item]].exp() / row.exp().sum()).log() / 3
    torch.testing.assert_close(learner.loss(x[index], index).double(), expected, rtol=1e-5, atol=1e-6)


def test_the_pretrained_network_is_neither_trained_nor_saved():
    given = nn.Sequential(nn.Flatten(), nn.Linear(192, 5))
    before = given[1].weight.clone()
    learner = fit(made(pretrained=given), {"x": tinted()}, max_steps=2, batch_size=10)
    assert torch.equal(given[1].weight, before)
    assert given[1].weight.requires_grad
    assert not any("pretrained" in name for name in learner.state_dict())


def test_without_one_patch_k_means_is_solved_first_and_few_images_make_few_clusters():
    learner = made(n_clusters=50)
    learner.before_fit(Dataset({"x": tinted(12)}))
    assert len(learner.labels.unique()) <= 12
    assert learner.labels.max() < 50


def test_one_cluster_is_refused():
    with pytest.raises(ArgumentError, match="n_clusters=1"):
        made(n_clusters=1)
