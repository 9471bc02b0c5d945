import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression
from torch import nn

from tacit.analysis import pretraining_bench
from tacit.analysis._facial_pretraining_study import clips, few_labels
from tacit.errors import ArgumentError
from tacit.evaluate import linear_probe


class Columns(nn.Module):
    """Features that are some of the pixels."""

    def __init__(self, *which):
        super().__init__()
        self.which, self.dim, self.image_size, self.in_channels = list(which), len(which), 2, 1

    def forward(self, x):
        return x.float().flatten(1)[:, self.which]


def images(n=200):
    return torch.rand(n, 1, 2, 2, generator=torch.Generator().manual_seed(0))


def test_scores_are_the_probe_s_on_the_same_split():
    x = images()
    y = (x[:, 0, 0, 0] > 0.5).long()
    found = pretraining_bench({"a": Columns(0), "b": Columns(1, 2)}, x, {"y": y}, fractions=[0.3, 1], seeds=[5])
    order = torch.randperm(200, generator=torch.Generator().manual_seed(5))
    test, train = order[:60], order[60:]
    for i, model in enumerate((Columns(0), Columns(1, 2))):
        for f, rows in enumerate((train[:42], train)):
            score = linear_probe(model(x)[rows], y[rows], model(x)[test], y[test], seed=5).value
            assert found.scores[i, 0, f, 0] == pytest.approx(score)
    gains = found.gains("a", "b")
    np.testing.assert_allclose(gains, found.scores[0, :, :, 0] - found.scores[1, :, :, 0])
    assert gains.min() > 0.2
    row = found.table[1]
    assert (row["encoder"], row["fraction"], row["mean"]) == ("a", 1, found.scores[0, 0, 1, 0])


def test_numbers_are_scored_by_r2():
    x = images(400)
    z = torch.stack([2 * x[:, 0, 0, 0], x[:, 0, 1, 1]], 1)
    found = pretraining_bench({"a": Columns(0)}, x, {"z": z}, fractions=[1.0]).scores.item()
    one, z = x.flatten(1)[:, :1].numpy(), z.numpy()
    left = np.square(z - LinearRegression().fit(one, z).predict(one)).mean(0)
    each = 1 - left / z.var(0)
    assert found == pytest.approx(np.clip(each, 0, 1).mean(), abs=0.03)


def test_few_labels_hold_two_classes_whatever_the_share():
    y = torch.zeros(100, dtype=torch.int64)
    y[95:] = 1
    items = torch.arange(100)
    chosen = few_labels(y, items, 0.01)
    assert y[chosen].bincount().tolist() == [10, 2]
    assert torch.equal(few_labels(y, items, 0.97), items[:97])


def test_frames_of_a_clip_show_one_glyph_shifted_as_they_say():
    data = clips(12, seed=3, frames=4)
    for k in range(0, 12, 4):
        for frame in range(k, k + 4):
            assert data["y"][frame] == data["y"][k]
            shift = [data[name][k] - data[name][frame] for name in ("position_y", "position_x")]
            np.testing.assert_array_equal(np.roll(data["x"][frame, 0], shift, (0, 1)), data["x"][k, 0])


def test_what_cannot_be_is_refused():
    with pytest.raises(ArgumentError, match="tasks"):
        pretraining_bench({"a": Columns(0)}, images(), {"y": torch.zeros(3)})
    with pytest.raises(ArgumentError, match="fractions"):
        pretraining_bench({"a": Columns(0)}, images(), {"y": torch.zeros(200)}, fractions=[0.0])
