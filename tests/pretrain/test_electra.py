"""ELECTRA: its two losses against slow loops, the drawing, what is shared and where gradients go."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tacit.errors import ArgumentError
from tacit.nn import TextEncoder
from tacit.pretrain import MLM, Electra, _electra

BODIES = ("transformer", "bilstm", "gated-cnn", "bag", "ssm")


def made(body="transformer", **words):
    sizes = {"dim": 16, "num_layers": 1, "num_heads": 2, "dropout": 0.0}
    return TextEncoder(body, tokenizer="words", vocab_size=20, max_length=9, **{**sizes, **words})


def rows(n=6):
    """Texts of 3 to 8 words after [CLS], as token numbers."""
    x = torch.randint(5, 20, (n, 9))
    x[:, 0] = 2
    return x * (torch.arange(9) < torch.randint(4, 10, (n, 1)))


def played(learner, x, monkeypatch):
    """The loss, and what was masked, predicted and drawn on the way to it."""
    seen = {}
    mask_tokens, draw = _electra.mask_tokens, learner.draw

    def mask(x, **words):
        seen["masked"], seen["chosen"] = mask_tokens(x, **words)
        return seen["masked"], seen["chosen"]

    def keep(logits):
        seen["logits"], seen["drawn"] = logits.detach(), draw(logits)
        return seen["drawn"]

    monkeypatch.setattr(_electra, "mask_tokens", mask)
    monkeypatch.setattr(learner, "draw", keep)
    return learner.loss(x), seen


@pytest.mark.parametrize("only_chosen", [False, True])
@pytest.mark.parametrize("body", BODIES)
def test_loss_against_the_equations(body, only_chosen, monkeypatch):
    learner, x = Electra(made(body), discriminator_weight=7.0, mask=0.4, only_chosen=only_chosen).eval(), rows()
    loss, seen = played(learner, x, monkeypatch)
    assert (seen["masked"][seen["chosen"]] == 4).all()
    corrupt, place, generator_cost = x.clone(), 0, 0.0
    for i, t in seen["chosen"].nonzero().tolist():  # row by row, as the mask picks them
        generator_cost -= F.log_softmax(seen["logits"][place], 0)[x[i, t] - 5].item()
        corrupt[i, t] = seen["drawn"][place]
        place += 1
    generator_cost /= place
    costs = []
    states = learner.encoder.tokens(corrupt)
    for i in range(len(x)):
        for t in range(x.shape[1]):
            if x[i, t] == 0 or (only_chosen and not seen["chosen"][i, t]):
                continue
            original = 1 - torch.sigmoid(learner.head(states[i, t]))[0].item()
            costs.append(-math.log(original if corrupt[i, t] == x[i, t] else 1 - original))
    assert len(costs) == int(seen["chosen"].sum() if only_chosen else (x > 0).sum())
    assert loss.item() == pytest.approx(generator_cost + 7.0 * sum(costs) / len(costs), rel=1e-4)


def test_a_word_that_is_drawn_right_counts_as_original(monkeypatch):
    learner, x = Electra(made(), mask=0.5).eval(), rows()
    chosen = {}
    mask_tokens = _electra.mask_tokens

    def mask(x, **words):
        masked, chosen["here"] = mask_tokens(x, **words)
        return masked, chosen["here"]

    monkeypatch.setattr(_electra, "mask_tokens", mask)
    monkeypatch.setattr(learner, "draw", lambda logits: x[:, : x.shape[1]][chosen["here"]])
    nn.init.zeros_(learner.head[-1].weight)
    learner.head[-1].bias.data.fill_(-30.0)  # sure that all is original
    learner.generator.bias.data.zero_()
    nn.init.zeros_(learner.encoder.embedding.weight)
    assert learner.loss(x).item() == pytest.approx(math.log(15), rel=1e-5)  # the generator's alone, of 15 words


def test_words_are_drawn_from_the_generators_softmax():
    learner = Electra(made(), temperature=2.0)
    logits = torch.tensor([2.0, 0.0, -1.0, 1.0])
    drawn = learner.draw(logits.expand(40_000, 4)) - 5
    shares = torch.bincount(drawn, minlength=4) / 40_000
    torch.testing.assert_close(shares, torch.softmax(logits / 2, 0), atol=0.01, rtol=0)


def test_only_words_of_the_vocabulary_are_drawn():
    encoder = made().fit_prepare(["a b c", "b c d"])
    learner, x = Electra(encoder), encoder.prepare(["a b c d"] * 50)
    logits = learner.generator(encoder, x, x >= 5)
    assert logits.shape == (200, 4)
    assert set((learner.draw(logits)).tolist()) <= {5, 6, 7, 8}


@pytest.mark.parametrize("body", BODIES)
def test_no_gradient_passes_through_the_drawing(body):
    """The generator's own weights get MLM's gradient alone: the discriminator's weight does not change it."""
    gradients = []
    for weight in (1e-6, 50.0):
        torch.manual_seed(3)
        learner = Electra(made(body), discriminator_weight=weight)
        torch.manual_seed(4)
        learner.loss(rows()).backward()
        gradients.append([p.grad for p in learner.generator.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
    assert any(gradient.abs().max() > 0 for gradient in gradients[0])


def test_word_vectors_and_positions_are_the_encoders():
    """Both networks move with the encoder's tables, which have one name in what is saved."""
    learner, x = Electra(made()).eval(), rows()
    before = learner.generator(learner.encoder, x, x >= 5)
    for table in (learner.encoder.embedding.weight, learner.encoder.body.positions):
        table.data[6:8] += 1.0
        after = learner.generator(learner.encoder, x, x >= 5)
        assert (after - before).abs().max() > 1e-4
        before = after
    names = [name for name in learner.state_dict() if "embedding" in name or "positions" in name]
    assert sorted(names) == ["encoder.body.positions", "encoder.embedding.weight"]


@pytest.mark.parametrize(("width", "dim", "heads"), [(0.25, 16, 1), (0.5, 32, 2), (1.0, 64, 4), (0.33, 22, 1)])
def test_width_of_the_generator(width, dim, heads):
    generator = Electra(made(dim=64, num_heads=4), generator_width=width).generator
    assert generator.down.out_features == dim
    assert generator.body.blocks[0].num_heads == heads


def test_flops_are_those_of_the_matrix_products():
    """MLM on a bag: only the head's two products are matrices, forward once and back twice."""
    learner, x = MLM(made("bag"), share=1.0), rows()
    m = int((x >= 5).sum())
    expected = 3 * 2 * m * (16 * 16 + 16 * 20)
    assert _electra.flops(learner, x) == expected
    assert all(p.grad is None for p in learner.parameters())


def test_flops_count_attention():
    """A row twice as long costs more than twice as much."""
    learner = MLM(made(), share=1.0)
    short, long = (_electra.flops(learner, torch.randint(5, 20, (4, t))) for t in (4, 8))
    assert long > 2 * short


def test_texts_without_words_cost_nothing_to_the_generator():
    learner = Electra(made())
    assert learner.loss(torch.tensor([[2, 0, 0], [2, 0, 0]])).isfinite()
    assert learner.loss(torch.zeros(2, 3, dtype=torch.long)).item() == 0
    assert Electra(made(), only_chosen=True).loss(torch.tensor([[2, 1, 0]])).item() == 0


@pytest.mark.parametrize(
    "wrong", [{"generator_width": 0}, {"mask": 0}, {"mask": 1.5}, {"discriminator_weight": 0}, {"temperature": 0}]
)
def test_what_cannot_be_is_refused(wrong):
    with pytest.raises(ArgumentError, match=next(iter(wrong))):
        Electra(made(), **wrong)
