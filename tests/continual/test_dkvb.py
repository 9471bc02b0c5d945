import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.estimator_checks import check_estimator
from torch import nn

from tacit.continual import DiscreteKeyValueBottleneck
from tacit.continual._dkvb import nearest_keys
from tacit.errors import ArgumentError
from tacit.evaluate import incremental_tasks

SMALL = {"n_codebooks": 8, "n_pairs": 16, "key_dim": 4, "random_state": 0}


def blobs(n=200, d=10, n_classes=4, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % n_classes)
    centres = 3 * np.random.default_rng(99).normal(size=(n_classes, d))
    return (centres[y] + rng.normal(size=(n, d))).astype(np.float32), y


def fetched(model, x):
    """The nearest key of each head, one distance at a time."""
    heads = np.stack([x @ projection.T for projection in model.projections_], axis=1)
    near = [[np.argmin([np.sum((row[c] - key) ** 2) for key in model.keys_[c]]) for c in range(8)] for row in heads]
    return np.array(near)


def test_check_estimator():
    check_estimator(DiscreteKeyValueBottleneck(n_codebooks=16, n_pairs=32, key_epochs=2, lr=30.0, random_state=0))


def test_nearest_keys_by_brute_force():
    torch.manual_seed(0)
    heads, keys = torch.randn(9, 3, 4), torch.randn(3, 6, 4)
    never = torch.zeros(3, 6, dtype=torch.bool)
    never[:, :2] = True
    for skip, first in ((None, 0), (never, 2)):
        slow = [[int((keys[c, first:] - heads[b, c]).norm(dim=1).argmin()) + first for c in range(3)] for b in range(9)]
        assert nearest_keys(heads, keys, skip).tolist() == slow


def test_keys_against_a_slow_moving_average():
    """One batch an epoch and no dead keys: the EMA of counts and sums, one item at a time."""
    x, _ = blobs(40)
    words = {**SMALL, "n_pairs": 3, "threshold": 0.0, "batch_size": 40, "decay": 0.6}
    model = DiscreteKeyValueBottleneck(**words, key_epochs=0).init_keys(x)
    keys, projections = model.keys_.astype(float), model.projections_
    counts = np.full(keys.shape[:2], 40 / 3)
    sums = keys * 40 / 3
    for _ in range(2):
        new_counts, new_sums = np.zeros_like(counts), np.zeros_like(sums)
        for row in x:
            for c in range(8):
                head = projections[c] @ row
                near = int(np.argmin(((keys[c] - head) ** 2).sum(axis=1)))
                new_counts[c, near] += 1
                new_sums[c, near] += head
        counts, sums = 0.6 * counts + 0.4 * new_counts, 0.6 * sums + 0.4 * new_sums
        keys = sums / counts[..., None]
    found = DiscreteKeyValueBottleneck(**words, key_epochs=2).init_keys(x)
    np.testing.assert_allclose(found.keys_, keys, rtol=1e-3, atol=1e-4)


def test_values_against_autograd():
    x, y = blobs(50)
    model = DiscreteKeyValueBottleneck(**SMALL, epochs=4, lr=5.0, clip=0.05, batch_size=50).init_keys(x)
    pairs = torch.from_numpy(fetched(model, x))
    values = torch.zeros(8, 16, 4, requires_grad=True)
    optimizer = torch.optim.SGD([values], 5.0)
    for _ in range(4):
        optimizer.zero_grad()
        logits = torch.stack([values[c, pairs[:, c]] for c in range(8)]).mean(0)
        nn.functional.cross_entropy(logits, torch.from_numpy(y), label_smoothing=0.1).backward()
        nn.utils.clip_grad_norm_([values], 0.05)
        optimizer.step()
    model.partial_fit(x, y)
    np.testing.assert_allclose(model.values_, values.detach().numpy(), rtol=1e-3, atol=1e-5)
    assert model.counts_.sum() == 4 * 50 * 8
    np.testing.assert_allclose(model.predict_proba(x), logits_of(values, pairs), rtol=1e-3)


def logits_of(values, pairs):
    return torch.stack([values[c, pairs[:, c]] for c in range(8)]).mean(0).softmax(1).detach().numpy()


def test_only_fetched_values_move():
    x, y = blobs()
    model = DiscreteKeyValueBottleneck(**SMALL, lr=5.0).init_keys(x)
    first, second = (np.isin(y, classes) for classes in ([0, 1], [2, 3]))
    model.partial_fit(x[first], y[first], classes=range(4))
    keys, values = model.keys_.copy(), model.values_.copy()
    touched = np.zeros(values.shape[:2], bool)
    for row in fetched(model, x[second]):
        touched[np.arange(8), row] = True
    assert 0.1 < touched.mean() < 0.9
    model.partial_fit(x[second], y[second])
    np.testing.assert_array_equal(model.keys_, keys)
    np.testing.assert_array_equal(model.values_[~touched], values[~touched])
    assert (model.values_[touched] != values[touched]).any(axis=1).all()


def test_classes_one_after_another_are_kept_where_a_linear_head_keeps_the_last():
    x, y = blobs(400)
    new, told = blobs(400, seed=1)
    model = DiscreteKeyValueBottleneck(n_codebooks=32, n_pairs=64, lr=30.0, random_state=0).init_keys(x)
    head = nn.Linear(10, 4)
    optimizer = torch.optim.SGD(head.parameters(), 0.1)
    for task in incremental_tasks(y, classes_per_task=1):
        model.partial_fit(x[task], y[task], classes=range(4))
        for _ in range(200):
            optimizer.zero_grad()
            nn.functional.cross_entropy(head(torch.from_numpy(x[task])), torch.from_numpy(y[task])).backward()
            optimizer.step()
    linear = (head(torch.from_numpy(new)).argmax(1).numpy() == told).mean()
    assert model.score(new, told) > 0.9
    assert model.score(new, told) > linear


def test_classes_may_join_and_keep_what_was_learned():
    x, y = blobs()
    first = y < 2
    names = np.array(["m", "z", "a", "n"])[y]
    model = DiscreteKeyValueBottleneck(**SMALL, lr=5.0).init_keys(x).partial_fit(x[first], names[first])
    before = model.values_.copy()
    model.partial_fit(x[~first][:1], names[~first][:1])
    assert set(model.classes_) == {"m", "z", names[~first][0]}
    old = np.searchsorted(model.classes_, ["m", "z"])
    still = model.values_[:, :, old] == before
    assert still.all(axis=2).mean() > 0.9  # one item fetches one of 16 pairs in each codebook


def test_the_seed_makes_it_the_same_and_init_keys_forgets():
    x, y = blobs()
    one, two = (DiscreteKeyValueBottleneck(**SMALL).fit(x, y) for _ in range(2))
    np.testing.assert_array_equal(one.values_, two.values_)
    two.init_keys(x)
    assert not hasattr(two, "values_")
    np.testing.assert_array_equal(two.partial_fit(x, y).values_, one.values_)
    chance = np.random.RandomState(0)
    third, fourth = (DiscreteKeyValueBottleneck(**{**SMALL, "random_state": chance}).fit(x, y) for _ in range(2))
    assert not np.array_equal(third.projections_, fourth.projections_)  # a shared generator goes on


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 20), st.integers(1, 6), st.integers(1, 4), st.integers(0, 9), st.sampled_from(["f4", "f8", "u1"]))
def test_any_shape_and_type_gives_probabilities(n, d, n_classes, seed, dtype):
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 4, size=(n, d)).astype(dtype), rng.integers(n_classes, size=n)
    p = DiscreteKeyValueBottleneck(**{**SMALL, "n_pairs": 30}, key_epochs=1, epochs=1).fit(x, y).predict_proba(x)
    assert p.shape == (n, len(np.unique(y)))
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-5)


def test_what_cannot_be_is_refused():
    x, y = blobs()
    for wrong in ({"n_pairs": 0}, {"decay": 1.0}, {"lr": 0.0}, {"label_smoothing": 1.0}, {"key_epochs": -1}):
        with pytest.raises(ArgumentError, match=next(iter(wrong))):
            DiscreteKeyValueBottleneck(**wrong).fit(x, y)
    with pytest.raises(ValueError, match=r"classes \[3\] are not among"):
        DiscreteKeyValueBottleneck(**SMALL).partial_fit(x, y, classes=[0, 1, 2])
    model = DiscreteKeyValueBottleneck(**SMALL).init_keys(x)
    with pytest.raises(ValueError, match="features"):
        model.partial_fit(x[:, :2], y)
