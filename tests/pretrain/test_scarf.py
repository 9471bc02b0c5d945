import math

import pytest
import torch

from tacit.errors import ArgumentError
from tacit.nn import TableMLP
from tacit.pretrain import SCARF


def test_loss_against_the_algorithm():
    """Algorithm 1, one pair of rows at a time, but for its constant log n."""
    x = torch.randn(5, 4)
    learner = SCARF(TableMLP(4, hidden_dim=8), hidden_dim=8, embed_dim=6, temperature=0.7).eval()
    torch.manual_seed(2)
    corrupted = learner.corrupt(x)
    torch.manual_seed(2)
    loss = learner.loss(x).item()
    z, other = (learner.projector(learner.encoder(rows)).detach() for rows in (x, corrupted))
    z, other = z / z.norm(dim=1, keepdim=True), other / other.norm(dim=1, keepdim=True)
    total = 0.0
    for i in range(5):
        scores = [math.exp(float(z[i] @ other[k]) / 0.7) for k in range(5)]
        total -= math.log(scores[i] / (sum(scores) / 5))
    assert loss == pytest.approx(total / 5 + math.log(5), rel=1e-5)


def test_rows_of_two_kinds_come_apart():
    """Columns that all say the same: three corrupted ones of five leave enough to find the row's kind."""
    torch.manual_seed(0)
    kind = torch.arange(64) % 4
    x = torch.nn.functional.one_hot(kind, 4).float().repeat(1, 3) + 0.1 * torch.randn(64, 12)
    learner = SCARF(TableMLP(12, hidden_dim=32, num_layers=2).fit_prepare(x), hidden_dim=32, embed_dim=16)
    optimizer = torch.optim.Adam(learner.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        learner.loss(x).backward()
        optimizer.step()
    with torch.no_grad():
        z = torch.nn.functional.normalize(learner.eval().projector(learner.encoder(x)), dim=1)
    alike = z @ z.T
    same = kind[:, None] == kind
    assert alike[same].mean() > alike[~same].mean() + 0.5


def test_what_cannot_be_is_refused():
    encoder = TableMLP(3, hidden_dim=8)
    with pytest.raises(ArgumentError, match="rate"):
        SCARF(encoder, corruption=0)
    with pytest.raises(ArgumentError, match="negative"):
        SCARF(encoder).eval().loss(torch.zeros(1, 3))
    with pytest.raises(ArgumentError, match="temperature"):
        SCARF(encoder, temperature=0.0).loss(torch.zeros(2, 3))
