"""Seven shapes of method, small, to try the contract on: what a real system of each kind needs from `fit`.

Contrastive, memory bank, relabelling of all data, two players, episodes, bilevel, closed form.
"""

import torch
import torch.nn.functional as F
from torch import nn

from tacit.learner import Learner

CLASSES = 10


def small_encoder():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16))
    net.dim = 16
    return net


class Contrastive(Learner):
    def __init__(self):
        super().__init__()
        self.encoder = small_encoder()

    def loss(self, x):
        a, b = (F.normalize(self.encoder(x + 0.1 * torch.randn_like(x)), dim=1) for _ in range(2))
        return F.cross_entropy(a @ b.T / 0.2, torch.arange(len(x)))


class MemoryBank(Learner):
    """Sized by the data, indexed by item (NPID)."""

    def __init__(self):
        super().__init__()
        self.encoder = small_encoder()
        self.register_buffer("bank", torch.zeros(0, 16))

    def before_fit(self, data):
        self.bank = F.normalize(torch.randn(len(data), 16), dim=1)

    def loss(self, x, index):
        z = F.normalize(self.encoder(x), dim=1)
        self.fresh = (index, z.detach())
        return F.cross_entropy(z @ self.bank.T / 0.07, index)

    def after_step(self, progress):
        index, z = self.fresh
        self.bank[index] = F.normalize(0.5 * self.bank[index] + 0.5 * z, dim=1)


class Relabelling(Learner):
    """Labels all items anew each epoch (SeLa)."""

    def __init__(self):
        super().__init__()
        self.encoder = small_encoder()
        self.head = nn.Linear(16, CLASSES)
        self.register_buffer("labels", torch.zeros(0, dtype=torch.long))

    def before_fit(self, data):
        self.labels = torch.randint(0, CLASSES, (len(data),))

    @torch.no_grad()
    def before_epoch(self, data):
        q = torch.cat([F.softmax(self.head(self.encoder(x)) * 5, 1) for x in data.chunks("x", 256)])
        for _ in range(20):
            q /= q.sum(0) * q.shape[1]
            q /= q.sum(1, keepdim=True) * len(q)
        self.labels = q.argmax(1)

    def loss(self, x, index):
        return F.cross_entropy(self.head(self.encoder(x)), self.labels[index])


class TwoPlayers(Learner):
    """Two parts with an optimiser each; the second loss is taken after the first part has moved (GAN)."""

    loss_falls = False  # the players' losses pull against each other

    def __init__(self):
        super().__init__()
        self.generator = nn.Linear(8, 64)
        self.critic = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))

    def step(self, update, x):
        real, fake = x.flatten(1), self.generator(torch.randn(len(x), 8))
        update(F.softplus(-self.critic(real)).mean() + F.softplus(self.critic(fake.detach())).mean(), self.critic)
        update(F.softplus(-self.critic(self.generator(torch.randn(len(x), 8)))).mean(), self.generator)


class Episodes(Learner):
    """Batches are episodes of five classes (matching networks)."""

    def __init__(self):
        super().__init__()
        self.encoder = small_encoder()

    def batches(self, data, batch_size, generator):
        y = data["y"][:]
        for _ in range(20):
            classes = torch.randperm(CLASSES, generator=generator)[:5]
            rows = [torch.where(y == c)[0] for c in classes]
            yield torch.cat([r[torch.randperm(len(r), generator=generator)[:6]] for r in rows])

    def loss(self, x, y):
        z = F.normalize(self.encoder(x), dim=1).view(5, 6, -1)
        attention = F.softmax(z[:, 1:].flatten(0, 1) @ z[:, 0].T / 0.1, 1)
        return F.nll_loss(attention.log(), torch.arange(5).repeat_interleave(5))


class Bilevel(Learner):
    """Weight decay per feature, learned through one inner step."""

    def __init__(self):
        super().__init__()
        self.weights = nn.Linear(64, CLASSES)
        self.hyper = nn.Module()
        self.hyper.log_decay = nn.Parameter(torch.full((64,), -5.0))

    def inner(self, w, b, x, y):
        return F.cross_entropy(x @ w.T + b, y) + (self.hyper.log_decay.exp() * w**2).sum()

    def step(self, update, x, y):
        x, half = x.flatten(1), len(x) // 2
        w, b = self.weights.weight, self.weights.bias
        dw, db = torch.autograd.grad(self.inner(w, b, x[:half], y[:half]), (w, b), create_graph=True)
        update(F.cross_entropy(x[half:] @ (w - 0.1 * dw).T + b - 0.1 * db, y[half:]), self.hyper)
        update(self.inner(w, b, x[:half], y[:half]), self.weights)


class OwnOrder(Learner):
    """Its batches hang on a buffer that moves at each step (a curriculum)."""

    def __init__(self):
        super().__init__()
        self.encoder = small_encoder()
        self.register_buffer("difficulty", torch.zeros(0))

    def before_fit(self, data):
        self.difficulty = torch.rand(len(data))

    def batches(self, data, batch_size, generator):
        return self.difficulty.argsort().split(batch_size)[:-1]

    def loss(self, x, index):
        losses = self.encoder(x).square().mean(1)
        self.fresh = (index, losses.detach())
        return losses.mean()

    def after_step(self, progress):
        self.difficulty[self.fresh[0]] = self.fresh[1]


class ClosedForm(Learner):
    """All in before_fit, nothing to step."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(64))

    def before_fit(self, data):
        self.mean = sum(x.flatten(1).sum(0) for x in data.chunks("x", 500)) / len(data)

    def batches(self, data, batch_size, generator):
        return ()


SHAPES = (Contrastive, MemoryBank, Relabelling, TwoPlayers, Episodes, Bilevel, OwnOrder, ClosedForm)
