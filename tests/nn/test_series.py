import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tacit.errors import ArgumentError
from tacit.learner import load_state
from tacit.nn import SeriesCNN, SeriesTransformer

NAN = float("nan")


def ragged(n=6, channels=3, time=12):
    x = torch.randn(n, channels, time) * 5 + 100
    for row, length in zip(x, (12, 7, 3, 9, 1, 12), strict=False):
        row[:, length:] = NAN
    return x


KINDS = [
    lambda **words: SeriesTransformer(3, length=12, embed_dim=16, num_heads=2, **words),
    lambda **words: SeriesCNN(3, length=12, embed_dim=16, num_layers=2, **words),
]


def slow_transformer(encoder, series):
    """One item without padding, step by step in matrices: section 3.1 of the paper and its code's post-norm layer."""

    def norm(layer, u):
        return (u - layer.running_mean) / (layer.running_var + layer.eps).sqrt() * layer.weight + layer.bias

    x = ((series - encoder.mean[:, None]) / encoder.std[:, None]).T
    u = encoder.embed_dim**0.5 * (x @ encoder.embed.weight.T + encoder.embed.bias) + encoder.positions[: len(x)]
    for block in encoder.blocks:
        q, k, v = (u @ block.attention.qkv.weight.T + block.attention.qkv.bias).chunk(3, dim=1)
        size = encoder.embed_dim // block.attention.num_heads
        heads = [
            torch.softmax(q[:, i : i + size] @ k[:, i : i + size].T / size**0.5, dim=1) @ v[:, i : i + size]
            for i in range(0, encoder.embed_dim, size)
        ]
        u = norm(block.norm1, u + block.attention.out(torch.cat(heads, dim=1)))
        u = norm(block.norm2, u + block.mlp(u))
    return F.gelu(u)


def test_transformer_against_one_item_without_padding():
    x = ragged()
    encoder = KINDS[0]().fit_prepare(x).train()
    for _ in range(3):
        encoder(x)  # moves the running statistics away from 0 and 1
    encoder.eval()
    with torch.no_grad():
        tokens, pooled = encoder.tokens(x), encoder(x)
        for item, length in enumerate((12, 7, 3, 9, 1, 12)):
            alone = slow_transformer(encoder, x[item, :, :length])
            torch.testing.assert_close(tokens[item, :length], alone, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(pooled[item], alone.mean(0), rtol=1e-4, atol=1e-5)
            assert (tokens[item, length:] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [True, False])
def test_padding_changes_nothing(kind, training):
    """The same series with more room behind them: statistics of the norms, attention, means are those of the steps."""
    torch.manual_seed(0)
    encoder = kind(dropout=0.0) if kind is KINDS[0] else kind()
    x = ragged(3)[..., :7]
    x[0] = torch.randn(3, 7)
    wider = F.pad(x, (0, 5), value=NAN)
    encoder.fit_prepare(x).train(training)
    torch.testing.assert_close(encoder(x), encoder(wider), rtol=1e-4, atol=1e-5)


def test_norm_is_batch_norm_over_the_steps_there_are():
    from tacit.nn._series import _StepNorm

    norm, peer = _StepNorm(4), torch.nn.BatchNorm1d(4)
    u, mask = torch.randn(3, 5, 4), torch.rand(3, 5) < 0.6
    mask[0, :2] = True
    torch.testing.assert_close(norm(u, mask)[mask], peer(u[mask]))
    torch.testing.assert_close(norm.running_var, peer.running_var)
    torch.testing.assert_close(norm.eval()(u, mask)[mask], peer.eval()(u[mask]))


def test_cnn_sees_as_far_as_it_says():
    encoder = SeriesCNN(1, length=64, embed_dim=8, num_layers=2).double().eval()
    x = torch.zeros(1, 1, 64, dtype=torch.float64, requires_grad=True)
    encoder.tokens(x)[0, 32].sum().backward()
    seen = x.grad[0, 0].nonzero()[:, 0]
    assert (seen.min().item(), seen.max().item()) == (32 - 6, 32 + 6)  # 2 (2^num_layers - 1) steps to each side


@pytest.mark.parametrize("kind", KINDS)
def test_concatenation_is_the_tokens_of_all_steps(kind):
    encoder = kind(pool="concat").eval()
    x = ragged()
    assert encoder.dim == 12 * 16
    torch.testing.assert_close(encoder(x).view(6, 12, 16), encoder.tokens(x))
    short = encoder(x[..., :5])  # shorter batches have room behind them
    assert short.shape == (6, encoder.dim)
    assert (short.view(6, 12, 16)[:, 5:] == 0).all()


def test_moments_are_those_of_the_values_there_are():
    x = ragged()
    x[:, 1] = 7.0
    x[:, 2] = NAN
    encoder = KINDS[0]().fit_prepare(x)
    first = np.concatenate([row[0][~np.isnan(row[0])] for row in x.numpy()]).astype(np.float64)
    assert encoder.mean.tolist() == pytest.approx([first.mean(), 7.0, 0.0])
    assert encoder.std.tolist() == pytest.approx([first.std(), 1.0, 1.0])
    standard = encoder.normalize(x)
    assert not standard.isnan().any()
    assert (standard[:, 1:] == 0).all()


def test_prepare():
    encoder = KINDS[0]()
    lists = [np.full((3, 4), 2.0), np.full((3, 12), np.inf), torch.ones(3, 20).numpy()]
    x = encoder.prepare(lists)
    assert x.shape == (3, 3, 12)
    assert x[0].isnan().sum() == 3 * 8
    assert x[1].isnan().all()
    assert not x[2].isnan().any()  # cut at length
    assert encoder.prepare(x) is x
    encoder.fit_prepare(lists)
    assert encoder.stride == 2
    long = np.arange(60.0).reshape(3, 20)
    means = torch.tensor(long).float().view(3, 10, 2).mean(2)
    torch.testing.assert_close(encoder.prepare(long[None])[0, :, :10], means)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_at_all_is_no_nan(kind):
    x = ragged()
    x[2] = NAN
    for training in (True, False):
        encoder = kind().train(training)
        loss = encoder(x).square().sum()
        loss.backward()
        assert loss.isfinite()
        assert all(p.grad.isfinite().all() for p in encoder.parameters() if p.grad is not None)
    assert (encoder(x)[2] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_weights_bring_the_moments_along(kind):
    x = ragged()
    encoder = kind().fit_prepare(np.repeat(x.numpy(), 2, axis=2))
    again = kind()
    load_state(again, encoder.state_dict())
    assert again.stride == encoder.stride == 2
    torch.testing.assert_close(again.eval()(x), encoder.eval()(x))


def test_what_cannot_be_is_refused():
    with pytest.raises(ArgumentError, match="num_heads=3"):
        SeriesTransformer(1, embed_dim=16, num_heads=3)
    with pytest.raises(ArgumentError, match="pool='max'"):
        SeriesCNN(1, pool="max")
    with pytest.raises(ArgumentError, match="in_channels=2"):
        KINDS[0]().prepare(np.zeros((4, 2, 12)))
    with pytest.raises(ArgumentError, match="at most 12"):
        KINDS[0]()(torch.zeros(2, 3, 13))
