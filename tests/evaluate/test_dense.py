import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tacit.errors import ArgumentError
from tacit.evaluate import _dense, dense_features, mean_iou, segmentation_probe
from tacit.evaluate._dense import DECAYS, _balanced, _choose_decay, _confusions, _fit, _shares
from tacit.nn import ResNet


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def slow_mean_iou(y, predictions, n_classes):
    found = []
    for k in range(n_classes):
        pairs = [(a, b) for a, b in zip(np.ravel(y), np.ravel(predictions), strict=True) if a >= 0]
        both = sum(a == k and b == k for a, b in pairs)
        either = sum(a == k or b == k for a, b in pairs)
        if either:
            found.append(both / either)
    return sum(found) / len(found)


def maps(n, grid, d, k, seed, noise=1.0):
    """Feature maps that tell the class of a cell with noise, and masks of two pixels a cell each way."""
    rng = torch.Generator().manual_seed(seed)
    cells = torch.randint(0, k, (n, grid, grid), generator=rng)
    means = torch.randn(k, d, generator=torch.Generator().manual_seed(99))
    x = means[cells] + noise * torch.randn(n, grid, grid, d, generator=rng)
    return x.flatten(1, 2), cells.repeat_interleave(2, 1).repeat_interleave(2, 2)


@pytest.mark.parametrize("k", [2, 5])
def test_mean_iou_by_brute_force(k):
    rng = np.random.default_rng(k)
    y, predictions = rng.integers(-1, k, (3, 6, 5)), rng.integers(0, k, (3, 6, 5))
    assert mean_iou(y, predictions) == pytest.approx(slow_mean_iou(y, predictions, k))
    assert mean_iou(y, predictions, n_classes=9) == mean_iou(y, predictions)  # classes that nowhere are do not count


def test_mean_iou_equals_scikit_learn():
    from sklearn.metrics import jaccard_score

    rng = np.random.default_rng(0)
    y, predictions = rng.integers(0, 6, (2, 400))
    assert mean_iou(y, predictions, 6) == pytest.approx(jaccard_score(y, predictions, average="macro"))


@pytest.mark.parametrize("decay", [DECAYS[0], DECAYS[2]])
def test_the_fit_is_the_optimum_of_the_equation(decay):
    """Against scikit-learn: a token once for each class in its cell, weighted by the class's share."""
    from sklearn.linear_model import LogisticRegression

    x, mask = maps(20, 4, 3, 3, seed=0)
    mask = mask.roll(1, 1)  # cells hold more than one class now
    grid = x.view(20, 4, 4, 3)
    targets = _shares(mask, (4, 4), 3)
    weights = _fit(grid, targets, decay)
    rows, shares = grid.flatten(0, 2).numpy(), targets.flatten(0, 2).numpy()
    peer = LogisticRegression(C=1 / (decay * len(rows)), tol=1e-10, max_iter=2000)
    peer.fit(np.repeat(rows, 3, 0), np.tile(np.arange(3), len(rows)), sample_weight=shares.ravel())
    ours = F.softmax(torch.from_numpy(rows) @ weights[1:] + weights[0], 1).numpy()
    np.testing.assert_allclose(ours, peer.predict_proba(rows), atol=2e-3)


def test_shares_are_counted_and_ignored_pixels_are_not():
    mask = torch.tensor([[[0, 1, 2, 2], [1, 1, 2, -1], [0, 0, -1, -1], [0, 0, -1, -1]]])
    expected = [[[0.25, 0.75, 0], [0, 0, 1]], [[1, 0, 0], [0, 0, 0]]]
    torch.testing.assert_close(_shares(mask, (2, 2), 3)[0], torch.tensor(expected))
    uneven = _shares(torch.randint(0, 3, (2, 7, 7)), (3, 3), 3)  # cells that do not divide the mask
    torch.testing.assert_close(uneven.sum(-1), torch.ones(2, 3, 3))


def test_every_class_weighs_the_same():
    shares = torch.zeros(2, 2, 2, 4)
    shares[..., 0] = 0.75
    shares[..., 2] = 0.25
    shares[0, 0, 0] = torch.tensor([0.0, 0.5, 0.5, 0.0])
    sums = _balanced(shares).sum((0, 1, 2))
    torch.testing.assert_close(sums, torch.tensor([8 / 3, 8 / 3, 8 / 3, 0]))


def test_a_rare_class_is_found_by_weak_features():
    """One cell in ten, told by a shift of one deviation: unweighted, "no" everywhere would be the better guess."""
    rng = torch.Generator().manual_seed(0)
    cells = (torch.rand(60, 4, 4, generator=rng) < 0.1).long()
    x = (cells + torch.randn(60, 4, 4, generator=rng))[..., None]
    score = segmentation_probe(x[:30], cells[:30], x[30:], cells[30:])
    assert score.value > mean_iou(cells[30:], torch.zeros_like(cells[30:]))


def test_the_score_is_that_of_its_steps_one_by_one():
    """Standardise, choose the decay, fit, upsample each logit map by hand, take the largest, count."""
    (x, mask), (new, new_mask) = maps(30, 4, 6, 3, seed=0), maps(25, 4, 6, 3, seed=1)
    new_mask = new_mask.clone()
    new_mask[:, 0] = -1
    score = segmentation_probe(x, mask, new, new_mask)
    mean, deviation = x.mean((0, 1)), x.std((0, 1), correction=0)
    a, b = (((z - mean) / deviation).view(-1, 4, 4, 6) for z in (x, new))
    targets = _balanced(_shares(mask, (4, 4), 3))
    weights = _fit(a, targets, _choose_decay(a, mask, targets, 0))
    logits = b @ weights[1:] + weights[0]
    predictions = torch.empty(25, 8, 8, dtype=torch.long)
    for row in range(8):
        for column in range(8):
            p, q = (min(max((t + 0.5) / 2 - 0.5, 0), 3) for t in (row, column))
            (r, c), (s, t) = (int(p), int(q)), (min(int(p) + 1, 3), min(int(q) + 1, 3))
            up, down = p - r, q - c
            blend = (1 - up) * ((1 - down) * logits[:, r, c] + down * logits[:, r, t])
            blend = blend + up * ((1 - down) * logits[:, s, c] + down * logits[:, s, t])
            predictions[:, row, column] = blend.argmax(1)
    assert score.value == pytest.approx(slow_mean_iou(new_mask, predictions, 3), abs=2e-3)
    assert score.low < score.value < score.high
    assert score.n == 25


def test_blocks_do_not_change_it(monkeypatch):
    data = (*maps(20, 4, 6, 3, seed=0), *maps(15, 4, 6, 3, seed=1))
    whole = segmentation_probe(*data)
    monkeypatch.setattr(_dense, "ROWS", 70)
    assert segmentation_probe(*data).value == pytest.approx(whole.value, abs=2e-3)


def test_the_interval_covers_what_many_test_sets_give():
    train = maps(20, 4, 6, 3, seed=0)
    many = segmentation_probe(*train, *maps(1000, 4, 6, 3, seed=50)).value
    scores = [segmentation_probe(*train, *maps(60, 4, 6, 3, seed=seed)) for seed in range(1, 11)]
    assert sum(s.low <= many <= s.high for s in scores) >= 8


def test_images_not_pixels_are_held_out():
    """Features that name the image, not the class: what fits the training images does not carry over."""
    n, grid = 40, 4
    cells = (torch.arange(n) % 4 == 0).long()[:, None, None].expand(n, grid, grid)
    name = F.one_hot(torch.arange(n), n).float()[:, None].expand(n, grid * grid, n)
    mask = cells.repeat_interleave(2, 1).repeat_interleave(2, 2)
    x = name.view(n, grid, grid, n)
    targets = _shares(mask, (grid, grid), 2)
    assert _choose_decay(x, mask, targets, 0) == DECAYS[0]
    assert _confusions(_fit(x, targets, DECAYS[-1]), x, mask, 2).sum(0).diagonal().sum() > 0.9 * mask.numel()


def test_mask_of_another_size_and_other_grids():
    x, mask = maps(20, 4, 6, 3, seed=0, noise=0.1)
    square = segmentation_probe(x, mask, x, mask)
    given = segmentation_probe(x.view(20, 4, 4, 6), mask, x.view(20, 4, 4, 6), mask)
    assert square == given
    cells = torch.randint(0, 3, (20, 2, 8))
    tokens, wide = F.one_hot(cells, 3).float(), cells.repeat_interleave(5, 1).repeat_interleave(3, 2)
    assert segmentation_probe(tokens, wide, tokens, wide).value > 0.8  # all but what bilinear edges blur


def test_dense_features_are_the_encoders_tokens_and_its_mode_comes_back():
    encoder = ResNet(8, width=4, image_size=16).train()
    items = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
    found = dense_features(encoder, items, batch_size=2)
    assert encoder.training
    with torch.no_grad():
        torch.testing.assert_close(found, encoder.eval().tokens(items / 255))
        torch.testing.assert_close(found.mean(1), encoder(items / 255))


def test_what_cannot_be_is_refused():
    x, mask = maps(6, 4, 3, 2, seed=0)
    with pytest.raises(ArgumentError, match="class tokens out"):
        segmentation_probe(x[:, 1:], mask, x, mask)
    with pytest.raises(ArgumentError, match="at least two classes"):
        segmentation_probe(x, mask * 0, x, mask)
    with pytest.raises(ArgumentError, match=r"train_masks.shape"):
        segmentation_probe(x, mask[:5], x, mask)
    with pytest.raises(ArgumentError, match="whole numbers"):
        segmentation_probe(x, mask.float(), x, mask)
    with pytest.raises(ArgumentError, match="NaN"):
        segmentation_probe(x * float("nan"), mask, x, mask)
    with pytest.raises(ArgumentError, match="3 features"):
        segmentation_probe(x, mask, x[..., :2], mask)
    with pytest.raises(ArgumentError, match="that of y"):
        mean_iou(mask, mask[:1])
    with pytest.raises(ArgumentError, match="n_classes=1"):
        mean_iou(mask, mask, 1)
    with pytest.raises(ArgumentError, match="tokens"):
        dense_features(torch.nn.Linear(2, 2), x)


def test_confusions_of_images_add_up():
    x, mask = maps(12, 4, 6, 3, seed=0)
    grid = x.view(12, 4, 4, 6)
    weights = _fit(grid, _shares(mask, (4, 4), 3), 1e-2)
    counts = _confusions(weights, grid, mask, 3)
    assert (counts.sum((1, 2)) == 64).all()
    torch.testing.assert_close(counts.sum(-1), F.one_hot(mask.flatten(1), 3).sum(1))
