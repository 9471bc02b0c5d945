import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tacit.errors import ArgumentError
from tacit.nn import ResNet
from tacit.pretrain import PixContrast, PixPro, matching_pixels, pixel_consistency, pixel_contrast, pixel_propagation
from tacit.views import resized_crop, two_crops


def cosine(u, v):
    return float(u @ v / (u.norm() * v.norm()))


def bins(box, grid):
    """Centres (row, column) of the bins of a crop and the diagonal of a bin, from the drawing of figure 2."""
    top, left, bottom, right = (float(edge) for edge in box)
    height, width = (bottom - top) / grid, (right - left) / grid
    centres = [(top + (r + 0.5) * height, left + (c + 0.5) * width) for r in range(grid) for c in range(grid)]
    return centres, math.sqrt(height**2 + width**2)


def slow_matching(a, b, grid, threshold):
    (first, first_diagonal), (second, second_diagonal) = bins(a, grid), bins(b, grid)
    unit = max(first_diagonal, second_diagonal)
    return [[math.dist(p, q) / unit <= threshold for q in second] for p in first]


def slow_consistency(x, transform, z, near, gamma):
    """Eqs. 3 to 5, one pixel and one pair at a time."""
    images = []
    for n in range(len(x)):
        values = [transform(pixel) for pixel in x[n]]
        cosines = []
        for i in range(x.shape[1]):
            y = sum(max(cosine(x[n, i], x[n, j]), 0) ** gamma * values[j] for j in range(x.shape[1]))
            cosines += [cosine(y, z[n, j]) for j in range(z.shape[1]) if near[n][i][j]]
        if cosines:
            images.append(sum(cosines) / len(cosines))
    return -sum(images) / len(images)


def slow_contrast(x, z, near, temperature):
    """Eq. 2, one pixel at a time."""
    images = []
    for n in range(len(x)):
        costs = []
        for i in range(x.shape[1]):
            scores = [math.exp(cosine(x[n, i], z[n, j]) / temperature) for j in range(z.shape[1])]
            positive = sum(score for j, score in enumerate(scores) if near[n][i][j])
            if positive:
                costs.append(-math.log(positive / sum(scores)))
        if costs:
            images.append(sum(costs) / len(costs))
    return sum(images) / len(images)


def boxes(n, size=32.0):
    """Crops of all sizes, every second one mirrored."""
    corner, side = 0.6 * size * torch.rand(n, 2), size * (0.1 + 0.3 * torch.rand(n, 2))
    box = torch.cat([corner, corner + side], dim=1)
    return torch.where(torch.arange(n)[:, None] % 2 == 0, box, box[:, [0, 3, 2, 1]])


@pytest.mark.parametrize("grid", [1, 3, 7])
@pytest.mark.parametrize("threshold", [0.3, 0.7, 2.0])
def test_matching_is_the_distance_of_bin_centres(grid, threshold):
    a, b = boxes(12), boxes(12).flip(0)
    expected = [slow_matching(*pair, grid, threshold) for pair in zip(a, b, strict=True)]
    assert matching_pixels(a, b, grid, threshold).tolist() == expected
    assert matching_pixels(b, a, grid, threshold).mT.tolist() == expected


def test_identical_crops_match_the_diagonal_and_mirrored_ones_the_mirrored_columns():
    """Neighbours are 0.71 diagonals apart, just beyond T = 0.7."""
    box = torch.tensor([[3.0, 5.0, 19.0, 21.0]])
    place = torch.arange(49).view(7, 7)
    same = matching_pixels(box, box, 7)[0]
    assert torch.equal(same, torch.eye(49, dtype=torch.bool))
    mirrored = matching_pixels(box, box[:, [0, 3, 2, 1]], 7)[0]
    assert torch.equal(mirrored.int().argmax(1), place.flip(1).flatten())
    assert mirrored.sum() == 49
    apart = matching_pixels(box, box + 100, 7)
    assert not apart.any()


def test_matching_bins_show_the_same_part_of_the_image():
    """The boxes of two_crops: pixels drawn as their own position say how far apart matched bins are."""
    size, grid = 64, 8
    ramp = torch.linspace(0.5 / size, 1 - 0.5 / size, size)
    x = torch.stack(torch.meshgrid(ramp, ramp, indexing="ij")).expand(40, 2, size, size)
    views = two_crops(32, channels=2, preset="crop", scale=(0.2, 1.0))
    (a, b), (first, second) = views.with_boxes(x)
    near = matching_pixels(first, second, grid, 0.7)
    first, second = (F.avg_pool2d(view, 32 // grid).flatten(2).mT for view in (a, b))  # what each bin shows
    gap = (first[:, :, None] - second[:, None]).norm(dim=-1)
    assert near.any(-1).float().mean() > 0.3
    assert gap[near].max() < 0.7 * math.sqrt(2) / grid + 0.01  # T diagonals of the largest bin there can be
    assert gap[near].mean() < gap[~near].mean() / 4


@pytest.mark.parametrize("gamma", [0.5, 2.0, 5.0])
def test_consistency_against_the_equations(gamma):
    x, z = torch.randn(4, 9, 5), torch.randn(4, 9, 5)
    near = matching_pixels(boxes(4), boxes(4).flip(0), 3, 1.0)
    near[2] = False  # crops that do not meet
    g = nn.Linear(5, 5)
    with torch.no_grad():
        found = pixel_consistency(pixel_propagation(x, g(x), gamma), z, near).item()
        assert found == pytest.approx(slow_consistency(x, g, z, near, gamma), rel=1e-4)


@pytest.mark.parametrize("temperature", [0.1, 0.3])
def test_contrast_against_the_equation(temperature):
    x, z = torch.randn(4, 9, 5), torch.randn(4, 9, 5)
    near = matching_pixels(boxes(4), boxes(4).flip(0), 3, 1.0)
    near[2] = False
    expected = slow_contrast(x, z, near.tolist(), temperature)
    assert pixel_contrast(x, z, near, temperature).item() == pytest.approx(expected, rel=1e-4)


def test_propagation_in_its_limits():
    x, g = torch.randn(2, 6, 4), torch.randn(2, 6, 3)
    torch.testing.assert_close(pixel_propagation(x, g, 0.0), g.sum(1, keepdim=True).expand_as(g))  # the mean of all
    torch.testing.assert_close(pixel_propagation(x, g, 1e5), g, rtol=0, atol=1e-2 * g.abs().max().item())  # each alone
    alike = x[:, :1].expand_as(x)
    torch.testing.assert_close(pixel_propagation(alike, g), g.sum(1, keepdim=True).expand_as(g))
    basis = torch.eye(6).expand(2, 6, 6)
    torch.testing.assert_close(pixel_propagation(basis, g), g)  # nothing is alike
    opposite = torch.stack([x[:, 0], -x[:, 0]], 1)
    torch.testing.assert_close(pixel_propagation(opposite, g[:, :2]), g[:, :2])  # what points away weighs nothing
    torch.testing.assert_close(pixel_propagation(7 * x, g), pixel_propagation(x, g))


def test_losses_in_their_limits():
    x, all_pairs = torch.randn(3, 4, 5), torch.ones(3, 4, 4, dtype=torch.bool)
    same = torch.eye(4, dtype=torch.bool).expand(3, 4, 4)
    assert pixel_consistency(x, 3 * x, same).item() == pytest.approx(-1)
    assert pixel_consistency(x, -x, same).item() == pytest.approx(1)
    assert pixel_contrast(x, x, all_pairs).item() == pytest.approx(0, abs=1e-6)  # no negatives are left
    assert pixel_contrast(torch.ones(3, 4, 5), x, same).item() > 0
    for loss in (pixel_consistency, pixel_contrast):
        x = torch.randn(3, 4, 5, requires_grad=True)
        value = loss(x, torch.randn(3, 4, 5), torch.zeros_like(same))
        assert value.item() == 0
        assert not torch.autograd.grad(value, x)[0].any()  # nor NaN


@pytest.mark.parametrize("loss", [pixel_consistency, pixel_contrast])
def test_gradient_by_finite_differences(loss):
    x, z = (torch.randn(3, 4, 5, dtype=torch.double, requires_grad=True) for _ in range(2))
    near = torch.rand(3, 4, 4) < 0.4
    near[1, 2] = False  # a pixel without a match
    assert torch.autograd.gradcheck(lambda x, z: loss(x, z, near), (x, z))


class Crops(nn.Module):
    """Two fixed crops of each image, the second one mirrored in every other image."""

    def __init__(self, size, first, second):
        super().__init__()
        self.size, self.boxes = size, (first, second)

    def with_boxes(self, x):
        return [resized_crop(x, box, self.size) for box in self.boxes], list(self.boxes)


@pytest.mark.parametrize("kind", [PixPro, PixContrast])
@pytest.mark.parametrize(("size", "grid"), [(16, 4), (20, 5)])
def test_learner_is_the_slow_loop_over_both_directions(kind, size, grid):
    first, second = boxes(4), boxes(4).flip(0)
    encoder = ResNet(8, width=4, image_size=size)
    learner = kind(encoder, views=Crops(size, first, second), embed_dim=6, hidden_dim=8, threshold=1.0)
    x = torch.rand(4, 3, 32, 32)
    found, expected = learner.loss(x).item(), 0.0
    views = [resized_crop(x, box, size) for box in (first, second)]
    with torch.no_grad():  # before any step the slow network is the live one
        pixels = [learner.projector(encoder.tokens(view).flatten(0, 1)).view(4, grid * grid, 6) for view in views]
        for online, slow, a, b in ((0, 1, first, second), (1, 0, second, first)):
            near = [slow_matching(*pair, grid, 1.0) for pair in zip(a, b, strict=True)]
            if kind is PixPro:
                expected += slow_consistency(pixels[online], learner.transform, pixels[slow], near, 2.0)
            else:
                expected += slow_contrast(pixels[online], pixels[slow], near, 0.3)
    assert found == pytest.approx(expected, rel=1e-4)


def test_without_propagation_it_is_the_limit_of_a_sharp_one(images):
    box = torch.tensor([[0.0, 0.0, 8.0, 8.0]]).expand(6, 4)
    losses = []
    for words in ({"propagate": False}, {"gamma": 1e6}):
        torch.manual_seed(3)
        learner = PixPro(
            ResNet(8, width=4, image_size=16), views=Crops(16, box, box), embed_dim=6, hidden_dim=8, **words
        )
        losses.append(learner.loss(images).item())
    assert losses[0] == pytest.approx(losses[1], abs=0.02)


def test_only_the_average_moves_the_target_on_a_cosine(images):
    learner = PixPro(ResNet(8, width=4, image_size=8), embed_dim=5, hidden_dim=7, momentum=0.9)
    before = [p.clone() for p in learner.target.parameters()]
    learner.loss(images).backward()
    assert all(p.grad is None for p in learner.target.parameters())
    torch.optim.SGD([p for p in learner.parameters() if p.requires_grad], lr=1.0).step()
    learner.after_step(0.25)
    tau = 1 - (1 - 0.9) * (math.cos(math.pi * 0.25) + 1) / 2
    live = [*learner.encoder.parameters(), *learner.projector.parameters()]
    for slow, old, new in zip(learner.target.parameters(), before, live, strict=True):
        torch.testing.assert_close(slow, tau * old + (1 - tau) * new)


def test_what_cannot_be_is_refused(tiny, mirror):
    encoder = ResNet(8, width=4, image_size=8)
    with pytest.raises(ArgumentError, match="feature map"):
        PixPro(tiny)
    with pytest.raises(ArgumentError, match="two_crops"):
        PixPro(encoder, views=mirror)
    with pytest.raises(ArgumentError, match="threshold=0"):
        PixPro(encoder, threshold=0)
    with pytest.raises(ArgumentError, match="gamma=-1"):
        PixPro(encoder, gamma=-1)
    with pytest.raises(ArgumentError, match="temperature=0"):
        PixContrast(encoder, temperature=0)
    encoder.tokens = lambda x: torch.zeros(len(x), 5, encoder.dim)  # a class token and four patches
    with pytest.raises(ArgumentError, match="class token"):
        PixPro(encoder).loss(torch.rand(2, 3, 8, 8))
