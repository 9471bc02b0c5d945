import math

import pytest
import torch

from tacit.errors import ArgumentError
from tacit.nn import Diffusion

SCHEDULES = pytest.mark.parametrize("schedule", ["linear", "cosine"])


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def products(n_steps, schedule):
    """alpha_bar by the papers' definitions, one factor at a time."""
    alpha_bar = [1.0]
    for t in range(1, n_steps + 1):
        if schedule == "linear":
            beta = 1000 / n_steps * (1e-4 + (0.02 - 1e-4) * (t - 1) / (n_steps - 1))
        else:
            f = [math.cos((u / n_steps + 0.008) / 1.008 * math.pi / 2) ** 2 for u in (t - 1, t)]
            beta = 1 - f[1] / f[0]
        alpha_bar.append(alpha_bar[-1] * (1 - min(beta, 0.999)))
    return torch.tensor(alpha_bar, dtype=torch.float64)


@SCHEDULES
@pytest.mark.parametrize("n_steps", [1000, 50])
def test_schedules_are_the_papers_products(n_steps, schedule):
    found, expected = Diffusion(n_steps, schedule).alpha_bar, products(n_steps, schedule)
    assert found.shape == (n_steps + 1,)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-9)


def test_known_values_of_the_linear_schedule():
    alpha_bar = Diffusion().alpha_bar
    assert alpha_bar[0] == 1
    assert alpha_bar[1].item() == pytest.approx(1 - 1e-4)
    assert alpha_bar[-1].item() == pytest.approx(4.04e-5, rel=0.01)  # section 4: what is left of the signal at T


def test_noising_one_step_after_the_other_is_noising_at_once():
    """Products of q(x_t | x_{t-1}) (eq. 2): the mean is sqrt(alpha_bar) x_0, the variance 1 - alpha_bar (eq. 4)."""
    diffusion, t = Diffusion(20), 7
    mean, variance = 1.0, 0.0
    for s in range(t):
        kept = (diffusion.alpha_bar[s + 1] / diffusion.alpha_bar[s]).double().item()
        mean, variance = math.sqrt(kept) * mean, kept * variance + 1 - kept
    one, zero = torch.ones(1, 1), torch.zeros(1, 1)
    assert diffusion.noised(one, t, zero).item() == pytest.approx(mean, rel=1e-5)
    assert diffusion.noised(zero, t, one).item() == pytest.approx(math.sqrt(variance), rel=1e-5)


@SCHEDULES
def test_items_may_have_their_own_times(schedule):
    diffusion = Diffusion(100, schedule)
    x0, noise = torch.randn(2, 5, 3, 4, 4, dtype=torch.float64)
    t, s = torch.tensor([1, 13, 50, 99, 100]), torch.tensor([0, 2, 49, 1, 99])
    together = [
        diffusion.noised(x0, t, noise),
        diffusion.step(x0, noise, t, s, 0.5, noise),
        diffusion.again(x0, s, t, noise),
        diffusion.x0_of(x0, t, noise),
        diffusion.epsilon_of(x0, t, noise),
    ]
    for i in range(5):
        a, b, e, c = int(t[i]), int(s[i]), noise[i : i + 1], x0[i : i + 1]
        alone = [
            diffusion.noised(c, a, e),
            diffusion.step(c, e, a, b, 0.5, e),
            diffusion.again(c, b, a, e),
            diffusion.x0_of(c, a, e),
            diffusion.epsilon_of(c, a, e),
        ]
        for all_, one in zip(together, alone, strict=True):
            torch.testing.assert_close(all_[i : i + 1], one)


def test_x0_and_epsilon_are_each_others_inverse():
    diffusion = Diffusion()
    x0, noise = torch.randn(2, 4, 2, dtype=torch.float64)
    for t in (1, 500):
        x_t = diffusion.noised(x0, t, noise)
        torch.testing.assert_close(diffusion.x0_of(x_t, t, noise), x0)
        torch.testing.assert_close(diffusion.epsilon_of(x_t, t, x0), noise)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("t", "s"), [(1000, 900), (600, 599), (5, 1), (1, 0)])
def test_step_is_equation_12_of_ddim(eta, t, s):
    diffusion, a = Diffusion(), products(1000, "linear")
    x0, epsilon, z = torch.randn(3, 6, dtype=torch.float64)
    sigma = eta * math.sqrt((1 - a[s]) / (1 - a[t])) * math.sqrt(1 - a[t] / a[s])
    expected = a[s].sqrt() * x0 + (1 - a[s] - sigma**2).sqrt() * epsilon + sigma * z
    torch.testing.assert_close(diffusion.step(x0, epsilon, t, s, eta, z), expected, rtol=1e-4, atol=1e-6)


def test_eta_1_is_the_posterior_of_ddpm():
    """q(x_{t-1} | x_t, x_0): mean mu_tilde and variance beta_tilde (eqs. 6 and 7)."""
    diffusion, a, t = Diffusion(), products(1000, "linear"), 250
    x0, epsilon, z = torch.randn(3, 6, dtype=torch.float64)
    alpha = a[t] / a[t - 1]
    x_t = a[t].sqrt() * x0 + (1 - a[t]).sqrt() * epsilon
    mean = (a[t - 1].sqrt() * (1 - alpha) * x0 + alpha.sqrt() * (1 - a[t - 1]) * x_t) / (1 - a[t])
    expected = mean + ((1 - a[t - 1]) / (1 - a[t]) * (1 - alpha)).sqrt() * z
    torch.testing.assert_close(diffusion.step(x0, epsilon, t, t - 1, 1.0, z), expected, rtol=1e-4, atol=1e-5)


def test_the_last_step_gives_x0():
    diffusion = Diffusion()
    x0, epsilon = torch.randn(2, 3, 2)
    assert torch.equal(diffusion.step(x0, epsilon, 20, 0), x0)
    assert torch.equal(diffusion.step(x0, epsilon, 1, 0, eta=1.0), x0)


class Gaussian:
    """Items N(mean, covariance); E[x_0 | x_t] in closed form, by conditioning the joint Gaussian of x_0 and x_t."""

    def __init__(self, diffusion, dim=3):
        root = torch.randn(dim, dim, dtype=torch.float64) * 0.5
        self.mean, self.covariance = torch.linspace(-0.5, 0.5, dim, dtype=torch.float64), root @ root.T
        self.diffusion = diffusion

    def __call__(self, x_t, t):
        a = self.diffusion.alpha_bar[int(t[0])].double()
        noisy = a * self.covariance + (1 - a) * torch.eye(len(self.mean), dtype=torch.float64)
        gain = a.sqrt() * self.covariance @ torch.linalg.inv(noisy)
        x0 = self.mean + (x_t - a.sqrt() * self.mean) @ gain.T
        if self.diffusion.prediction == "x0":
            return x0
        return (x_t - a.sqrt() * x0) / (1 - a).sqrt()

    def draw(self, n):
        return (
            self.mean + torch.randn(n, len(self.mean), dtype=torch.float64) @ torch.linalg.cholesky(self.covariance).T
        )


def test_estimate_is_the_best_linear_guess():
    """Least squares from many pairs (x_t, x_0) finds what the exact denoiser gives."""
    diffusion = Diffusion(prediction="epsilon")
    gaussian, t = Gaussian(diffusion), 300
    x0 = gaussian.draw(200_000)
    noise = torch.randn_like(x0)
    x_t = diffusion.noised(x0, t, noise)
    rows = torch.cat([x_t, torch.ones(len(x_t), 1, dtype=torch.float64)], 1)
    found = rows @ torch.linalg.lstsq(rows, torch.cat([x0, noise], 1)).solution
    expected = torch.cat(diffusion.estimate(gaussian, x_t, t), 1)
    assert (found - expected).square().mean().sqrt() < 0.01


@pytest.mark.parametrize("prediction", ["epsilon", "x0"])
@pytest.mark.parametrize(("eta", "num_steps"), [(0.0, 100), (1.0, 300)])
def test_the_exact_denoiser_paints_the_gaussian(prediction, eta, num_steps):
    diffusion = Diffusion(prediction=prediction)
    gaussian = Gaussian(diffusion)

    def step(x, t, s):
        return diffusion.step(*diffusion.estimate(gaussian, x, t), t, s, eta)

    drawn = diffusion.reverse(step, torch.randn(10_000, 3, dtype=torch.float64), diffusion.times(num_steps))
    torch.testing.assert_close(drawn.mean(0), gaussian.mean, rtol=0, atol=0.03)
    torch.testing.assert_close(drawn.T.cov(), gaussian.covariance, rtol=0.08, atol=0.04)


def test_time_travel_keeps_the_marginals():
    """From the law of x_s, `again` gives that of x_t; and the way back with repeats still ends in the Gaussian."""
    diffusion = Diffusion()
    gaussian = Gaussian(diffusion)
    x0 = gaussian.draw(50_000)
    s, t = 200, 450
    x_t = diffusion.again(diffusion.noised(x0, s, torch.randn_like(x0)), s, t)
    a = products(1000, "linear")[t]
    expected = a * gaussian.covariance + (1 - a) * torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(x_t.mean(0), a.sqrt() * gaussian.mean, rtol=0, atol=0.02)
    torch.testing.assert_close(x_t.T.cov(), expected, rtol=0, atol=0.02)

    def step(x, t, s):
        return diffusion.step(*diffusion.estimate(gaussian, x, t), t, s)

    noise = torch.randn(10_000, 3, dtype=torch.float64)
    drawn = diffusion.reverse(step, noise, diffusion.times(100), travel=(300, 700, 3))
    torch.testing.assert_close(drawn.mean(0), gaussian.mean, rtol=0, atol=0.03)
    torch.testing.assert_close(drawn.T.cov(), gaussian.covariance, rtol=0.08, atol=0.04)


def test_reverse_takes_the_steps_that_it_says():
    diffusion, taken = Diffusion(10), []

    def step(x, t, s):
        taken.append((t, s))
        return x

    diffusion.reverse(step, torch.zeros(1, 1), [10, 6, 3, 0], travel=(3, 6, 3))
    assert taken == [(10, 6), *[(6, 3)] * 3, *[(3, 0)] * 3]
    assert diffusion.times(4) == [10, 8, 5, 2, 0]
    assert diffusion.times(1) == [10, 0]
    assert diffusion.times(99) == list(range(10, -1, -1))


def test_gradients_flow_through_the_denoiser():
    """Of E[x_0 | x_t] by x_t: the Gaussian's gain, by finite differences."""
    diffusion = Diffusion()
    gaussian = Gaussian(diffusion)
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: diffusion.estimate(gaussian, x, 400), (x,))


def test_classes_reach_the_denoiser_only_where_there_are_some():
    diffusion, seen = Diffusion(), []

    def denoiser(x_t, t, *y):
        seen.append((t.tolist(), *y))
        return x_t

    diffusion.estimate(denoiser, torch.zeros(2, 1), 5)
    diffusion.estimate(denoiser, torch.zeros(2, 1), torch.tensor([3, 4]), y="classes")
    assert seen == [([5, 5],), ([3, 4], "classes")]


def test_what_cannot_be_is_refused():
    for words, message in [
        ({"n_steps": 0}, "n_steps=0"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"prediction": "v"}, "prediction='v'"),
    ]:
        with pytest.raises(ArgumentError, match=message):
            Diffusion(**words)
    diffusion, x = Diffusion(10), torch.zeros(1, 1)
    with pytest.raises(ArgumentError, match="t=11: expected a time from 0 to n_steps=10"):
        diffusion.noised(x, 11, x)
    with pytest.raises(ArgumentError, match="num_steps=0"):
        diffusion.times(0)
    with pytest.raises(ArgumentError, match="falling times"):
        diffusion.reverse(lambda x, t, s: x, x, [0, 5])
