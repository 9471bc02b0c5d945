import math

import pytest
import torch
import torch.nn.functional as F
from pairs import clip, images
from torch import nn

from tacit.data import Dataset
from tacit.errors import ArgumentError
from tacit.multimodal import POUF, pouf_loss
from tacit.multimodal._pouf import negative_information, transport_cost
from tacit.training import fit

NAMES = ["red", "green", "blue"]


def slow_transport(logits, cost, prior):
    """Both directions, one weight at a time."""
    n, k = logits.shape
    total = 0.0
    for i in range(n):
        weights = [prior[j] * math.exp(logits[i, j]) for j in range(k)]
        total += sum(w * float(cost[i, j]) for j, w in enumerate(weights)) / sum(weights) / n
    for j in range(k):
        weights = [math.exp(logits[i, j]) for i in range(n)]
        total += prior[j] * sum(w * float(cost[i, j]) for i, w in enumerate(weights)) / sum(weights)
    return total


@pytest.mark.parametrize("prior", [[1 / 3] * 3, [0.6, 0.3, 0.1]])
def test_transport_against_the_definition(prior):
    logits, cost = torch.randn(5, 3, dtype=torch.double), torch.rand(5, 3, dtype=torch.double)
    given = torch.tensor(prior, dtype=torch.double)
    assert transport_cost(logits, cost, given).item() == pytest.approx(slow_transport(logits, cost, prior), rel=1e-9)


def test_uniform_prior_is_the_official_code():
    """mean over the classes of the cost to the points, no prior anywhere."""
    logits, cost = torch.randn(5, 3), torch.rand(5, 3)
    expected = (cost * logits.softmax(1)).sum(1).mean() + (cost * logits.softmax(0)).sum(0).mean()
    torch.testing.assert_close(transport_cost(logits, cost), expected)


def test_information_is_that_of_the_joint_distribution():
    """I = sum p(i, k) log p(i, k) / p(i) p(k), items uniform."""
    logits = torch.randn(6, 4, dtype=torch.double)
    joint = logits.softmax(1) / 6
    product = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
    assert negative_information(logits).item() == pytest.approx(-(joint * (joint / product).log()).sum().item())
    assert negative_information(torch.tensor([[1e3, -1e3], [-1e3, 1e3]])).isfinite()


def test_loss_is_that_of_features_and_prototypes():
    learner = POUF.from_clip(
        clip(), NAMES, templates=["a {} square", "{}"], views=nn.Identity(), information_weight=0.7
    )
    learner.eval()
    x = images() / 255
    features = learner.image_projection(learner.image_encoder(x))
    texts = [F.normalize(learner.encode_text([f"a {name} square", name]), dim=1).mean(0) for name in NAMES]
    expected = pouf_loss(features, torch.stack(texts), scale=learner.log_scale.exp(), information_weight=0.7)
    torch.testing.assert_close(learner.loss(x), expected)


def test_it_starts_from_the_trained_encoder_and_leaves_it_alone():
    original = clip()
    before = {name: value.clone() for name, value in original.state_dict().items()}
    learner = POUF.from_clip(original, NAMES)
    assert learner.predict(images()).tolist() == original.zero_shot(images(), NAMES).tolist()
    fit(learner, Dataset({"image": images(16)}, modality="pairs"), max_steps=4, batch_size=8, lr=1e-2)
    assert all(torch.equal(before[name], value) for name, value in original.state_dict().items())


@pytest.mark.parametrize("tune", ["model", "prompt"])
def test_what_is_tuned(tune):
    learner = POUF.from_clip(clip(), NAMES, templates=["a {} square"], tune=tune)
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    prototypes = learner.eval().prototypes().detach()
    fit(learner, Dataset({"image": images(16)}, modality="pairs"), max_steps=3, batch_size=8, lr=1e-2)
    moved = {name for name, value in learner.state_dict().items() if not torch.equal(before[name], value)}
    if tune == "prompt":
        assert moved == {"context", "log_scale", "prior"}
    else:
        assert {"image_projection.weight", "text_projection.weight", "log_scale"} <= moved
    assert not torch.allclose(prototypes, learner.eval().prototypes())


def test_the_prompt_is_shared_and_names_keep_their_own_tokens():
    learner = POUF.from_clip(clip(), NAMES, templates=["a {} square", "the {}"], tune="prompt")
    learner.context.data.fill_(1.0)
    added = (learner._context() != 0).any(2)
    tokens = learner.prompts.view(3, 2, -1)
    for template in range(2):
        for place in range(tokens.shape[2]):
            column = tokens[:, template, place].tolist()
            shared = len(set(column)) == 1 and column[0] != 0
            assert added.view(3, 2, -1)[:, template, place].tolist() == [shared] * 3


def test_prior_follows_the_predictions():
    learner = POUF.from_clip(clip(), NAMES, prior_momentum=0.5, views=nn.Identity())
    learner.eval()
    x = images() / 255
    logits = learner.log_scale.exp() * learner.encode_image(images()) @ learner.prototypes().T
    learner.train()
    learner._watch(logits)
    torch.testing.assert_close(learner.prior, 0.5 / 3 + 0.5 * logits.softmax(1).mean(0))
    fixed = POUF.from_clip(clip(), NAMES, prior_momentum=1.0, views=nn.Identity())
    fixed.loss(x)
    torch.testing.assert_close(fixed.prior, torch.full((3,), 1 / 3))


def test_names_in_one_text():
    learner = POUF.from_clip(clip(), "red, green,blue")
    assert learner.class_names == NAMES
    assert learner.arguments["class_names"] == "red, green,blue"
    assert POUF.from_clip(clip(), NAMES).arguments["class_names"] == "red,green,blue"


def test_what_cannot_be_is_refused():
    for bad in ({"tune": "head"}, {"transport_weight": -1}, {"prior_momentum": 2}, {"templates": ["no place"]}):
        with pytest.raises(ArgumentError, match=next(iter(bad))):
            POUF.from_clip(clip(), NAMES, **bad)
    learner = clip()
    learner = POUF(learner.image_encoder, learner.text_encoder)
    with pytest.raises(ArgumentError, match="prompts"):
        learner.prototypes()
