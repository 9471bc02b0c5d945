import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tacit.data import Dataset
from tacit.errors import ArgumentError
from tacit.nn import ResNet, ViT
from tacit.pretrain import OBoW, bag_views
from tacit.pretrain._obow import Vocabulary, WordHead, bag_loss, dense_features, local_words


class Crops(nn.Module):
    """The image, two crops and two smaller ones, without chance."""

    def forward(self, x):
        return x, x[..., 4:, 4:], x[..., :12, :12], x[..., 4:12, 4:12], x[..., :8, :8]


def learner_of(**settings):
    defaults = {"views": Crops(), "n_words": 5, "hidden_dim": 7, "kappa": 3.0, "inverse_delta": 2.0}
    return OBoW(ResNet(8, width=4, image_size=16), **{**defaults, **settings})


def slow_bags(features, words, inverse_delta, mean_distance):
    """Soft assignment, the maximum over places and the scaling to sum 1, one number at a time."""
    bags = []
    for image in features:
        bag = [0.0] * len(words)
        for place in image.flatten(1).T:
            closeness = [
                math.exp(-inverse_delta / mean_distance * float((place - word).square().sum())) for word in words
            ]
            bag = [max(b, c / sum(closeness)) for b, c in zip(bag, closeness, strict=True)]
        bags.append([b / sum(bag) for b in bag])
    return torch.tensor(bags)


def slow_nearest(features, words):
    places = [place for image in features for place in image.flatten(1).T]
    return sum(min(float((place - word).square().sum()) for word in words) for place in places) / len(places)


def test_bags_against_the_equations_and_the_running_mean():
    vocabulary, mean = Vocabulary(5, 3, inverse_delta=1.5), 0.5
    vocabulary.push(torch.randn(5, 3))
    for _ in range(3):
        features = torch.randn(4, 3, 2, 3)
        bags = vocabulary.bags(features)
        mean = 0.99 * mean + 0.01 * slow_nearest(features, vocabulary.words)
        assert vocabulary.mean_distance.item() == pytest.approx(mean, rel=1e-5)
        torch.testing.assert_close(bags, slow_bags(features, vocabulary.words, 1.5, mean), rtol=1e-4, atol=1e-6)
    vocabulary.eval().bags(torch.randn(4, 3, 2, 3))
    assert vocabulary.mean_distance.item() == pytest.approx(mean, rel=1e-5)
    assert vocabulary.nearest(features).mean().item() == pytest.approx(
        slow_nearest(features, vocabulary.words), rel=1e-5
    )


def test_a_sharp_bag_lists_the_words_that_occur_and_a_blunt_one_all_of_them():
    words = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [5.0, 5.0]])
    features = torch.stack([words[[0, 0, 1]], words[[2, 2, 2]]]).transpose(1, 2)[..., None] + 0.01
    sharp, blunt = Vocabulary(4, 2, 1e5).eval(), Vocabulary(4, 2, 1e-9).eval()
    for vocabulary in (sharp, blunt):
        vocabulary.push(words)
    torch.testing.assert_close(sharp.bags(features), torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 1, 0]]))
    torch.testing.assert_close(blunt.bags(features), torch.full((2, 4), 0.25))


def test_bags_hang_on_distances_alone_also_under_bfloat16():
    vocabulary, moved = (Vocabulary(6, 4, 5.0).eval() for _ in range(2))
    words, features = torch.randn(6, 4), torch.randn(3, 4, 2, 2)
    vocabulary.push(words)
    moved.push(words + 10)
    expected = vocabulary.bags(features)
    torch.testing.assert_close(moved.bags(features + 10), expected, rtol=1e-3, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(moved.bags(features + 10), expected, rtol=1e-3, atol=1e-4)


def test_vocabulary_is_a_queue_of_any_batch_size():
    vocabulary = Vocabulary(5, 1)
    vocabulary.push(torch.tensor([[1.0], [2.0], [3.0]]))
    vocabulary.push(torch.tensor([[4.0], [5.0], [6.0]]))
    assert vocabulary.words.flatten().tolist() == [6, 2, 3, 4, 5]
    vocabulary.push(torch.arange(10.0, 17.0)[:, None])  # seven: the last five stay
    assert sorted(vocabulary.words.flatten().tolist()) == [12, 13, 14, 15, 16]
    vocabulary.push(torch.tensor([[0.0]]))
    assert sorted(vocabulary.words.flatten().tolist()) == [0, 13, 14, 15, 16]


@pytest.mark.parametrize("sides", [(4, 5), (2, 3), (1, 1)])
def test_new_words_are_local_means_each_as_likely_as_another(sides):
    features, (height, width) = torch.randn(2, 3, *sides), sides
    k, m = min(3, height), min(3, width)
    candidates = [
        [image[:, i : i + k, j : j + m].mean((1, 2)) for i in range(height - k + 1) for j in range(width - m + 1)]
        for image in features
    ]
    counts = torch.zeros(2, len(candidates[0]))
    for _ in range(100):
        for image, word in enumerate(local_words(features)):
            gaps = torch.stack([(word - candidate).abs().max() for candidate in candidates[image]])
            assert gaps.min() < 1e-6
            counts[image, gaps.argmin()] += 1
    assert counts.min() >= 100 / counts.shape[1] / 3


def test_dynamic_head_against_its_layers_by_hand():
    head, words = WordHead(3, 6, 4), torch.rand(5, 3)
    hidden = torch.stack([head.layers[0].weight @ (word / word.norm()) for word in words])
    hidden = (hidden - hidden.mean(0)) / (hidden.var(0, unbiased=False) + 1e-5).sqrt()  # scale 1, shift 0 at the start
    out = hidden.clamp_min(0) @ head.layers[-1].weight.T + head.layers[-1].bias
    torch.testing.assert_close(head(words), torch.stack([o / o.norm() for o in out]), rtol=1e-4, atol=1e-5)


def test_head_follows_the_words():
    """Words in another order give the same logits in that order: the head has no memory of places in the queue."""
    head, words, order = WordHead(3, 6, 4), torch.rand(5, 3), torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(head(words[order]), head(words)[order])


def test_cross_entropy_has_the_gradient_prediction_minus_bag():
    logits, bags = torch.randn(4, 6, requires_grad=True), torch.rand(4, 6).softmax(1)
    loss = bag_loss(logits, bags)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient, (logits.softmax(1) - bags).detach() / 4)
    entropy = -(bags * bags.log()).sum(1).mean()
    assert bag_loss(bags.log(), bags).item() == pytest.approx(entropy.item(), rel=1e-5)


def test_loss_against_the_equations():
    learner, x = learner_of(), torch.rand(4, 3, 16, 16)
    learner.before_fit(Dataset({"x": (x * 255).to(torch.uint8)}))
    teacher, levels = learner.teacher.copies[0], []
    with torch.no_grad():
        y = teacher.stem(teacher.normalize(x))
        for stage in teacher.stages:
            y = stage(y)
            levels.append(y)
    levels = [levels[1][..., 1:-1, 1:-1], levels[2]]  # 8 x 8 without its border, and 4 x 4
    means = [
        0.99 * float(v.mean_distance) + 0.01 * slow_nearest(f, v.words)
        for v, f in zip(learner.vocabularies, levels, strict=True)
    ]
    bags = [slow_bags(f, v.words, 2.0, m) for f, v, m in zip(levels, learner.vocabularies, means, strict=True)]
    weights = [head(v.words) for head, v in zip(learner.heads, learner.vocabularies, strict=True)]
    _, *crops = Crops()(x)
    expected = 0.0
    for group in (crops[:2], crops[2:]):
        for seen in learner.encoder(torch.cat(group)).split(4):
            for w, bag in zip(weights, bags, strict=True):
                for i in range(4):
                    log_p = (3.0 * (w @ seen[i])).detach().log_softmax(0)
                    expected -= float((bag[i] * log_p).sum()) / (2 * 2 * 4)  # crops of the size, levels, images
    assert learner.loss(x).item() == pytest.approx(expected, rel=1e-4)


def test_words_come_from_the_data_also_where_images_are_fewer():
    learner = learner_of(n_words=12)
    x = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    torch.manual_seed(5)
    rows = torch.randint(3, (12,))
    torch.manual_seed(5)
    learner.before_fit(Dataset({"x": x}))
    levels = dense_features(learner.teacher.copies[0], x[rows].float() / 255, 2)
    levels = [levels[0][..., 1:-1, 1:-1], levels[1]]
    for vocabulary, features in zip(learner.vocabularies, levels, strict=True):
        means = F.avg_pool2d(features, 3, stride=1).flatten(2).transpose(1, 2)  # (12, places, dim)
        gaps = (vocabulary.words[:, None] - means).abs().amax(2).amin(1)
        assert gaps.max() < 1e-5
        assert vocabulary.mean_distance.item() == pytest.approx(slow_nearest(features, vocabulary.words), rel=1e-4)


@pytest.mark.parametrize("refresh", [True, False])
def test_after_a_step_the_teacher_and_the_words_move_and_frozen_words_do_not(refresh):
    learner = learner_of(n_words=6, momentum=0.9, refresh=refresh)
    learner.loss(torch.rand(4, 3, 16, 16))
    before = [v.words.clone() for v in learner.vocabularies]
    slow = [p.clone() for p in learner.teacher.parameters()]
    with torch.no_grad():
        for p in learner.encoder.parameters():
            p += 1
    fresh = learner._fresh
    learner.after_step(0.5)
    decay = 1 - 0.1 * 0.5  # half way on the cosine
    for p, s, live in zip(learner.teacher.parameters(), slow, learner.encoder.parameters(), strict=True):
        torch.testing.assert_close(p, decay * s + (1 - decay) * live.detach())
    for vocabulary, old, new in zip(learner.vocabularies, before, fresh, strict=True):
        torch.testing.assert_close(vocabulary.words, torch.cat([new, old[4:]]) if refresh else old)


def test_dense_features_of_a_transformer_are_its_tokens_in_place():
    encoder, x = ViT(16, patch_size=4, embed_dim=8, num_layers=1, num_heads=2), torch.rand(2, 3, 16, 16)
    (features,) = dense_features(encoder, x, 2)
    tokens = encoder.tokens(x)
    assert features.shape == (2, 8, 4, 4)
    torch.testing.assert_close(features[:, :, 2, 1], tokens[:, 9])
    assert len(OBoW(encoder, n_words=4, local_crops=1).vocabularies) == 1


def test_stages_that_the_encoder_does_not_read_are_no_levels():
    encoder = ResNet(8, width=4, image_size=16, layer="stage2")
    maps = dense_features(encoder, torch.rand(2, 3, 16, 16), 2)
    assert [tuple(m.shape[1:]) for m in maps] == [(4, 16, 16), (8, 8, 8)]
    torch.testing.assert_close(maps[1].mean((0, 2, 3)), maps[1].mean((2, 3)).mean(0))
    assert not any(stage._forward_hooks for stage in encoder.stages)


def test_the_teacher_sees_the_whole_image_mirrored_or_not():
    x = torch.rand(40, 3, 20, 20)
    whole, *crops = bag_views(20, local_crops=2)(x)
    as_is = [torch.allclose(a, b, atol=1e-5) for a, b in zip(whole, x, strict=True)]
    mirrored = [torch.allclose(a, b.flip(-1), atol=1e-5) for a, b in zip(whole, x, strict=True)]
    assert all(a != b for a, b in zip(as_is, mirrored, strict=True))
    assert 5 < sum(as_is) < 35
    assert [crop.shape[-1] for crop in crops] == [16, 16, 8, 8]


def test_what_cannot_be_is_refused(tiny):
    encoder = ResNet(8, width=4, image_size=16)
    for wrong in ({"kappa": 0.0}, {"inverse_delta": 0.0}, {"n_words": 1}, {"n_levels": 0}, {"local_crops": -1}):
        ((name, value),) = wrong.items()
        with pytest.raises(ArgumentError, match=f"{name}={value}"):
            OBoW(encoder, **wrong)
    with pytest.raises(ArgumentError, match="stages or tokens"):
        OBoW(tiny)
