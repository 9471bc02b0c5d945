"""S4D: the convolution against the recurrence, and against scipy's discretisation of the continuous model."""

import math

import numpy as np
import pytest
import torch
from scipy.signal import cont2discrete, dlsim

from tacit.errors import ArgumentError
from tacit.nn import DiagonalSSM, SSMBlock, TextEncoder
from tacit.nn._ssm import convolve


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def parameters(layer, direction, feature):
    """A, C, dt of one feature's model as numpy has them, in double precision."""
    decay, frequency = (p[direction, feature].detach().double().numpy() for p in (layer.log_decay, layer.frequency))
    real, imaginary = layer.readout[direction, feature].detach().double().numpy().T
    return -np.exp(decay) + 1j * frequency, real + 1j * imaginary, math.exp(layer.log_dt[direction, feature].item())


def recurrence(layer, u, direction=0):
    """Eq. 2, one step and one feature at a time, without the skip."""
    y = np.zeros_like(u)
    for feature in range(layer.dim):
        a, c, dt = parameters(layer, direction, feature)
        state = np.zeros_like(a)
        for step, value in enumerate(u[:, feature]):
            state = np.exp(dt * a) * state + (np.exp(dt * a) - 1) / a * value
            y[step, feature] = 2 * (c * state).sum().real
    return y


def test_convolution_is_the_recurrence():
    layer, u = DiagonalSSM(3, state_dim=8), torch.randn(1, 50, 3)
    expected = recurrence(layer, u[0].double().numpy()) + (layer.skip * u[0]).detach().double().numpy()
    torch.testing.assert_close(layer(u)[0].double(), torch.from_numpy(expected), rtol=1e-4, atol=1e-4)


def test_model_is_the_zero_order_hold_of_the_continuous_one():
    """scipy discretises and runs the real form: two real states for each conjugate pair."""
    layer, u = DiagonalSSM(2, state_dim=6), torch.randn(1, 40, 2)
    for feature in range(2):
        a, c, dt = parameters(layer, 0, feature)
        n = len(a)
        big = np.zeros((2 * n, 2 * n))
        for i, pole in enumerate(a):
            big[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = [[pole.real, -pole.imag], [pole.imag, pole.real]]
        b = np.tile([[1.0], [0.0]], (n, 1))
        readout = np.stack([2 * c.real, -2 * c.imag], axis=1).reshape(1, -1)
        d = np.array([[layer.skip[feature].item()]])
        discrete = cont2discrete((big, b, readout, d), dt, method="zoh")
        # scipy reads the state before the input of the same step has come in, ours after it: one step apart
        transition, gain, *_ = discrete[:4]
        same = (transition, gain, readout @ transition, readout @ gain + d, dt)
        _, expected, _ = dlsim(same, u[0, :, feature].double().numpy())
        np.testing.assert_allclose(layer(u)[0, :, feature].detach(), expected[:, 0], rtol=1e-3, atol=1e-4)


def test_convolve_is_numpys():
    x, kernel = torch.randn(2, 3, 17, dtype=torch.double), torch.randn(3, 17, dtype=torch.double)
    y = convolve(x, kernel)
    for n in range(2):
        for feature in range(3):
            expected = np.convolve(x[n, feature], kernel[feature])[:17]
            np.testing.assert_allclose(y[n, feature], expected, atol=1e-12)


def test_one_direction_reads_no_future_and_two_read_both_ends():
    u = torch.randn(1, 30, 4)
    changed = u.clone()
    changed[:, 20] += 1
    one, two = DiagonalSSM(4), DiagonalSSM(4, bidirectional=True)
    moved = (one(u) - one(changed)).abs().amax(dim=(0, 2))
    assert moved[:20].max() < 1e-4 < moved[20]
    assert (two(u) - two(changed)).abs().amax(dim=(0, 2)).min() > 1e-4


def test_the_second_direction_is_the_first_on_what_is_reversed():
    layer, u = DiagonalSSM(2, state_dim=4, bidirectional=True), torch.randn(1, 20, 2)
    values = u[0].double().numpy()
    expected = recurrence(layer, values, 0) + recurrence(layer, values[::-1].copy(), 1)[::-1]
    expected += (layer.skip * u[0]).detach().double().numpy()
    torch.testing.assert_close(layer(u)[0].double(), torch.from_numpy(expected), rtol=1e-4, atol=1e-4)


def test_start_is_s4d_lin_and_stays_stable():
    layer = DiagonalSSM(5, state_dim=6, dt_min=0.01, dt_max=0.02)
    a, _, dt = parameters(layer, 0, 3)
    np.testing.assert_allclose(a, [-0.5, -0.5 + math.pi * 1j, -0.5 + 2 * math.pi * 1j], atol=1e-6)
    assert 0.01 <= dt <= 0.02
    with torch.no_grad():
        layer.log_decay.normal_(std=5)
    assert layer.kernel(2000).isfinite().all()
    assert (layer.system()[0].real < 0).all()


def test_kernel_learns_a_delay():
    """Long memory: a model of one feature learns to repeat what stood 12 steps before."""
    layer = DiagonalSSM(1, state_dim=32, dt_min=0.02, dt_max=0.1)
    optimizer = torch.optim.Adam(layer.parameters(), 0.02)
    for _ in range(150):
        u = torch.randn(16, 40, 1)
        loss = (layer(u)[:, 12:] - u[:, :-12]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.3


def test_block_keeps_padding_out():
    block, x = SSMBlock(4, state_dim=4, bidirectional=True).eval(), torch.randn(2, 12, 4)
    mask = torch.arange(12) < torch.tensor([[12], [7]])
    padded = x.clone()
    padded[1, 7:] = 9.0
    alone = block(x[1:, :7], mask[1:, :7])[0]
    torch.testing.assert_close(block(padded, mask)[1, :7], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_as_the_body_of_a_text_encoder(causal):
    """Padding changes nothing, and a causal one sees no later token; the first of both directions sees every one."""
    words = {"tokenizer": "words", "vocab_size": 20, "max_length": 12, "dim": 8, "causal": causal}
    encoder = TextEncoder("ssm", **words).eval()
    x = torch.randint(5, 20, (2, 9))
    padded = torch.cat([x, torch.zeros(2, 3, dtype=torch.long)], dim=1)
    torch.testing.assert_close(encoder(x), encoder(padded), rtol=1e-4, atol=1e-5)
    longer = torch.cat([padded, torch.randint(5, 20, (1, 12))])
    torch.testing.assert_close(encoder(x), encoder(longer)[:2], rtol=1e-4, atol=1e-5)
    changed = x.clone()
    changed[:, 6] = 5 + (x[:, 6] - 4) % 15
    moved = (encoder.tokens(x) - encoder.tokens(changed)).abs().amax(dim=(0, 2)) > 1e-5
    assert moved.tolist() == [not causal] * 6 + [True] * 3


def test_runs_under_bfloat16():
    layer, u = DiagonalSSM(4), torch.randn(2, 10, 4)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(u.bfloat16())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), layer(u), rtol=0.05, atol=0.05)


def test_what_cannot_be_is_refused():
    with pytest.raises(ArgumentError, match="state_dim=3"):
        DiagonalSSM(4, state_dim=3)
    with pytest.raises(ArgumentError, match="dt_min=0"):
        DiagonalSSM(4, dt_min=0)
