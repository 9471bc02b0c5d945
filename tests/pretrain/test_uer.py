"""Assemblies: each target against its definition, every cell from configuration alone, sums, and saving."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from tacit.errors import ArgumentError
from tacit.nn import ResNet, TextEncoder
from tacit.pretrain import MLM, Electra, SelfPretraining, TextPretrainer
from tacit.pretrain._targets import TARGETS, NextPart, NextToken, PartOrder, TextClass, cut_in_two, join
from tacit.training import fit

TEXTS = ["cats purr and sleep", "dogs bark at the moon", "birds sing in the morning sun", "fish swim"] * 4
BODIES = ("transformer", "bilstm", "gated-cnn", "bag", "ssm")
SIZES = {"vocab_size": 60, "max_length": 10, "dim": 8, "num_layers": 1, "num_heads": 2, "dropout": 0.0}


def made(body="transformer", *, causal=False):
    torch.manual_seed(0)
    return TextEncoder(body, tokenizer="words", causal=causal, **SIZES).fit_prepare(TEXTS)


def assembled(body, targets, tokenizer="words"):
    config = {"encoder": {"name": f"text-{body}", "tokenizer": tokenizer, **SIZES}, "targets": targets, "n_classes": 4}
    return TextPretrainer.assemble(TEXTS, config)


@pytest.mark.parametrize("body", BODIES)
def test_mlm_alone_is_the_masked_language_model(body):
    ours, bert = TextPretrainer(made(body)), MLM(made(body))
    bert.head.load_state_dict(ours.targets["mlm"].head.state_dict())
    x = ours.encoder.prepare(TEXTS)
    losses = []
    for learner in (ours, bert):
        torch.manual_seed(5)
        losses.append(learner.loss(x))
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize("body", BODIES)
def test_next_token_is_a_sum_over_prefixes(body):
    """Each word's cost from the text cut before it, by the encoder run on the prefix alone."""
    encoder = made(body, causal=True).eval()
    target, x = NextToken(encoder), encoder.prepare(TEXTS[:3])
    costs = []
    for row in x.long():
        for t in range(1, int((row > 0).sum())):
            state = encoder.tokens(row[None, :t])[:, -1]
            costs.append(F.cross_entropy(target.head(state, encoder.embedding.weight), row[t : t + 1]))
    torch.testing.assert_close(target.loss(encoder, x), torch.stack(costs).mean(), rtol=1e-4, atol=1e-5)


def test_unknown_classes_cost_nothing():
    encoder = made()
    target, x = TextClass(encoder, n_classes=3), encoder.prepare(TEXTS[:4])
    y = torch.tensor([2, -1, 0, -1])
    expected = F.cross_entropy(target.head(encoder(x[[0, 2]])), y[[0, 2]])
    torch.testing.assert_close(target.loss(encoder, x, y), expected)
    assert target.loss(encoder, x, torch.full((4,), -1)).item() == 0


def test_a_text_is_cut_in_its_middle_half_and_joined_again():
    x = torch.arange(5, 13)[None] * (torch.arange(8) < torch.tensor([[8], [7], [2], [0]]))
    for _ in range(30):
        first, second = cut_in_two(x)
        for row, a, b in zip(x.tolist(), first.tolist(), second.tolist(), strict=True):
            a, b = [i for i in a if i], [i for i in b if i]
            assert a + b == [i for i in row if i]
            assert len(a) >= 0.25 * len(a + b) - 0.5
            assert len(b) >= 0.25 * len(a + b) - 0.5
        for most in (4, 9, 20):
            for row, a, b in zip(join(first, second, most).tolist(), first.tolist(), second.tolist(), strict=True):
                whole = [i for i in a if i] + [3] + [i for i in b if i]
                assert [i for i in row if i] == whole[:most]


def inputs_of(target, encoder, x, monkeypatch):
    """What the encoder is given, and which rows are said to be true."""
    seen = {}
    monkeypatch.setattr(encoder, "forward", lambda x: seen.update(x=x) or torch.zeros(len(x), encoder.dim))

    def cost(logits, truth):
        seen["truth"] = truth[:, 0].bool().tolist()
        return logits.sum()

    monkeypatch.setattr(F, "binary_cross_entropy_with_logits", cost)
    target.loss(encoder, x)
    return [[i for i in row if i] for row in seen["x"].tolist()], seen["truth"]


@pytest.mark.parametrize("body", ["transformer", "gated-cnn"])
def test_next_part_is_the_texts_own_or_the_neighbours(body, monkeypatch):
    encoder = made(body)
    x = encoder.prepare(TEXTS)
    texts = [[i for i in row if i >= 5] for row in x.tolist()]
    outcomes = set()
    for _ in range(5):
        pairs, truth = inputs_of(NextPart(encoder), encoder, x, monkeypatch)
        for number, (pair, own) in enumerate(zip(pairs, truth, strict=True)):
            assert (pair[0] == 2) == encoder.starts
            cut = pair.index(3)
            first, second = pair[int(encoder.starts) : cut], pair[cut + 1 :]
            text, other = texts[number], texts[number - 1]
            assert first == text[: len(first)]
            rest = text[len(first) :]
            assert len(second) <= len(rest)
            if own:
                assert second == rest[: len(second)]
            else:
                joined = ",".join(map(str, other))
                assert ",".join(map(str, second)) in joined
            outcomes.add(own)
    assert outcomes == {True, False}


def test_length_does_not_tell_whose_part_it_is(monkeypatch):
    """Own and other parts of the same pair of cuts are equally long."""
    encoder = made()
    x = encoder.prepare(TEXTS)
    lengths = []
    for own in (0.0, 1.0):
        torch.manual_seed(1)
        cuts = torch.rand(len(x), 1)
        draws = iter([cuts, torch.full((len(x), 1), 1 - own)])
        with monkeypatch.context() as patched:
            patched.setattr(torch, "rand", lambda *shape, draws=draws, **words: next(draws))
            pairs, truth = inputs_of(NextPart(encoder), encoder, x, patched)
        assert truth == [bool(own)] * len(x)
        lengths.append([len(pair) for pair in pairs])
    assert lengths[0] == lengths[1]


def test_parts_are_swapped(monkeypatch):
    encoder = made()
    x = encoder.prepare(TEXTS)
    pairs, truth = inputs_of(PartOrder(encoder), encoder, x, monkeypatch)
    assert set(truth) == {True, False}
    for row, pair, ordered in zip(x.tolist(), pairs, truth, strict=True):
        cut = pair.index(3)
        a, b = pair[1:cut], pair[cut + 1 :]
        assert (a + b if ordered else b + a) == [i for i in row if i >= 5]


@pytest.mark.parametrize(("body", "targets"), list(itertools.product(BODIES, [*TARGETS, "mlm+cls", "lm+nsp"])))
def test_every_cell_trains_from_its_configuration(body, targets):
    learner = assembled(body, targets)
    data = {"x": learner.encoder.prepare(TEXTS), "y": torch.arange(16) % 4}
    before = learner.encoder.embedding.weight.clone()
    fit(learner, data, max_steps=2, batch_size=8)
    assert learner.encoder.causal == ("lm" in targets.split("+"))
    assert not torch.equal(before, learner.encoder.embedding.weight)
    assert all(p.isfinite().all() for p in learner.parameters())


@pytest.mark.parametrize("tokenizer", ["words", "characters"])
def test_tokenizers_are_one_word_of_the_configuration(tokenizer):
    learner = assembled("gated-cnn", "mlm", tokenizer)
    assert learner.encoder.tokenizer.kind == tokenizer
    assert learner.loss(learner.encoder.prepare(TEXTS)).isfinite()


def test_several_targets_sum():
    learner = assembled("transformer", "mlm+cls+sop")
    assert learner.columns == ("x", "y")
    assert assembled("transformer", "mlm+sop").columns == ("x",)
    x, y = learner.encoder.prepare(TEXTS), torch.arange(16) % 4
    torch.manual_seed(2)
    whole = learner.loss(x, y=y)
    torch.manual_seed(2)
    parts = [
        target.loss(learner.encoder, x, y) if name == "cls" else target.loss(learner.encoder, x)
        for name, target in learner.targets.items()
    ]
    torch.testing.assert_close(whole, sum(parts))


def test_an_assembly_is_saved_and_loaded_by_its_words(tmp_path):
    from tacit.runs import load

    learner = assembled("bilstm", "mlm+sop")
    fit(learner, {"x": learner.encoder.prepare(TEXTS)}, max_steps=2, batch_size=8, out=tmp_path / "run")
    again = load(tmp_path / "run").encoder
    torch.testing.assert_close(again(again.prepare(TEXTS)), learner.encoder(learner.encoder.prepare(TEXTS)))
    assert learner.arguments["targets"] == "mlm+sop"
    learner.encoder.save_pretrained(tmp_path / "zoo")
    found = TextEncoder.from_pretrained(tmp_path / "zoo")
    torch.testing.assert_close(found(found.prepare(TEXTS)), again(again.prepare(TEXTS)))


def test_what_cannot_be_is_refused():
    with pytest.raises(ArgumentError, match=r"targets='mln'.*'mlm'"):
        TextPretrainer(made(), targets="mln")
    with pytest.raises(ArgumentError, match="causal=True"):
        TextPretrainer(made(), targets="mlm+lm")
    with pytest.raises(ArgumentError, match="n_classes=None"):
        TextPretrainer(made(), targets="cls")
    with pytest.raises(ArgumentError, match="mask=0"):
        TextPretrainer(made(), mask=0)
    for kind in (TextPretrainer, Electra, SelfPretraining):
        with pytest.raises(ArgumentError, match="encoder='ResNet'"):
            kind(ResNet(8, width=4, image_size=8))
