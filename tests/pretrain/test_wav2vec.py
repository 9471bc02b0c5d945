"""wav2vec's loss against equation 1 in loops, its negatives against their distribution."""

import math

import pytest
import torch

from tacit.errors import ArgumentError
from tacit.nn import AudioCNN, AudioConv
from tacit.pretrain import Wav2Vec, draw_negatives, noise_contrastive_loss
from tacit.pretrain._wav2vec import Stretches, first_of_each_class

LENGTHS = torch.tensor([9, 6, 2, 1])


def mask(t=9):
    return torch.arange(t) < LENGTHS[:, None]


def slow_loss(z, predicted, negatives, first_step):
    """Equation 1, pair by pair."""
    total, pairs = 0.0, 0
    for b, length in enumerate(LENGTHS.tolist()):
        for step in range(predicted.shape[2]):
            for i in range(length - first_step - step):
                j, h = i + first_step + step, predicted[b, i, step]
                total -= math.log(1 / (1 + math.exp(-(z[b, j] @ h).item())))
                for drawn in negatives[b, j].tolist():
                    total -= math.log(1 / (1 + math.exp((z[b, drawn] @ h).item())))
                pairs += 1
    return total / pairs


@pytest.mark.parametrize("first_step", [1, 3])
def test_the_loss_is_equation_1(first_step):
    z, predicted = torch.randn(4, 9, 5), torch.randn(4, 9, 4, 5)
    negatives = draw_negatives(mask(), 3)
    found = noise_contrastive_loss(z, predicted, negatives, mask(), first_step)
    assert found.item() == pytest.approx(slow_loss(z, predicted, negatives, first_step), rel=1e-5)


def test_its_gradient_by_finite_differences():
    z, predicted = (torch.randn(*shape, dtype=torch.double, requires_grad=True) for shape in ((4, 9, 2), (4, 9, 3, 2)))
    negatives = draw_negatives(mask(), 2)

    def loss(z, predicted):
        return noise_contrastive_loss(z, predicted, negatives, mask())

    # the scores are taken in float32, so the steps are wide
    assert torch.autograd.gradcheck(loss, (z, predicted), eps=1e-2, atol=1e-3)


def test_negatives_are_the_other_frames_of_the_clip_evenly():
    torch.manual_seed(0)
    drawn = draw_negatives(mask(), 4000)
    for b, length in enumerate(LENGTHS.tolist()[:3]):
        for j in range(length):
            often = torch.bincount(drawn[b, j], minlength=9) / 4000
            expected = torch.zeros(9)
            expected[:length] = 1 / (length - 1)
            expected[j] = 0
            torch.testing.assert_close(often, expected, atol=0.03, rtol=0)


def test_what_pads_has_no_part():
    torch.manual_seed(0)
    learner = Wav2Vec(AudioConv(8, 2, seconds=0.3), n_steps=3)
    x = torch.randint(1, 9000, (3, 2400)).to(torch.int16)
    x[:, 1500:] = 0
    frames = learner.encoder.mask(x).sum(1)
    assert frames.tolist() == [(1500 - 225) // 80 + 1] * 3
    z = learner.encoder.latents(x)
    changed = z.clone()
    changed[:, frames[0] :] += 9
    negatives = draw_negatives(learner.encoder.mask(x), 4)
    losses = []
    for latents in (z, changed):
        predicted = learner.predictors(learner.encoder.context(latents, learner.encoder.mask(x))).unflatten(2, (3, -1))
        losses.append(noise_contrastive_loss(latents, predicted, negatives, learner.encoder.mask(x)).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_knowing_nothing_costs_the_prior():
    """With equal scores everywhere the least loss is that of the share of positives: 1 in 11."""
    z = torch.ones(4, 9, 1)
    predicted = torch.full((4, 9, 2, 1), -math.log(10))
    found = noise_contrastive_loss(z, predicted, draw_negatives(mask(), 10), mask())
    assert found.item() == pytest.approx(math.log(11) + 10 * math.log(11 / 10), rel=1e-5)


def test_it_learns_what_comes_next_in_a_sweep():
    """Chirps whose pitch at each time says the pitch later: the loss falls well below that of knowing nothing."""
    torch.manual_seed(0)
    time = torch.arange(2400) / 8000
    learner = Wav2Vec(AudioConv(16, 3, seconds=0.3), n_steps=2, n_negatives=4)
    optimizer, losses = torch.optim.Adam(learner.parameters(), 1e-2), []
    for _ in range(100):
        rate, start = 4000 * torch.rand(8, 1), 200 + 300 * torch.rand(8, 1)
        x = (9000 * torch.sin(2 * torch.pi * (start * time + rate * time**2))).to(torch.int16)
        loss = learner.loss(x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    prior = math.log(5) + 4 * math.log(5 / 4)
    assert sum(losses[-10:]) / 10 < 0.9 * prior


def test_clips_of_one_frame_or_of_silence_are_no_harm():
    learner = Wav2Vec(AudioConv(8, 2, seconds=0.3), n_steps=3)
    x = torch.zeros(2, 2400, dtype=torch.int16)
    x[1, :50] = 100
    loss = learner.loss(x)
    loss.backward()
    assert loss.item() == 0
    assert all(torch.isfinite(p.grad).all() for p in learner.parameters() if p.grad is not None)


def test_stretches_are_means_of_equal_parts():
    encoder = AudioConv(8, 1, seconds=0.5).eval()
    x = torch.randint(1, 9000, (2, 4000)).to(torch.int16)
    x[1, 2000:] = 0
    found, tokens = Stretches(encoder, 4)(x).view(2, 4, 8), encoder.tokens(x)
    for i, count in enumerate(encoder.mask(x).sum(1).tolist()):
        for part in range(4):
            own = [t for t in range(count) if t * 4 // count == part]
            torch.testing.assert_close(found[i, part], tokens[i, own].mean(0))
    torch.testing.assert_close(Stretches(encoder, 1)(x), encoder(x))


def test_first_of_each_class():
    assert first_of_each_class(torch.tensor([1, 0, 1, 1, 0, 2]), 2).tolist() == [1, 4, 0, 2, 5]


def test_what_cannot_be_is_refused():
    with pytest.raises(ArgumentError, match="encoder='AudioCNN'"):
        Wav2Vec(AudioCNN(4))
    with pytest.raises(ArgumentError, match="n_negatives=0"):
        Wav2Vec(AudioConv(8, 1), n_negatives=0)
