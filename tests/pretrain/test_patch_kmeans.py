from itertools import pairwise

import pytest
import torch
from sklearn.cluster import KMeans
from torch.nn.functional import normalize

from tacit.data import Dataset, named
from tacit.errors import ArgumentError
from tacit.evaluate import knn_accuracy
from tacit.learner import load_state
from tacit.pretrain._patch_kmeans import (
    CONTRAST_EPS,
    PatchKMeans,
    _agreeing,
    _turned,
    kmeans,
    normalise_contrast,
    whitening_error,
    zca,
)
from tacit.training import fit

PAPER = {"activation": "triangle", "patch_size": 6, "pool": 2, "power": 1.0, "n_views": 0, "whiten": 1.0}


def images_of(n, channels=3, size=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, channels, size, size), generator=generator, dtype=torch.uint8)


def fitted(images, **arguments):
    sizes = {"image_size": images.shape[-1], "in_channels": images.shape[1], "n_clusters": 9, "n_components": 5}
    return fit(PatchKMeans(**{**sizes, **arguments}), Dataset({"x": images}, modality="image"), max_steps=1)


def activation(encoder, z, k):
    """Coates et al., section 3.2.2, for one whitened patch; or the threshold."""
    if encoder.activation == "threshold":
        return max(0.0, float(z @ encoder.atoms[k].double()) - 1)
    distances = [float((z - c.double()).norm()) for c in encoder.atoms]
    return max(0.0, sum(distances) / len(distances) - distances[k])


@pytest.mark.parametrize("activation_name", ["triangle", "threshold"])
def test_features_equal_the_papers_equations_in_a_slow_loop(activation_name):
    images = images_of(30)
    encoder = fitted(images, **{**PAPER, "activation": activation_name, "fast": False}).encoder
    x = encoder.prepare(images[:2])
    found = encoder.features(x).reshape(2, 9, 2, 2)
    p, cells = encoder.patch_size, [range(0, 4), range(3, 7)]  # 7 positions, halved
    assert p == 6
    for i in range(2):
        for r, rows in enumerate(cells):
            for c, columns in enumerate(cells):
                total = torch.zeros(9, dtype=torch.double)
                for y in rows:
                    for left in columns:
                        patch = x[i, :, y : y + p, left : left + p].reshape(-1).double()
                        patch = patch - patch.mean()
                        patch = patch / (patch.pow(2).mean() + CONTRAST_EPS).sqrt()
                        z = encoder.whitening.double() @ (patch - encoder.patch_mean.double())
                        total += torch.tensor([activation(encoder, z, k) for k in range(9)])
                mean = total / (len(rows) * len(columns))
                torch.testing.assert_close(found[i, :, r, c].double(), mean, atol=2e-5, rtol=1e-4)


def test_bfloat16_changes_the_features_little():
    images = images_of(40)
    encoder = fitted(images, fast=False).encoder
    exact = encoder.features(encoder.prepare(images))
    encoder.fast = True
    assert (encoder.features(encoder.prepare(images)) - exact).norm() < 0.02 * exact.norm()


def test_zca_whitens_and_is_symmetric():
    patches = torch.randn(3000, 12, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.5, 3, 12) + 4
    mean, whitening = zca(patches, eps=0.0)
    torch.testing.assert_close(torch.cov(((patches - mean) @ whitening).T), torch.eye(12), atol=1e-4, rtol=0)
    torch.testing.assert_close(whitening, whitening.T)


def test_contrast_is_normalised():
    patches = 7 + 3 * torch.randn(5, 200, generator=torch.Generator().manual_seed(0))
    normal = normalise_contrast(patches, eps=0.0)
    torch.testing.assert_close(normal, normalise_contrast(2 * patches + 1, eps=0.0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(normal.var(1, correction=0), torch.ones(5))


def test_kmeans_equals_scikit_learn_from_the_same_start():
    x = torch.randn(400, 6, generator=torch.Generator().manual_seed(3))
    start = x[:8]
    ours = kmeans(x, start, steps=30)
    theirs = KMeans(8, init=start.numpy(), n_init=1, max_iter=30, tol=0, algorithm="lloyd").fit(x.numpy())
    torch.testing.assert_close(ours, torch.from_numpy(theirs.cluster_centers_), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("spherical", [False, True])
def test_kmeans_objective_never_gets_worse(spherical):
    x = torch.randn(500, 5, generator=torch.Generator().manual_seed(4))
    centres = normalize(x[:7]) if spherical else x[:7]
    costs = []
    for _ in range(8):
        cost = -(x @ centres.T).max(1).values.sum() if spherical else torch.cdist(x, centres).min(1).values.pow(2).sum()
        costs.append(float(cost))
        centres = kmeans(x, centres, steps=1, spherical=spherical)
    assert all(after <= before + 1e-3 for before, after in pairwise(costs))
    assert costs[-1] < costs[0]


def test_agreeing_directions_solve_the_generalised_eigenproblem():
    generator = torch.Generator().manual_seed(5)
    a, b = (torch.randn(6, 20, generator=generator).double() for _ in range(2))
    within, between = a @ a.T, b @ b.T
    found = _agreeing(within, between, 0.0, 3).double()
    values = torch.linalg.eigvals(torch.linalg.solve(within, between)).real.sort(descending=True).values[:3]
    ratios = (found * (between @ found)).sum(0) / (found * (within @ found)).sum(0)
    torch.testing.assert_close(ratios, values, rtol=1e-4, atol=1e-4)


def test_the_turn_keeps_distances_and_spreads_the_variance():
    torch.manual_seed(0)
    x = torch.randn(300, 10)
    directions = torch.randn(10, 6) * torch.tensor([100.0, 1, 1, 1, 1, 1])
    before, after = x @ directions, x @ _turned(directions, 6)
    torch.testing.assert_close(torch.cdist(before, before), torch.cdist(after, after), atol=0.5, rtol=1e-3)
    assert after.var(0).max() / after.var(0).min() < before.var(0).max() / before.var(0).min() / 5


def test_the_papers_recipe_whitens_the_embedding():
    images = images_of(300)
    encoder = fitted(images, **PAPER, fast=False).encoder
    z = encoder(encoder.prepare(images))
    torch.testing.assert_close(torch.cov(z.T), torch.eye(5), atol=2e-2, rtol=0)


def test_a_moved_pattern_moves_its_activations():
    """With one cell for the whole image, features do not change when the content wraps round a flat margin."""
    encoder = fitted(images_of(30, size=16), patch_size=4, pool=1, power=1.0, fast=False).encoder
    x = torch.full((1, 3, 16, 16), 0.5)
    x[..., 5:9, 5:9] = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(encoder.features(x), encoder.features(x.roll((1, -2), (2, 3))), atol=1e-5, rtol=1e-4)


def test_items_do_not_see_one_another():
    images = images_of(40)
    encoder = fitted(images).encoder
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    x = encoder.prepare(images)
    torch.testing.assert_close(encoder(x)[order], encoder(x[order]), atol=1e-3, rtol=1e-3)


def test_digits_are_told_apart():
    (x, y), (test_x, test_y) = named("digits", "train"), named("digits", "test")
    encoder = fitted(torch.from_numpy(x), n_clusters=60, n_components=48).encoder
    embed = [encoder(encoder.prepare(torch.from_numpy(images))) for images in (x, test_x)]
    assert knn_accuracy(embed[0], y, embed[1], test_y).value > 0.9


@pytest.mark.parametrize("arguments", [{}, PAPER])
@pytest.mark.parametrize("images", [torch.full((5, 3, 12, 12), 7, dtype=torch.uint8), images_of(2), images_of(3, 1, 8),
                                    images_of(4, 1, 2), images_of(3, 3, 64)])  # fmt: skip
def test_constant_few_and_tiny_images(images, arguments):
    encoder = fitted(images, **{**arguments, "n_components": 16}).encoder
    z = encoder(encoder.prepare(images))
    assert z.shape == (len(images), encoder.dim)
    assert torch.isfinite(z).all()
    assert torch.isfinite(encoder(encoder.prepare(images_of(4, images.shape[1], images.shape[-1], seed=9)))).all()


def test_same_seed_same_encoder_and_it_survives_a_state_dict():
    images = images_of(50)
    first, second = fitted(images), fitted(images)
    x = first.encoder.prepare(images)
    assert torch.equal(first.encoder(x), second.encoder(x))
    fresh = PatchKMeans(image_size=12, in_channels=3, n_clusters=9, n_components=5)
    load_state(fresh, first.state_dict())
    assert torch.equal(fresh.encoder(x), first.encoder(x))


def test_fits_under_bfloat16():
    images = images_of(50)
    sizes = {"image_size": 12, "in_channels": 3, "n_clusters": 9, "n_components": 5}
    learner = fit(PatchKMeans(**sizes), Dataset({"x": images}, modality="image"), max_steps=1, precision="bf16-mixed")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.isfinite(learner.encoder(learner.encoder.prepare(images))).all()


def test_wrong_arguments_are_refused():
    with pytest.raises(ArgumentError, match=r"activation='triangel'.*triangle"):
        PatchKMeans(activation="triangel")
    with pytest.raises(ArgumentError, match="n_views=3"):
        PatchKMeans(n_views=3)


def test_checked_property():
    measured, expected = whitening_error()
    assert abs(measured - expected) < whitening_error.checked.tolerance
