import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator
from torch import nn

from tacit.errors import ArgumentError, DataError
from tacit.fewlabels import FUNGI, DINOObjective, KLObjective, SimCLRObjective, overlapping_patches
from tacit.nn import ResNet, ViT

SMALL = partial(SimCLRObjective, patches_per_side=2, n_negatives=3, head_dim=5)
FEW = partial(DINOObjective, n_local=2, head_dim=7)


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return ViT(16, embed_dim=8, num_layers=2, num_heads=2)


@pytest.fixture
def photos():
    return np.random.default_rng(0).integers(0, 256, (6, 3, 16, 16), np.uint8)


def slow_kl(objective, encoder, x):
    """KL(uniform || softmax) as torch has it."""
    vector = encoder(x[None])
    logits = objective.head(vector / vector.norm()) / objective.temperature
    uniform = torch.full_like(logits, 1 / logits.shape[1])
    return F.kl_div(logits.log_softmax(1), uniform, reduction="batchmean")


def slow_simclr(objective, encoder, x):
    """Of each pair of views: minus the log of its share among all that the view meets."""
    views = objective.head(encoder(overlapping_patches(x[None], 2)[0]))
    total, count = 0.0, len(views)
    for i, j in ((i, j) for i in range(count) for j in range(count) if i != j):
        others = [F.cosine_similarity(views[i], views[k], dim=0) for k in range(count) if k != i]
        others += [F.cosine_similarity(views[i], z, dim=0) for z in objective.negatives]
        shares = torch.stack(others) / objective.temperature
        total = total - (F.cosine_similarity(views[i], views[j], dim=0) / objective.temperature - shares.logsumexp(0))
    return total / (count * (count - 1))


SLOW = {KLObjective: slow_kl, SimCLRObjective: slow_simclr}


@pytest.mark.parametrize("objective", [KLObjective, SMALL])
@pytest.mark.parametrize("bias", [True, False])
def test_gradients_of_each_item_against_a_loop_with_autograd(encoder, photos, objective, bias):
    layer = encoder.blocks[1].attention.out
    if not bias:
        layer.register_parameter("bias", None)
    fungi = FUNGI(encoder, objectives=(objective,), random_state=0).fit(photos)
    found = fungi.gradients(photos)
    slow, weights = SLOW[type(fungi.objectives_[0])], [w for w in (layer.weight, layer.bias) if w is not None]
    for x, gradient in zip(encoder.prepare(photos), found, strict=True):
        expected = torch.autograd.grad(slow(fungi.objectives_[0], encoder, x), weights)
        torch.testing.assert_close(gradient, torch.cat([e.flatten() for e in expected]), rtol=1e-3, atol=1e-6)


def test_loss_of_dino_against_its_sum(encoder):
    torch.manual_seed(1)
    objective, vectors = FEW(8), torch.randn(4, 8, requires_grad=True)
    unit = [v / v.norm() for v in vectors]
    expected = 0.0
    for a in range(2):
        aim = (objective.teacher(unit[a]) / 0.07).softmax(0).detach()
        for b in range(4):
            expected = expected - (aim * (objective.student(unit[b]) / 0.1).log_softmax(0)).sum()
    torch.testing.assert_close(objective(vectors), expected)
    ours, theirs = (torch.autograd.grad(loss, vectors)[0] for loss in (objective(vectors), expected))
    torch.testing.assert_close(ours, theirs)


def test_two_items_of_a_batch_do_not_touch(encoder, photos):
    fungi = FUNGI(encoder, objectives=("kl", SMALL), random_state=0).fit(photos)
    whole = fungi.transform(photos)
    np.testing.assert_allclose(fungi.set_params(batch_size=1).transform(photos), whole, atol=1e-5)
    np.testing.assert_allclose(fungi.transform(photos[::-1]), whole[::-1], atol=1e-5)


def test_features_are_unit_blocks_of_embedding_and_projected_gradients(encoder, photos):
    fungi = FUNGI(encoder, objectives=("kl", SMALL), projection_dim=5, random_state=0).fit(photos)
    found = fungi.transform(photos)
    signs = fungi.projection_.float()
    assert signs.shape == (5, 8 * 8 + 8)
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    with torch.no_grad():
        blocks = [encoder(encoder.prepare(photos)), *(fungi.gradients(photos, o) @ signs.T for o in range(2))]
    expected = np.concatenate([(b / b.norm(dim=1, keepdim=True)).numpy() for b in blocks], axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.dtype == np.float32
    assert len(fungi.get_feature_names_out()) == found.shape[1] == 18


def test_random_signs_keep_the_angles_of_gradients(encoder, photos):
    """Achlioptas (2001): inner products survive within about 1 / sqrt(projection_dim)."""
    fungi = FUNGI(encoder, objectives=("kl",), projection_dim=4096, random_state=0).fit(photos)
    exact = F.normalize(fungi.gradients(photos), dim=1)
    kept = fungi.transform(photos)[:, 8:]
    np.testing.assert_allclose(kept @ kept.T, (exact @ exact.T).numpy(), atol=0.08)


def test_direction_of_the_kl_gradient_is_the_same_at_any_high_temperature(encoder, photos):
    """Softmax is linear there: the gradient is 1 / (k t^2) times that of the variance of the logits."""
    found = []
    for temperature in (15.0, 60.0):
        hot = partial(KLObjective, temperature=temperature)
        found.append(FUNGI(encoder, objectives=(hot,), random_state=0).fit(photos).gradients(photos).double())
    ratio = (found[0].norm(dim=1) / found[1].norm(dim=1)).numpy()
    np.testing.assert_allclose(ratio, 16, rtol=0.05)
    assert F.cosine_similarity(*found).min() > 0.99


def test_kl_of_an_indifferent_head_is_zero():
    objective = KLObjective(4, head_dim=6)
    nn.init.zeros_(objective.head.weight)
    nn.init.zeros_(objective.head.bias)
    assert objective(torch.randn(1, 4)).item() == pytest.approx(0, abs=1e-6)
    assert KLObjective(4, head_dim=6, temperature=1.0)(torch.randn(1, 4)).item() > 0


def test_simclr_of_views_that_are_all_alike_is_the_log_of_their_number():
    objective = SimCLRObjective(4)
    assert objective(torch.ones(5, 4)).item() == pytest.approx(math.log(4), abs=1e-5)


def test_negatives_are_the_views_of_the_bank(encoder, photos):
    fungi = FUNGI(encoder, objectives=(partial(SMALL, n_negatives=99),), random_state=0).fit(photos)
    objective = fungi.objectives_[0]
    with torch.no_grad():
        views = overlapping_patches(encoder.prepare(photos), 2).flatten(0, 1)
        expected = F.normalize(objective.head(encoder(views)), dim=1)
    # in an order of their own
    torch.testing.assert_close((expected @ objective.negatives.T).max(1).values, torch.ones(24))
    assert objective.negatives.shape == (24, 5)


def test_patches_are_squares_of_half_the_side_at_even_places():
    ramp = torch.linspace(0, 1, 16).expand(1, 1, 16, 16)
    patches = overlapping_patches(ramp, 3)[0, :, 0]
    assert patches.shape == (9, 16, 16)
    for number, patch in enumerate(patches):
        left = (0, 4, 8)[number % 3]
        assert patch.mean().item() == pytest.approx(ramp[..., left : left + 8].mean().item(), abs=2e-3)
    torch.testing.assert_close(overlapping_patches(ramp.mT, 3)[0, 2].mean(), patches[0].mean(), atol=2e-3, rtol=0)


def test_pca_is_scikit_learns_on_the_bank(encoder, photos):
    plain = FUNGI(encoder, objectives=("kl",), random_state=0).fit(photos)
    reduced = FUNGI(encoder, objectives=("kl",), n_components=3, random_state=0).fit(photos)
    expected = PCA(3, random_state=0).fit(plain.transform(photos)).transform(plain.transform(photos))
    np.testing.assert_allclose(np.abs(reduced.transform(photos)), np.abs(expected), atol=1e-4)
    again = FUNGI(encoder, objectives=("kl",), n_components=3, random_state=0).fit_transform(photos)
    np.testing.assert_allclose(again, reduced.transform(photos), atol=1e-5)


def test_the_encoder_and_the_random_state_are_left_as_they_were(encoder, photos):
    encoder.train()
    before, state = {k: v.clone() for k, v in encoder.state_dict().items()}, torch.get_rng_state()
    FUNGI(encoder, objectives=("kl", SMALL, FEW)).fit_transform(photos)
    assert encoder.training
    assert all(p.grad is None and p.requires_grad for p in encoder.parameters())
    assert all(torch.equal(before[k], v) for k, v in encoder.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_the_same_random_state_gives_the_same_features(encoder, photos):
    first, second = (FUNGI(encoder, objectives=("kl", SMALL, FEW), random_state=3).fit_transform(photos) for _ in "ab")
    np.testing.assert_array_equal(first, second)
    other = FUNGI(encoder, objectives=("kl",), random_state=4).fit_transform(photos)
    assert not np.allclose(first[:, 8:16], other[:, 8:])


def test_another_layer_and_networks_without_attention(photos):
    torch.manual_seed(0)
    network = ResNet(8, width=2, image_size=16)
    with pytest.raises(ArgumentError, match=r"no attention that is known; name one of .*conv2"):
        FUNGI(network).fit(photos)
    fungi = FUNGI(network, objectives=("kl",), layer="stages.2.0.conv2", random_state=0).fit(photos)
    found = fungi.gradients(photos[:2])
    network.eval()
    loss = slow_kl(fungi.objectives_[0], network, network.prepare(photos)[1])
    (expected,) = torch.autograd.grad(loss, network.get_submodule("stages.2.0.conv2").weight)
    torch.testing.assert_close(found[1], expected.flatten(), rtol=1e-3, atol=1e-7)


def test_views_of_ones_own_on_other_data():
    """Vectors instead of images, each with two noisy copies as its views."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    noisy = partial(SimCLRObjective, augment=lambda x: torch.stack([x, x + 0.1 * torch.randn_like(x)], 1))
    X = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    assert FUNGI(network, objectives=("kl", noisy), layer="2", random_state=0).fit_transform(X).shape == (7, 9)


def test_in_a_pipeline_and_as_an_estimator(encoder, photos):
    y = np.arange(6) % 2
    pipeline = make_pipeline(FUNGI(encoder, objectives=("kl",), random_state=0), KNeighborsClassifier(1)).fit(photos, y)
    assert pipeline.predict(torch.from_numpy(photos)).tolist() == y.tolist()
    assert clone(pipeline[0]).get_params()["objectives"] == ("kl",)
    with pytest.warns(match="Can't test estimator"):  # its tags say that tables are no input
        check_estimator(FUNGI())


def test_what_cannot_be_is_refused(encoder, photos):
    with pytest.raises(ArgumentError, match="encoder=None"):
        FUNGI().fit(photos)
    with pytest.raises(ArgumentError, match=r"objectives='simcrl'.*did you mean 'simclr'"):
        FUNGI(encoder, objectives=("simcrl",)).fit(photos)
    with pytest.raises(ArgumentError, match=r"layer='blocks\.7\.attention\.out'"):
        FUNGI(encoder, layer="blocks.7.attention.out").fit(photos)
    with pytest.raises(ArgumentError, match=r"layer='blocks'.*weight"):
        FUNGI(encoder, layer="blocks").fit(photos)
    with pytest.raises(ArgumentError, match="n_components=7: expected 1 to 6"):
        FUNGI(encoder, objectives=("kl",), n_components=7).fit(photos)
    with pytest.raises(ArgumentError, match="batch_size=0"):
        FUNGI(encoder, batch_size=0).fit(photos)
    with pytest.raises(ArgumentError, match="patches_per_side=1"):
        SimCLRObjective(4, patches_per_side=1)
    with pytest.raises(ArgumentError, match="temperature=0"):
        KLObjective(4, temperature=0)
    with pytest.raises(DataError, match="no items"):
        FUNGI(encoder).fit(photos[:0])
    with pytest.raises(ValueError, match="FUNGI instance is not fitted"):
        FUNGI(encoder).transform(photos)
    nn.init.constant_(encoder.norm.weight, math.nan)
    with pytest.raises(DataError, match="not finite"):
        FUNGI(encoder, objectives=("kl",)).fit_transform(photos)
