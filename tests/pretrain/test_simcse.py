import math

import pytest
import torch
import torch.nn.functional as F

import tacit.training
from tacit.data import Dataset
from tacit.errors import ArgumentError
from tacit.nn import TextEncoder
from tacit.pretrain import SimCSE
from tacit.pretrain._simcse import cost_at_right_angles


def learner(dropout=0.1, **arguments):
    torch.manual_seed(0)
    encoder = TextEncoder(
        tokenizer="words", vocab_size=30, max_length=8, dim=16, num_layers=1, num_heads=2, dropout=dropout
    )
    return SimCSE(encoder, **arguments)


def test_loss_is_the_equation_on_two_passes_with_other_dropout():
    method, x = learner(temperature=0.07), torch.randint(5, 30, (6, 8))
    torch.manual_seed(3)
    loss = method.loss(x)
    torch.manual_seed(3)
    first, second = method.projector(method.encoder(torch.cat([x, x]))).detach().split(6)
    assert not torch.allclose(first, second)
    s = torch.tensor([[F.cosine_similarity(a, b, dim=0) for b in second] for a in first]) / 0.07
    expected = torch.stack([-(s[i, i].exp() / s[i].exp().sum()).log() for i in range(6)]).mean()
    torch.testing.assert_close(loss, expected)


def test_an_encoder_without_dropout_is_refused():
    with pytest.raises(ArgumentError, match="dropout, which makes the two views"):
        learner(dropout=0.0)


def test_it_tells_texts_apart():
    x = torch.randint(5, 30, (128, 8), generator=torch.Generator().manual_seed(0))
    method = learner()
    tacit.training.fit(method, Dataset({"x": x}), max_steps=60, batch_size=64, lr=3e-3, seed=0)
    assert method.loss(x) < 0.5 * math.log(128)


def test_checked_property():
    measured, expected = cost_at_right_angles()
    assert measured == pytest.approx(expected, abs=cost_at_right_angles.checked.tolerance)
