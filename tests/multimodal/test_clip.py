import math

import pytest
import torch
import torch.nn.functional as F
from pairs import TEXTS, clip, images
from torch import nn

from tacit.data import Dataset
from tacit.errors import ArgumentError
from tacit.multimodal import CLIP, fill_templates, zero_shot_logits, zero_shot_weights
from tacit.multimodal._clip import WordPrediction
from tacit.nn import ResNet, TextEncoder
from tacit.training import fit


def slow_clip(image, text, scale):
    """The pseudo-code of figure 3, one row at a time."""
    a = [row / row.norm() for row in image]
    b = [row / row.norm() for row in text]
    n, total = len(a), 0.0
    for i in range(n):
        rows = [scale * float(a[i] @ b[j]) for j in range(n)]
        columns = [scale * float(a[j] @ b[i]) for j in range(n)]
        for logits in (rows, columns):
            total += math.log(sum(math.exp(one) for one in logits)) - logits[i]
    return total / (2 * n)


def test_loss_against_the_pseudo_code():
    learner = clip(temperature=0.2, views=nn.Identity()).eval()
    x, text = images(), learner.text_encoder.prepare(TEXTS)
    a = learner.image_projection(learner.image_encoder(x / 255)).detach()
    b = learner.text_projection(learner.text_encoder(text)).detach()
    assert learner.loss(x / 255, text).item() == pytest.approx(slow_clip(a, b, 5.0), rel=1e-5)


def test_gradients_of_the_cross_entropies():
    """Autograd through the plain (n, n) formulation, scale included."""
    learner = clip(views=nn.Identity()).eval()
    x, text = images() / 255, learner.text_encoder.prepare(TEXTS)
    learner.loss(x, text).backward()
    found = {name: p.grad.clone() for name, p in learner.named_parameters()}
    learner.zero_grad()
    a = F.normalize(learner.image_projection(learner.image_encoder(x)), dim=1)
    b = F.normalize(learner.text_projection(learner.text_encoder(text)), dim=1)
    logits, target = learner.log_scale.exp() * a @ b.T, torch.arange(len(x))
    ((F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2).backward()
    for name, p in learner.named_parameters():
        torch.testing.assert_close(found[name], p.grad, atol=1e-5, rtol=1e-3, msg=name)


def test_scale_begins_at_the_temperature_and_never_exceeds_100():
    learner = clip(temperature=0.07)
    assert learner.log_scale.exp().item() == pytest.approx(1 / 0.07)
    learner.log_scale.data.fill_(6.0)
    learner.after_step(0.5)
    assert learner.log_scale.exp().item() == pytest.approx(100)
    learner.log_scale.data.fill_(-1.0)
    learner.after_step(0.5)
    assert learner.log_scale.item() == -1.0


def test_it_learns_which_text_belongs_to_which_image():
    learner = clip()
    colour = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]], dtype=torch.uint8)
    x = colour[:, :, None, None].expand(4, 3, 8, 8).contiguous()
    text = learner.text_encoder.prepare(TEXTS)
    fit(learner, Dataset({"image": x, "text": text}, modality="pairs"), max_steps=60, batch_size=4, lr=1e-2, seed=0)
    learner.train()
    assert learner.zero_shot(x, ["red", "green", "blue", "white"], ["a {} square"]).tolist() == [0, 1, 2, 3]
    assert learner.training


def test_zero_shot_weights_are_the_mean_over_templates():
    table = {text: torch.randn(3) for text in ("a b", "the b", "a c", "the c")}
    found = zero_shot_weights(
        lambda texts: torch.stack([table[text] for text in texts]), ["b", "c"], ["a {}", "the {}"]
    )
    for row, name in zip(found, ("b", "c"), strict=True):
        mean = (table[f"a {name}"] / table[f"a {name}"].norm() + table[f"the {name}"] / table[f"the {name}"].norm()) / 2
        torch.testing.assert_close(row, mean / mean.norm())


def test_zero_shot_logits_are_cosines():
    features, weights = torch.randn(4, 5), torch.randn(3, 5)
    expected = 7 * torch.cosine_similarity(features[:, None], weights[None], dim=2)
    torch.testing.assert_close(zero_shot_logits(features, weights, 7.0), expected)


def test_tower_is_the_image_half():
    learner = clip().eval()
    tower, x = learner.image_tower(), images()
    torch.testing.assert_close(F.normalize(tower(tower.prepare(x)), dim=1), learner.encode_image(x))
    assert tower.dim == 6


def test_word_prediction_is_the_cross_entropy_with_the_captions_words():
    text_encoder = TextEncoder("bag", tokenizer="words", dim=4, vocab_size=16, max_length=6).fit_prepare(TEXTS)
    learner = WordPrediction(ResNet(8, width=4, image_size=8), text_encoder, views=nn.Identity()).eval()
    x, text = images() / 255, text_encoder.prepare(TEXTS)
    said = learner.head(learner.image_encoder(x)).detach()[:, : text_encoder.num_tokens].log_softmax(1)
    words = [[int(token) for token in row if token > 4] for row in text]
    expected = -sum(said[i, sorted(set(row))].mean() for i, row in enumerate(words)) / len(words)
    assert learner.loss(x, text).item() == pytest.approx(expected.item(), rel=1e-5)
    names = ["red square", "blue square"]
    scores = [
        [said[i, [int(t) for t in text_encoder.prepare([name])[0] if t > 4]].sum() for name in names] for i in range(4)
    ]
    assert learner.zero_shot(x, names).tolist() == torch.tensor(scores).argmax(1).tolist()


def test_what_cannot_be_is_refused():
    with pytest.raises(ArgumentError, match="temperature"):
        clip(temperature=0.001)
    with pytest.raises(ArgumentError, match="templates"):
        fill_templates(["cat"], ["a photo"])
    with pytest.raises(ArgumentError, match="class_names"):
        fill_templates([], ["{}"])
    with pytest.raises(ArgumentError, match="class_names"):
        fill_templates("cat,dog", ["{}"])
    learner = clip()
    with pytest.raises(ArgumentError, match="negative"):
        learner.loss(images()[:1], learner.text_encoder.prepare(TEXTS[:1]))
    assert isinstance(learner, CLIP)
