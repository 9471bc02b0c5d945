import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tacit.data import composition_prompt
from tacit.errors import ArgumentError
from tacit.generate import TokenDDPM
from tacit.multimodal import PrototypeSegmenter, ovdiff
from tacit.multimodal._ovdiff import (
    TIMES,
    BlockFeatures,
    attribution,
    choose_segments,
    colour_segments,
    decide,
    prototypes_of,
)
from tacit.nn import ConditionalUNet, Diffusion, UNet


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


class Pixels(nn.Module):
    """Each pixel's colour, from -1 to 1, is its feature."""

    image_size = 8

    def prepare(self, items):
        return items

    def tokens(self, x):
        return (2 * x - 1).flatten(2).transpose(1, 2)


COLOURS = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.1, 0.9]])
GROUNDS = torch.tensor([[0.2, 0.5, 0.2], [0.5, 0.5, 0.1]])


def scene(k, row, column):
    """A square of class k on its own kind of ground, and its mask."""
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[row : row + 3, column : column + 3] = True
    image = torch.where(mask, COLOURS[k][:, None, None], GROUNDS[k][:, None, None])
    return (image + 0.03 * torch.randn(3, 8, 8)).clamp(0, 1), mask


class Painter:
    """Paints scenes of word k + 1, and attends to the square (how strongly: 0.7 against 0.2)."""

    def __init__(self):
        self.diffusion, self.encoder = Diffusion(10), self
        self.image_size = 8

    def sample(self, n, *, tokens, num_steps, guidance_scale):
        assert len(tokens) == n
        k = int(tokens[0].max()) - 1
        return torch.stack([scene(k, i % 5, (2 * i) % 5)[0] for i in range(n)])


@pytest.fixture
def painter(monkeypatch):
    def seen(painter, images, prompt):
        k = int(prompt[0].max()) - 1
        like = (images - COLOURS[k][:, None, None]).abs().sum(1)
        return torch.where(like < 0.6, 0.7, 0.2)

    monkeypatch.setattr("tacit.multimodal._ovdiff.attribution", seen)
    return Painter()


def test_names_make_a_segmenter(painter):
    """Both classes in one image, on ground of either kind."""
    segmenter = ovdiff(painter, Pixels(), torch.tensor([[1, 0], [2, 0]]), n_support=6, n_parts=2)
    assert segmenter.owners.tolist() == [1] * 9 + [0] * 9 + [2] * 9 + [0] * 9  # instances, class, parts
    image, first = scene(0, 0, 0)
    other, second = scene(1, 5, 4)
    image[:, 4:] = other[:, 4:]
    expected = first.long() + 2 * second.long()
    torch.testing.assert_close(segmenter.segment(image[None])[0], expected)
    only = torch.tensor([[True, False]])
    assert segmenter.segment(image[None], classes=only).max() == 1


def test_without_background_a_threshold_says_what_is_none(painter):
    segmenter = ovdiff(painter, Pixels(), torch.tensor([[1, 0], [2, 0]]), n_support=4, n_parts=1, background=False)
    assert segmenter.owners.min() == 1
    image, mask = scene(0, 2, 2)
    assert (segmenter.segment(image[None]) > 0).all()
    torch.testing.assert_close(segmenter.segment(image[None], threshold=0.9)[0], mask.long())


def test_own_images_may_be_the_supports(painter):
    supports = torch.stack([torch.stack([scene(k, i, i)[0] for i in range(4)]) for k in range(2)])
    segmenter = ovdiff(None, Pixels(), torch.tensor([[1, 0], [2, 0]]), n_parts=1, supports=supports)
    image, mask = scene(1, 3, 1)
    torch.testing.assert_close(segmenter.segment(image[None])[0], 2 * mask.long())


def test_a_pixel_has_the_class_of_the_nearest_prototype():
    """Slowly, one pixel and one prototype at a time."""
    prototypes, owners = torch.randn(7, 3), torch.tensor([1, 0, 3, 3, 1, 0, 1])  # none of class 2
    segmenter, images = PrototypeSegmenter(Pixels(), prototypes, owners, 3), torch.rand(2, 3, 4, 4)
    found, best = segmenter.segment(images), segmenter.similarities(images)
    for i in range(2):
        for row in range(4):
            for column in range(4):
                pixel = 2 * images[i, :, row, column] - 1
                cosines = [float(pixel @ p / (pixel.norm() * p.norm())) for p in prototypes]
                nearest = max(range(7), key=cosines.__getitem__)
                assert found[i, row, column] == owners[nearest]
                for owner in (0, 1, 3):
                    largest = max(c for c, o in zip(cosines, owners, strict=True) if o == owner)
                    assert best[i, owner, row, column].item() == pytest.approx(largest, abs=1e-5)
                assert best[i, 2, row, column] == -1


def test_prototypes_are_averages_of_images_of_all_and_of_parts():
    features, mask = torch.randn(4, 3, 3, 5), torch.rand(4, 3, 3) > 0.5
    mask[2] = False
    found = prototypes_of(features, mask, 1)
    instances = [features[i][mask[i]].mean(0) for i in (0, 1, 3)]
    sizes = [int(mask[i].sum()) for i in (0, 1, 3)]
    whole = sum(size * mean for size, mean in zip(sizes, instances, strict=True)) / sum(sizes)  # weighted by size
    torch.testing.assert_close(found, torch.stack([*instances, whole, whole]), rtol=1e-4, atol=1e-5)
    assert prototypes_of(features, torch.zeros_like(mask), 3).shape == (0, 5)
    assert len(prototypes_of(features[:1, :1, :2], torch.ones(1, 1, 2, dtype=torch.bool), 8)) == 4  # 2 places, 2 parts


def test_parts_are_found():
    """Three kinds of places, far apart: the centres are their means."""
    kinds = torch.randint(3, (2, 6, 6))
    features = 10 * F.one_hot(kinds, 3).float() + 0.1 * torch.randn(2, 6, 6, 3)
    parts = prototypes_of(features, torch.ones(2, 6, 6, dtype=torch.bool), 3)[-3:]
    expected = torch.stack([features[kinds == k].mean(0) for k in range(3)])
    torch.testing.assert_close(parts[parts.argmax(1).argsort()], expected, rtol=1e-4, atol=1e-4)


def test_the_foreground_is_the_segment_with_most_attention_the_background_that_with_least():
    segments = torch.tensor([[[0, 0, 3], [5, 5, 3]], [[2, 2, 2], [2, 2, 2]]])
    attention = torch.tensor([[[0.2, 0.4, 0.9], [0.1, 0.2, 0.8]], [[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]])
    most, least = choose_segments(segments, attention)
    assert most.tolist() == [(segments[0] == 3).tolist(), (segments[1] == 2).tolist()]
    assert least.tolist() == [(segments[0] == 5).tolist(), [[False] * 3] * 2]  # of one segment, nothing is background


def test_segments_of_colour_are_the_squares():
    images, masks = zip(*[scene(i % 2, i, 4 - i) for i in range(4)], strict=True)
    found = colour_segments(torch.stack(images))
    for numbers, mask in zip(found, masks, strict=True):
        assert torch.equal(numbers == numbers[mask][0], mask)


def test_blocks_are_one_dense_encoder():
    network = UNet(8, 3, width=8, timestep=0).eval()
    x, encoder = torch.rand(2, 3, 8, 8), BlockFeatures(network, ("up1", "up3"))
    with torch.no_grad():
        found, maps = encoder.tokens(encoder.prepare(x)), network.maps(x)
    assert found.shape == (2, 64, 24)  # 16 and 8 channels
    torch.testing.assert_close(found[..., 16:], maps["up3"].flatten(2).transpose(1, 2))
    wide = F.interpolate(maps["up1"], (8, 8), mode="bilinear")
    torch.testing.assert_close(found[:, 13, :16], wide[:, :, 1, 5])


def test_attribution_is_attention_to_the_words_of_the_prompt():
    network = ConditionalUNet(8, 3, width=8, multipliers=(1, 2), attention=(8, 4), context_dim=8)
    ddpm = TokenDDPM(network, n_steps=20)
    images, prompts = torch.rand(2, 3, 8, 8), [composition_prompt(name) for name in ("red ring", "blue")]
    prompts = torch.from_numpy(np.stack(prompts))
    torch.manual_seed(4)
    found = attribution(ddpm, images, prompts)
    torch.manual_seed(4)
    maps, attention = [], {}
    for layer in network.attended:
        block = network._block(layer).words.attention
        block.register_forward_hook(lambda m, i, o, layer=layer: attention.update({layer: (m, *i)}))
    for share in TIMES:
        t = round(20 * share)
        x_t = ddpm.diffusion.noised(2 * images - 1, t, torch.randn(2, 3, 8, 8))
        with torch.no_grad():
            ddpm.encoder.eval().denoise(x_t, t, prompts)
        for module, x, context in attention.values():
            q, k = module.q(x), module.kv(context)[..., : x.shape[2]]
            weights = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(q.shape[2]), 2)  # one head
            side = math.isqrt(x.shape[1])
            said = torch.stack(
                [weights[0, :, 0] + weights[0, :, 1], weights[1, :, 1]]
            )  # of shape and colour; of colour
            map_ = said.view(2, 1, side, side)
            maps.append(F.interpolate(map_, (8, 8), mode="bilinear")[:, 0])
    torch.testing.assert_close(found, sum(maps) / len(maps))


def test_a_threshold_and_impossible_classes():
    similarities = torch.tensor([0.1, 0.5, 0.7]).view(1, 3, 1, 1)
    assert decide(similarities).item() == 2
    assert decide(similarities, threshold=0.8).item() == 0
    assert decide(similarities, classes=torch.tensor([[True, False]])).item() == 1
    assert decide(similarities, classes=torch.tensor([[False, False]])).item() == 0


def test_bad_input_is_an_error_that_names_it(painter):
    prompts = torch.tensor([[1, 0], [2, 0]])
    for words in ({"n_support": 0}, {"n_parts": 0}):
        with pytest.raises(ArgumentError, match=next(iter(words))):
            ovdiff(painter, Pixels(), prompts, **words)
    with pytest.raises(ArgumentError, match="prompts"):
        ovdiff(painter, Pixels(), torch.zeros(2, 2, dtype=torch.int64))
    with pytest.raises(ArgumentError, match="encoder"):
        ovdiff(painter, nn.Linear(2, 2), prompts)
