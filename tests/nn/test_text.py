import copy
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load, save
from torch import nn

from tacit.errors import ArgumentError
from tacit.learner import load_state
from tacit.nn import TextEncoder
from tacit.nn._text import BODIES, TEXT, text_encoder

TEXTS = ["a cat sat on a mat", "dogs bark", "", "the cat and the dog sat"]
KINDS = [(body, causal) for body in BODIES for causal in (False, True)]


def small(body="transformer", **arguments):
    torch.manual_seed(0)
    known = {"vocab_size": 40, "max_length": 12, "dim": 16, "num_heads": 2, "tokenizer": "words"}
    return TextEncoder(body, **{**known, **arguments}).eval().fit_prepare(TEXTS)


def rows(*lengths, width=12):
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(5, 20, (len(lengths), width), generator=generator)
    return x * (torch.arange(width) < torch.tensor(lengths)[:, None])


@pytest.mark.parametrize(("body", "causal"), KINDS)
def test_padding_changes_nothing(body, causal):
    encoder, x = small(body, causal=causal), rows(3, 7, 5)
    together, tokens = encoder(x), encoder.tokens(x)
    assert tokens.shape == (3, 12, 16)
    for i, length in enumerate((3, 7, 5)):
        alone = x[i : i + 1, :length]
        torch.testing.assert_close(encoder(alone)[0], together[i])
        torch.testing.assert_close(encoder.tokens(alone)[0], tokens[i, :length])
        assert not tokens[i, length:].any()
    torch.testing.assert_close(encoder(torch.cat([x, rows(12)]))[:3], together)


@pytest.mark.parametrize("body", BODIES)
def test_causal_tokens_see_nothing_later(body):
    encoder, x = small(body, causal=True), rows(8, 8)
    later = x.clone()
    later[:, 5:8] = 39
    torch.testing.assert_close(encoder.tokens(later)[:, :5], encoder.tokens(x)[:, :5])
    assert not torch.allclose(encoder.tokens(later)[:, 5], encoder.tokens(x)[:, 5])


@pytest.mark.parametrize(("body", "reach"), [("transformer", 11), ("bilstm", 11), ("gated-cnn", 4), ("bag", 0)])
def test_how_far_a_token_sees(body, reach):
    encoder, x = small(body, num_layers=2), rows(12)
    embedded = encoder.embedding(x).detach().requires_grad_()
    encoder.tokens(x, embedded)[0, 0, 0].backward()
    assert embedded.grad[0].abs().sum(1).nonzero().max() == reach


def test_the_transformer_is_torchs():
    encoder = small(num_layers=2, dropout=0.0)
    layers = []
    for block in encoder.body.blocks:
        layer = nn.TransformerEncoderLayer(16, 2, 64, 0.0, "gelu", batch_first=True, norm_first=True)
        attention = layer.self_attn
        attention.in_proj_weight, attention.in_proj_bias = block.qkv.weight, block.qkv.bias
        attention.out_proj = block.out
        layer.norm1, layer.norm2, layer.linear1, layer.linear2 = block.norm1, block.norm2, block.mlp[0], block.mlp[2]
        layers.append(layer)
    x = rows(3, 12, 6)
    states = encoder.embedding(x) + encoder.body.positions
    for layer in layers:
        states = layer(states, src_key_padding_mask=x == 0)
    expected = encoder.body.norm(states)
    mask = (x != 0)[..., None]
    torch.testing.assert_close(encoder.tokens(x), expected * mask)
    torch.testing.assert_close(encoder(x), (expected * mask).sum(1) / mask.sum(1))


def test_the_lstm_reads_each_text_alone():
    encoder = small("bilstm")
    x = rows(3, 9)
    for row, length in zip(x, (3, 9), strict=True):
        states, _ = encoder.body.lstm(encoder.embedding(row[None, :length]))
        torch.testing.assert_close(encoder(row[None])[0], states[0].mean(0))


def test_the_gated_convolution_is_its_equation():
    encoder = small("gated-cnn", num_layers=1)
    body, x = encoder.body, rows(7)[:, :7]
    states = encoder.embedding(x)
    padded = F.pad(body.norms[0](states), (0, 0, 2, 2))[0]
    weight, bias = body.convolutions[0].weight, body.convolutions[0].bias
    windows = torch.stack([torch.einsum("okw,wk->o", weight, padded[i : i + 5]) for i in range(7)])
    linear, gate = (windows + bias).split(16, dim=1)
    torch.testing.assert_close(encoder.tokens(x)[0], body.norm(states[0] + linear * gate.sigmoid()))


@pytest.mark.parametrize("causal", [False, True])
def test_the_bag_is_a_mean(causal):
    encoder, x = small("bag", causal=causal), rows(4)
    vectors = encoder.embedding.weight[x[0, :4]]
    so_far = torch.stack([vectors[: i + 1].mean(0) for i in range(4)])
    torch.testing.assert_close(encoder(x)[0], so_far.mean(0) if causal else vectors.mean(0))


@pytest.mark.parametrize("body", ["transformer", "bilstm"])
def test_cls_is_the_first_token(body):
    encoder = small(body, pool="cls")
    x = encoder.prepare(TEXTS)
    assert (x[:, 0] == 2).all()
    torch.testing.assert_close(encoder(x), encoder.tokens(x)[:, 0])


@pytest.mark.parametrize(("body", "causal"), KINDS)
def test_rows_without_a_token_are_zero_and_their_gradient_is_finite(body, causal):
    encoder = small(body, causal=causal).train()
    x = torch.cat([rows(4), torch.zeros(1, 12, dtype=torch.long)])
    out = encoder(x)
    assert not out[1].any()
    out.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in encoder.parameters())
    assert not encoder.embedding.weight.grad[0].any()
    assert not encoder(x[1:]).any()


@pytest.mark.parametrize("body", BODIES)
def test_embedded_input_stands_for_its_tokens(body):
    encoder, x = small(body), rows(4, 9)
    torch.testing.assert_close(encoder.tokens(x, encoder.embedding(x)), encoder.tokens(x))


@pytest.mark.parametrize("name", TEXT)
@pytest.mark.parametrize("tokenizer", ["auto", "words", "wordpiece", "bpe", "characters"])
def test_config_and_state_rebuild_it(name, tokenizer):
    texts = [*TEXTS, "grün 東京 😀"]
    torch.manual_seed(0)
    encoder = text_encoder(name, tokenizer=tokenizer, vocab_size=300, max_length=9, dim=16).eval().fit_prepare(texts)
    again = text_encoder(**encoder.config).eval()
    load_state(again, encoder.state_dict())
    x = again.prepare(texts)
    assert x.dtype == torch.int32
    assert x.equal(encoder.prepare(texts))
    torch.testing.assert_close(again(x), encoder(x))
    assert again.num_tokens == encoder.num_tokens <= 300
    assert again.prepare(x).equal(x)
    assert again.prepare(x.numpy()).equal(x)
    assert again.prepare(np.array(texts, dtype=object)).equal(x)


def test_another_vocabulary_is_read_when_loaded():
    first, second = small(), small().fit_prepare(["entirely other words"])
    assert first.tokenizer.tokens != second.tokenizer.tokens
    first.load_state_dict(load(save(second.state_dict())))
    assert first.tokenizer.tokens == second.tokenizer.tokens
    assert copy.deepcopy(first).prepare(TEXTS).equal(second.prepare(TEXTS))


def test_auto_takes_words_where_tokenizers_is_missing(monkeypatch):
    assert small(tokenizer="auto", vocab_size=100).tokenizer.kind == "wordpiece"
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert small(tokenizer="auto", vocab_size=100).tokenizer.kind == "words"


@pytest.mark.parametrize("name", ["text-transformer", "text-gated-cnn", "text-bag"])
def test_it_can_be_exported(name):
    encoder = text_encoder(name, vocab_size=20, max_length=6, dim=16).eval()
    x = rows(3, 5, width=6)
    program = torch.export.export(encoder, (x,))
    torch.testing.assert_close(program.module()(x), encoder(x))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TextEncoder("transfromer"), r"body='transfromer'.*did you mean 'transformer'"),
        (lambda: TextEncoder(tokenizer="word"), r"tokenizer='word'.*did you mean 'words'"),
        (lambda: TextEncoder(dim=10, num_heads=4), r"num_heads=4: expected a divisor of dim=10"),
        (lambda: TextEncoder("bilstm", dim=9), r"dim=9: expected an even number"),
        (lambda: TextEncoder("bag", pool="cls"), r"pool='cls'"),
        (lambda: TextEncoder(causal=True, pool="cls"), r"pool='cls'"),
        (lambda: TextEncoder().prepare(["a"]), r"fit_prepare\(texts\) trains it"),
        (lambda: small().prepare(torch.zeros(2, 13, dtype=torch.long)), r"items=.*up to 12"),
        (lambda: small().prepare(torch.zeros(2, 3)), r"items=.*whole numbers"),
        (lambda: small().prepare("one text"), r"a list of texts"),
        (lambda: small()(rows(13, width=13)), r"x\.shape=\(1, 13\)"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(ArgumentError, match=message):
        call()
