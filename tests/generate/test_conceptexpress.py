import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from scipy.special import rel_entr

from tacit.data import compositions
from tacit.errors import ArgumentError, DataError
from tacit.generate import ConceptExpress, TokenDDPM, concept_masks, finch
from tacit.generate._concept_masks import Masks, first_neighbour_links, symmetric_divergences
from tacit.generate._conceptexpress import _enlarged, supervised_contrast, transport_distances
from tacit.nn import ConditionalUNet


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def model(**words):
    unet = ConditionalUNet(8, 3, width=8, multipliers=(1, 2), attention=(8, 4), context_dim=16)
    return TokenDDPM(unet, n_steps=20, **words).eval()


def distributions(n, d):
    return torch.rand(n, d).pow(3).add(1e-3).div(1).softmax(1)


# Where ----------------------------------------------------------------------------------------------------------------


def test_divergences_are_those_of_scipy():
    p = distributions(6, 9)
    q = p.double().numpy()
    expected = [[(rel_entr(a, b).sum() + rel_entr(b, a).sum()) / 2 for b in q] for a in q]
    np.testing.assert_allclose(symmetric_divergences(p), expected, atol=1e-6)


def linked(first, i, j):
    return i != j and (first[i] == j or first[j] == i or first[i] == first[j])


def neighbours(distances):
    n = len(distances)
    return [min((k for k in range(n) if k != i), key=lambda k, i=i: (distances[i][k], k)) for i in range(n)]


def components(n, pairs):
    """Labels in the order of first members, by joining pair after pair."""
    label = list(range(n))
    for i, j in pairs:
        label = [label[i] if one == label[j] else one for one in label]
    order = list(dict.fromkeys(label))
    return [order.index(one) for one in label]


def test_links_are_the_three_cases_of_finch():
    distances = symmetric_divergences(distributions(12, 5))
    first = neighbours(distances.tolist())
    found = first_neighbour_links(distances)
    for i in range(12):
        for j in range(12):
            assert bool(found[i, j]) == linked(first, i, j)


def test_levels_are_those_of_a_slow_finch():
    rows = distributions(40, 6)
    groups, expected = [[i] for i in range(40)], []
    while len(groups) > 1:
        means = torch.stack([rows[members].mean(0) for members in groups])
        distances = symmetric_divergences(means).tolist()
        first, n = neighbours(distances), len(groups)
        pairs = [(i, j) for i in range(n) for j in range(n) if linked(first, i, j)]
        label = components(n, pairs)
        groups = [sorted(m for i in range(n) if label[i] == c for m in groups[i]) for c in range(max(label) + 1)]
        expected.append(({tuple(g) for g in groups}, max(distances[i][j] for i, j in pairs)))
    levels = finch(rows)
    assert len(levels) == len(expected) > 1
    for (labels, largest), (wanted, distance) in zip(levels, expected, strict=True):
        found = {tuple((labels == c).nonzero().flatten().tolist()) for c in range(int(labels.max()) + 1)}
        assert found == wanted
        assert largest == pytest.approx(distance, rel=1e-4)


def looks(segments, side, spread=0.02):
    """Places look at their own segment, with a little noise."""
    flat = segments.flatten()
    own = (flat[:, None] == flat).float()
    return (own + spread * torch.rand(side**2, side**2)) / side**2


def test_two_blocks_on_a_ground_are_two_concepts():
    segments = torch.zeros(8, 8, dtype=torch.int64)
    segments[1:4, 1:4], segments[5:7, 4:8] = 1, 2
    found = concept_masks(looks(segments, 8), (segments.flatten() > 0).float())
    masks = {tuple(mask.flatten().int().tolist()) for mask in found.masks}
    assert masks == {tuple((segments == k).flatten().int().tolist()) for k in (1, 2)}
    rows = looks(segments, 8)
    assert found.features.shape == (2, 64)
    torch.testing.assert_close(found.features.sum(1), torch.ones(2))
    assert rows.shape == (64, 64)


def test_alike_parts_are_one_concept_only_where_they_touch():
    """Two regions that look at the same places: side by side they merge, apart they do not."""
    for gap, count in ((0, 1), (2, 2)):
        segments = torch.zeros(8, 8, dtype=torch.int64)
        segments[2:5, 0:3], segments[2:5, 3 + gap : 6 + gap] = 1, 2
        rows = looks(segments, 8, spread=0.0)
        rows[segments.flatten() == 2] = 0.9 * rows[segments.flatten() == 1][0] + 0.1 * rows[segments.flatten() == 2]
        found = concept_masks(rows + 1e-5, (segments.flatten() > 0).float(), at_least=2)
        assert len(found.masks) == count


def test_what_is_not_salient_is_no_concept():
    segments = torch.arange(4).repeat_interleave(16).view(8, 8)
    salience = torch.tensor([0.2, 0.9, 0.1, 0.3]).repeat_interleave(16)
    found = concept_masks(looks(segments, 8), salience, at_least=4)
    assert torch.equal(found.masks.any(0), segments == 1)
    with pytest.raises(DataError, match="stands out"):
        concept_masks(looks(segments, 8), torch.ones(64))


def test_attention_of_a_coarse_grid_is_drawn_larger_as_a_slow_loop_does():
    weights = torch.rand(4, 4).softmax(1)
    found = _enlarged(weights, 4)
    for row in range(4):
        for column in range(4):
            own = weights[(row // 2) * 2 + column // 2].view(1, 1, 2, 2)
            wanted = torch.nn.functional.interpolate(own, size=4, mode="bilinear").flatten()
            torch.testing.assert_close(found[row * 4 + column], wanted / wanted.sum())


# What -----------------------------------------------------------------------------------------------------------------


def exact_transport(a, b, side):
    places = [(i, j) for i in range(side) for j in range(side)]
    n = len(places)
    cost = np.array([[math.dist(p, q) for q in places] for p in places])
    rows, columns = np.kron(np.eye(n), np.ones(n)), np.kron(np.ones(n), np.eye(n))
    return linprog(cost.ravel(), A_eq=np.vstack([rows, columns]), b_eq=np.concatenate([a, b]), method="highs").fun


def test_transport_is_that_of_linear_programming():
    a, b = distributions(3, 9).double(), distributions(3, 9).double()
    a[0, :4] *= 20
    found = transport_distances(a, b, epsilon=0.005, n_iters=2000)
    for i in range(3):
        expected = exact_transport((a[i] / a[i].sum()).numpy(), (b[i] / b[i].sum()).numpy(), 3)
        assert found[i].item() == pytest.approx(expected, abs=0.01)


def test_the_gradient_of_transport_is_its_slope():
    """The exact cost is convex and has edges: the slope lies between those on either side."""
    a, b = distributions(1, 9).double().requires_grad_(), distributions(1, 9).double()
    transport_distances(a, b, epsilon=0.02, n_iters=2000).sum().backward()
    for place in range(8):
        step = torch.zeros(1, 9, dtype=torch.float64)
        step[0, place], step[0, 8] = 1e-3, -1e-3
        before, here, after = (exact_transport((a.detach() + k * step)[0].numpy(), b[0].numpy(), 3) for k in (-1, 0, 1))
        assert here - before - 5e-5 <= (a.grad * step).sum().item() <= after - here + 5e-5


def test_supervised_contrast_is_its_equation():
    x, labels, temperature = torch.randn(6, 5), [0, 1, 2, 0, 1, 0], 0.3
    z = (x / x.norm(dim=1, keepdim=True)).tolist()
    total = 0.0
    for i in range(6):
        shares = {
            j: math.exp(sum(u * v for u, v in zip(z[i], z[j], strict=True)) / temperature) for j in range(6) if j != i
        }
        same = [j for j in shares if labels[j] == labels[i]]
        if same:
            total += -sum(math.log(shares[j] / sum(shares.values())) for j in same) / len(same)
    found = supervised_contrast(x, torch.tensor(labels), temperature)
    assert found.item() == pytest.approx(total / 6, rel=1e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "x0"])
@pytest.mark.parametrize("split", [True, False])
def test_the_loss_is_masked_and_takes_the_prompts_one_by_one(prediction, split):
    """Prompt by prompt: a phrase alone within its own mask, and once merged both together within either."""
    one = ConceptExpress(model(prediction=prediction), attention_weight=0.0, contrast_weight=0.0, n_splits=1)
    unet, process = one.diffusion.encoder, one.diffusion.diffusion
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[0, :3, :3], masks[1, 5:, 4:] = True, True
    phrases, x0 = torch.randn(2, 4, 16), torch.rand(1, 3, 8, 8) * 2 - 1
    features = distributions(2, 64)
    torch.manual_seed(2)
    found = one.loss(x0, Masks(masks, features), phrases, split)
    told = [[0], [1]] if split else [[0], [1], [0, 1]]
    torch.manual_seed(2)
    noise, times = torch.randn(len(told), 3, 8, 8), torch.randint(1, 21, (len(told),))
    empty, total = unet.embed(torch.zeros(1, 4, dtype=torch.int64))[0], 0.0
    for row, numbers in enumerate(told):
        parts = [phrases[k] for k in numbers] + [empty] * ((1 if split else 2) - len(numbers))
        x_t = process.noised(x0, int(times[row]), noise[row : row + 1])
        given = unet.denoise(x_t, int(times[row]), torch.cat(parts)[None])[0]
        target = noise[row] if prediction == "epsilon" else x0[0]
        mask = masks[numbers].any(0)
        total += ((given - target)[:, mask].square().sum() / given.numel()).item()
    assert found.item() == pytest.approx(total / len(told), rel=1e-4)


def test_only_phrases_learn_and_split_ones_are_averaged():
    ddpm = model()
    before = {name: value.clone() for name, value in ddpm.state_dict().items()}
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[0, :3, :3], masks[1, 5:, 4:] = True, True
    image = torch.from_numpy(compositions(1, image_size=16, n_objects=2)["x"])[0, :, ::2, ::2]
    frozen = ConceptExpress(ddpm, n_splits=3, merge_at=1.0, max_steps=1, lr=0.0, random_state=4)
    found = frozen.fit(image, masks=masks).tokens_
    with torch.random.fork_rng():
        torch.manual_seed(4)
        torch.randn(1, 3, 8, 8)  # the noise of the image whose attention is read
        words = ddpm.encoder.embed(torch.randint(1, ddpm.encoder.config["n_tokens"], (6, 4)))
    torch.testing.assert_close(found, torch.stack([(words[k] + words[k + 2] + words[k + 4]) / 3 for k in (0, 1)]))
    learned = ConceptExpress(ddpm, n_splits=3, max_steps=10, random_state=4).fit(image, masks=masks)
    assert not torch.allclose(learned.tokens_, found, atol=1e-2)
    for name, value in ddpm.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_phrases_learn_to_draw_their_part():
    """With the same noise and times each step, the loss falls."""
    one = ConceptExpress(model(), n_splits=1, max_steps=40, lr=0.1, random_state=0)
    masks = torch.zeros(1, 8, 8, dtype=torch.bool)
    masks[0, 2:6, 2:6] = True
    x0, features = torch.rand(1, 3, 8, 8) * 2 - 1, distributions(1, 64)
    for part in one.diffusion.encoder.modules():  # the last layers start near 0, where words change nothing
        if isinstance(part, torch.nn.Conv2d):
            torch.nn.init.normal_(part.weight, std=0.2)
    phrases = one._first(1).requires_grad_()
    optimizer, losses = torch.optim.AdamW([phrases], 0.05), []
    for _ in range(30):
        torch.manual_seed(1)
        loss = one.loss(x0, Masks(masks, features), phrases, False)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_the_same_seed_finds_the_same_and_the_callers_chance_is_kept():
    image = torch.rand(3, 8, 8)
    ddpm = model()
    state = torch.get_rng_state()
    one, again = (ConceptExpress(ddpm, max_steps=3, random_state=1).fit(image) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(one.tokens_, again.tokens_)
    assert one.count(image) == len(one.concepts_) == len(one.masks_)


def test_what_cannot_be_is_refused():
    ddpm = model()
    with pytest.raises(ArgumentError, match="told words"):
        ConceptExpress(torch.nn.Identity())
    with pytest.raises(ArgumentError, match="call fit"):
        ConceptExpress(ddpm).generate()
    with pytest.raises(ArgumentError, match="one image"):
        ConceptExpress(ddpm).fit(torch.rand(2, 3, 8, 8))
    with pytest.raises(ArgumentError, match="masks"):
        ConceptExpress(ddpm).fit(torch.rand(3, 8, 8), masks=torch.ones(1, 4, 4))
    fitted = ConceptExpress(ddpm, max_steps=1).fit(torch.rand(3, 8, 8))
    with pytest.raises(ArgumentError, match="concept=99"):
        fitted.generate(99)
