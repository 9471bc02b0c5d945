import pytest
import torch

from tacit.errors import ArgumentError
from tacit.nn import Seq2Seq, TextEncoder, corrupt_spans

WORDS = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"]


def made(**changed):
    torch.manual_seed(0)
    encoder = TextEncoder(tokenizer="words", vocab_size=20, max_length=10, dim=16, num_layers=1, num_heads=2, dropout=0)
    encoder.fit_prepare([" ".join(WORDS)])
    settings = {"num_layers": 2, "num_heads": 2, "dropout": 0.0, "max_target": 12, "n_sentinels": 4}
    return Seq2Seq(encoder, **{**settings, **changed})


def slow_corruption(row, hidden, first, n_sentinels):
    """One text, word after word."""
    source, target, spans, inside = [], [], 0, False
    for word, hit in zip(row, hidden, strict=True):
        if word == 0:
            continue
        if hit and not inside:
            spans += 1
        inside = hit
        if not hit or spans >= n_sentinels:
            source.append(word)
            continue
        if source[-1:] != [first + spans - 1]:
            source.append(first + spans - 1)
            target.append(first + spans - 1)
        target.append(word)
    return source, [*target, first + min(spans, n_sentinels - 1)]


@pytest.mark.parametrize("n_sentinels", [2, 3, 30])
def test_corruption_against_a_loop_over_words(n_sentinels):
    torch.manual_seed(1)
    x = torch.randint(5, 40, (200, 15))
    x = x * (torch.arange(15) < torch.arange(200)[:, None] % 16)  # of every length, none included
    chosen = torch.rand(x.shape) < 0.4
    source, target = corrupt_spans(x, chosen, 100, n_sentinels)
    for i, (row, hidden) in enumerate(zip(x.tolist(), chosen.tolist(), strict=True)):
        wanted = slow_corruption(row, hidden, 100, n_sentinels)
        found = [[word for word in side[i].tolist() if word] for side in (source, target)]
        assert found == list(wanted), (row, hidden)
        assert all(not any(side[i, len(kept) :]) for side, kept in zip((source, target), wanted, strict=True))


def test_source_and_target_together_hold_the_text():
    torch.manual_seed(2)
    x = torch.randint(5, 40, (50, 12))
    source, target = corrupt_spans(x, torch.rand(x.shape) < 0.5, 100, 20)
    for row, told, asked in zip(x.tolist(), source.tolist(), target.tolist(), strict=True):
        spans, name = {}, None
        for token in filter(None, asked):
            if token >= 100:
                name = token
            spans.setdefault(name, []).extend([token] if token < 100 else [])
        assert [w for token in filter(None, told) for w in (spans[token] if token >= 100 else [token])] == row


def test_score_is_the_sum_of_what_teacher_forcing_gives_token_by_token():
    """Against one forward pass a token, each on the target's beginning alone."""
    model = made().eval()
    x = model.encoder.prepare(["a b c", "d e f g h"])
    targets = model.targets(["a", "b c d"])
    with torch.no_grad():
        found = model.score(x, targets)
        for i in range(2):
            for k, target in enumerate(targets):
                tokens, total = [t for t in target.tolist() if t], 0.0
                for place, token in enumerate(tokens):
                    begun = torch.tensor([[*tokens[:place], token]])
                    context = model.read(model.encoder.trim(x[i : i + 1]))
                    seen = model.encoder.trim(x[i : i + 1]) != 0
                    total += model._logits(begun, context, seen)[0, -1].log_softmax(0)[token].item()
                assert found[i, k].item() == pytest.approx(total, abs=1e-4)


def test_loss_is_the_mean_over_tokens_of_minus_the_scores():
    model = made().eval()
    x, targets = model.encoder.prepare(["a b c", "d e f g h"]), model.targets(["a b", "c d e f"])
    with torch.no_grad():
        expected = -model.score(x, targets).diagonal().sum() / (targets != 0).sum()
        torch.testing.assert_close(model.loss(x, targets), expected)


def test_all_continuations_together_have_probability_one():
    model = made(max_target=4).eval()
    tokens = torch.arange(24)
    x = model.encoder.prepare(["a b c"])
    with torch.no_grad():
        pairs = torch.cartesian_prod(tokens[1:], tokens[1:])  # 0 is padding, and ends a target
        known = model.score(x, pairs).exp().sum().item()
        context, seen = model.read(model.encoder.trim(x)), model.encoder.trim(x) != 0
        first = model._logits(tokens[1:2, None], context, seen)[0, 0].softmax(0)
        second = torch.stack([model._logits(torch.tensor([[t, 1]]), context, seen)[0, 1].softmax(0) for t in tokens])
        padding = first[0] + (first[1:] * second[1:, 0]).sum()
    assert known + padding.item() == pytest.approx(1.0, abs=1e-4)


def test_padding_changes_nothing():
    model = made().eval()
    short, long = model.encoder.prepare(["a b c"]), model.encoder.prepare(["a b c", "d e f g h i j"])
    targets = model.targets(["a", "b c"])
    with torch.no_grad():
        torch.testing.assert_close(model.score(short, targets), model.score(long, targets)[:1])
        assert model.generate(short, 5).equal(model.generate(long, 5)[:1])


def test_no_token_sees_a_later_one():
    model = made().eval()
    x, one, other = model.encoder.prepare(["a b"]), torch.tensor([[5, 6, 7]]), torch.tensor([[5, 6, 9]])
    with torch.no_grad():
        context, seen = model.read(model.encoder.trim(x)), model.encoder.trim(x) != 0
        torch.testing.assert_close(model._logits(one, context, seen), model._logits(other, context, seen))


def test_it_learns_to_fill_gaps_and_says_the_words_greedily():
    """In an alphabet that always runs in order, what was hidden follows from what stands around it."""
    model = made()
    x = model.encoder.prepare([" ".join(WORDS[i : i + 5]) for i in range(6)])
    chosen = torch.zeros_like(x, dtype=torch.bool)
    chosen[:, 3] = True
    source, target = model.corrupt(x, chosen)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        loss = model.loss(source, target)
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    model.eval()
    assert model.generate(source, 3).equal(target.to(source.dtype))


def test_wrong_sizes_are_named():
    with pytest.raises(ArgumentError, match="num_heads"):
        made(num_heads=3)
    with pytest.raises(ArgumentError, match="n_sentinels"):
        made(n_sentinels=1)
    with pytest.raises(ArgumentError, match="max_length"):
        made().generate(torch.tensor([[5]]), 99)
    with pytest.raises(ArgumentError, match="chosen"):
        corrupt_spans(torch.ones(2, 3, dtype=torch.int64), torch.ones(3, 2, dtype=torch.bool), 9, 4)
