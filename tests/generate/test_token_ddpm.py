import pytest
import torch

from tacit.data import composition_prompt, compositions
from tacit.errors import ArgumentError
from tacit.generate import DDPM, TokenDDPM
from tacit.nn import ConditionalUNet, UNet
from tacit.training import fit


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def network():
    return ConditionalUNet(8, 3, width=8, multipliers=(1, 2), attention=(4,), context_dim=16)


def test_the_loss_hides_words_and_prompts_and_is_that_of_ddpm():
    learner = TokenDDPM(network(), n_steps=50, word_dropout=0.7, prompt_dropout=0.4)
    x, tokens = torch.rand(6, 3, 8, 8), torch.randint(1, 15, (6, 8))
    torch.manual_seed(5)
    found = learner.loss(x, tokens)
    torch.manual_seed(5)
    share, kind, whole = torch.rand(6, 1), torch.rand(6, 4), torch.rand(6, 1)
    told = tokens.clone()
    for i in range(6):
        for j in range(8):
            if kind[i, j % 4] < 0.7 * share[i, 0] or whole[i, 0] < 0.4:
                told[i, j] = 0
    torch.rand(6)  # the flips, of which there are none
    noise, t = torch.randn(6, 3, 8, 8), torch.randint(1, 51, (6,))
    total = 0.0
    for i in range(6):
        a = learner.diffusion.alpha_bar[t[i]]
        x_t = a.sqrt() * (2 * x[i : i + 1] - 1) + (1 - a).sqrt() * noise[i : i + 1]
        total += (learner.denoiser.denoise(x_t, t[i : i + 1], told[i : i + 1]) - noise[i]).square().mean().item()
    assert found.item() == pytest.approx(total / 6, rel=1e-4)
    assert 0 < (told == 0).float().mean() < 1


def test_it_paints_as_ddpm_does_without_a_prompt():
    learner = TokenDDPM(network(), n_steps=50)
    plain = DDPM(learner.encoder, n_steps=50, flip=False)  # the same network
    torch.manual_seed(3)
    ours = learner.sample(4, num_steps=5, eta=0.5)
    torch.manual_seed(3)
    torch.testing.assert_close(ours, plain.sample(4, num_steps=5, eta=0.5))


def test_prompts_of_all_of_each_and_as_embeddings():
    learner = TokenDDPM(network(), n_steps=50)
    tokens = torch.from_numpy(composition_prompt("red ring", "blue cross"))
    found = []
    for given in (tokens, tokens.expand(3, -1), learner.encoder.embed(tokens[None]).expand(3, -1, -1)):
        torch.manual_seed(3)
        found.append(learner.sample(3, tokens=given, num_steps=4, guidance_scale=2.0))
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([4, 30])
    with_words, without = learner.encoder.denoise(x, t, tokens.expand(2, -1)), learner.encoder.denoise(x, t)
    guided = learner.estimate(x, t, tokens.expand(2, -1), guidance_scale=2.0)[1]
    torch.testing.assert_close(guided, 3 * with_words - 2 * without)


def test_it_learns_which_colour_a_word_means():
    """Plain colours, one word: after 60 steps the painted images have them."""
    colours = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.1, 0.9]])
    word = torch.randint(2, (256,))
    x = (colours[word][:, :, None, None] + 0.05 * torch.randn(256, 3, 8, 8)).clamp(0, 1)
    tokens = torch.stack([word + 1, *[torch.zeros(256, dtype=torch.int64)] * 3], 1)
    learner = TokenDDPM(network(), n_tokens=3, n_steps=50, schedule="cosine", prediction="x0", ema=0.9)
    fit(learner, {"x": x, "tokens": tokens}, max_steps=60, batch_size=32, lr=1e-2, seed=0)
    for k in range(2):
        painted = learner.sample(8, tokens=torch.tensor([k + 1, 0, 0, 0]), num_steps=10)
        assert (painted.mean((2, 3)) - colours[k]).abs().max() < 0.15


def test_bad_input_is_an_error_that_names_it():
    with pytest.raises(ArgumentError, match="encoder"):
        TokenDDPM(UNet(8, 3, width=8))
    with pytest.raises(ArgumentError, match="word_dropout"):
        TokenDDPM(network(), word_dropout=1.5)
    learner = TokenDDPM(network(), n_steps=10)
    with pytest.raises(ArgumentError, match="n"):
        learner.sample(0)
    with pytest.raises(ArgumentError, match="tokens"):
        learner.sample(2, tokens=torch.full((4,), 15), num_steps=2)
    drawn = compositions(4, n_objects=1)
    assert torch.isfinite(learner.loss(torch.from_numpy(drawn["x"]), torch.from_numpy(drawn["tokens"])))
