import math

import pytest
import torch
import torch.nn.functional as F

import tacit.training
from tacit.data import Dataset
from tacit.nn import TextEncoder
from tacit.pretrain import MLM
from tacit.pretrain._mlm import cost_of_knowing_nothing


def learner(body="transformer", **arguments):
    torch.manual_seed(0)
    return MLM(
        TextEncoder(body, tokenizer="words", vocab_size=30, max_length=10, dim=16, num_heads=2, dropout=0.0),
        **arguments,
    )


def test_loss_is_the_mean_over_chosen_words_of_the_whole_softmax(monkeypatch):
    method = learner()
    x = torch.randint(5, 30, (4, 10))
    x[:, 0], x[2:, 6:] = 2, 0
    masked, chosen = x.clone(), torch.zeros(4, 10, dtype=torch.bool)
    for i, j in ((0, 3), (1, 1), (1, 9), (2, 5), (3, 2)):
        masked[i, j], chosen[i, j] = 4, True
    monkeypatch.setattr("tacit.pretrain._mlm.mask_tokens", lambda *_, **__: (masked, chosen))
    states = method.head.transform(method.encoder.tokens(masked))
    log_softmax = F.log_softmax(states @ method.encoder.embedding.weight.T + method.head.bias, dim=2)
    costs = [-log_softmax[i, j, x[i, j]] for i, j in chosen.nonzero().tolist()]
    torch.testing.assert_close(method.loss(x), torch.stack(costs).mean())


def test_output_weights_are_the_word_vectors():
    method = learner()
    names = [name for name, p in method.named_parameters() if p.shape == (30, 16)]
    assert names == ["encoder.embedding.weight"]


def test_random_words_are_of_the_vocabulary(monkeypatch):
    method = learner()
    method.encoder.fit_prepare(["a b c"])
    seen = {}

    def note(x, **words):
        seen.update(words)
        return x, x > 0

    monkeypatch.setattr("tacit.pretrain._mlm.mask_tokens", note)
    method.loss(torch.full((1, 3), 5))
    assert seen["vocab_size"] == 8


def test_texts_without_words_cost_nothing():
    method = learner()
    loss = method.loss(torch.tensor([[2, 0, 0], [0, 0, 0]]))
    assert loss.item() == 0
    loss.backward()


def test_it_learns_what_follows_from_the_neighbours():
    """Texts of one word and its repetitions: what is hidden costs far less than its frequency says."""
    words = torch.randint(5, 21, (256, 1), generator=torch.Generator().manual_seed(0))
    x = torch.cat([torch.full((256, 1), 2), words.repeat(1, 8)], dim=1)
    method = learner(replaced=1.0, random=0.0)
    tacit.training.fit(method, Dataset({"x": x}), max_steps=100, batch_size=64, lr=1e-2, seed=0)
    assert method.eval().loss(x) < 0.5 * math.log(16)


def test_checked_property():
    measured, expected = cost_of_knowing_nothing()
    assert measured == pytest.approx(expected, abs=cost_of_knowing_nothing.checked.tolerance)
