import pytest
import torch
import torch.nn.functional as F

from tacit.nn import ResNet
from tacit.pretrain import MoCoV2
from tacit.pretrain._moco_v2 import cost_of_the_queue


def test_loss_is_the_cross_entropy_of_one_key_against_the_queue(mirror, images):
    learner = MoCoV2(ResNet(8, width=4, image_size=8), views=mirror, embed_dim=5, hidden_dim=7, queue_size=9)
    expected = 0.0
    queries = learner.projector(learner.encoder(images))
    for q, k in zip(queries, learner.key_network(images.flip(-1)), strict=True):
        q, k = q / q.norm(), k / k.norm()
        logits = torch.stack([q @ k, *(q @ old for old in learner.queue.items)]) / 0.2
        expected -= F.log_softmax(logits, dim=0)[0].item() / 6
    assert learner.loss(images).item() == pytest.approx(expected, rel=1e-5)


def test_queue_holds_the_last_keys_in_order(tiny, mirror):
    learner = MoCoV2(tiny, views=mirror, embed_dim=5, hidden_dim=7, queue_size=12, momentum=1.0)
    keys = []
    for _ in range(5):
        x = torch.rand(6, 3, 8, 8)
        keys.append(F.normalize(learner.key_network(x.flip(-1)), dim=1))
        learner.loss(x)
        learner.after_step(0.5)
    # 30 keys into 12 places: the fifth batch lies in the first half again
    torch.testing.assert_close(learner.queue.items, torch.cat([keys[4], keys[3]]))


def test_loss_alone_leaves_queue_and_key_network_as_they_are(tiny, mirror, images):
    learner = MoCoV2(tiny, views=mirror, embed_dim=5, hidden_dim=7, queue_size=12)
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    learner.loss(images).backward()
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())
    assert all(p.grad is None for p in learner.key_network.parameters())


def test_key_network_is_the_average_with_constant_decay(tiny, mirror, images):
    learner = MoCoV2(tiny, views=mirror, embed_dim=5, hidden_dim=7, queue_size=12, momentum=0.9)
    live = [*learner.encoder.parameters(), *learner.projector.parameters()]
    expected = [p.detach().clone() for p in live]
    for k in range(1, 4):
        learner.loss(images)
        with torch.no_grad():
            for p in live:
                p += torch.randn_like(p)
        learner.after_step(k / 3)
        expected = [0.9 * slow + 0.1 * p.detach() for slow, p in zip(expected, live, strict=True)]
    for key, slow in zip(learner.key_network.parameters(), expected, strict=True):
        torch.testing.assert_close(key, slow)


def test_checked_property():
    measured, expected = cost_of_the_queue()
    assert abs(measured - expected) <= cost_of_the_queue.checked.tolerance
