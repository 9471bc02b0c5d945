import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import rel_entr, softmax

from tacit.errors import ArgumentError
from tacit.multimodal import TFUP, TFUPT
from tacit.multimodal._tfup import Adapters, adapt


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def clusters(n=90, k=3, d=5, noise=0.4, seed=0):
    rng = np.random.default_rng(seed)
    classes = unit(rng.normal(size=(k, d)))
    y = rng.integers(0, k, n)
    return classes[y] + noise * rng.normal(size=(n, d)), y, classes


def slow_cache(x, classes, shots, scale):
    """The code's selection, one class and one pair at a time."""
    p = softmax(scale / 10 * x @ classes.T, axis=1)
    items, labels = [], []
    for k in range(len(classes)):
        confident = sorted(range(len(x)), key=lambda i: -p[i, k])[: 2 * shots]
        spread = [sum(rel_entr(p[i], p[j]).sum() for j in confident) for i in confident]
        items += [confident[place] for place in np.argsort(spread, kind="stable")[:shots]]
        labels += [k] * min(shots, len(confident))
    return items, labels


def slow_logits(x, keys, labels, classes, alpha, beta, scale):
    p, q = softmax(scale / 10 * x @ classes.T, axis=1), softmax(scale / 10 * keys @ classes.T, axis=1)
    logits = scale * x @ classes.T
    for i in range(len(x)):
        kl = [rel_entr(p[i], q[j]).sum() for j in range(len(keys))]
        z = (np.array(kl) - np.mean(kl)) / np.std(kl)  # as the code does before it scales to [0, 1]
        near = 2 * (1 - (z - z.min()) / (z.max() - z.min()))
        for j in range(len(keys)):
            affinity = float(x[i] @ keys[j]) * near[j]
            logits[i, labels[j]] += alpha * math.exp(-beta * (1 - affinity))
    return logits


def test_cache_and_logits_against_the_definition():
    X, _, classes = clusters()
    new, _, _ = clusters(20, seed=1)
    model = TFUP(3 * classes, shots=7, alpha=2.0, beta=1.5, scale=20.0).fit(X)
    items, labels = slow_cache(unit(X), classes, 7, 20.0)
    assert model.cache_items_.tolist() == items
    assert model.cache_labels_.tolist() == labels
    expected = slow_logits(unit(new), unit(X)[items], labels, classes, 2.0, 1.5, 20.0)
    np.testing.assert_allclose(model.decision_function(new), expected, rtol=1e-9)
    np.testing.assert_allclose(model.predict_proba(new), softmax(expected, axis=1), rtol=1e-8)
    assert model.predict(new).tolist() == expected.argmax(1).tolist()


def test_without_a_cache_weight_it_is_zero_shot():
    X, _, classes = clusters()
    model = TFUP(classes, alpha=0.0).fit(X)
    np.testing.assert_allclose(model.decision_function(X), 100 * unit(X) @ classes.T, rtol=1e-9)


def test_blocks_change_nothing(monkeypatch):
    X, _, classes = clusters()
    model = TFUP(classes).fit(X)
    whole = model.decision_function(X)
    monkeypatch.setattr("tacit.multimodal._tfup.BLOCK", 200)
    np.testing.assert_allclose(model.decision_function(X), whole, rtol=1e-12)


def test_fewer_images_than_shots_and_one_class():
    X, _, classes = clusters(4)
    assert len(TFUP(classes, shots=16).fit(X).cache_items_) == 12
    alone = TFUP(classes[:1], shots=2).fit(X)
    assert alone.predict(X).tolist() == [0] * 4
    assert np.isfinite(alone.decision_function(X)).all()


def test_the_cache_corrects_classes_whose_texts_are_off():
    """Texts turned away from their images: the cache, which is made of images, gains."""
    X, y, classes = clusters(600, k=4, d=16, noise=0.25, seed=2)
    off = unit(classes + 0.25 * np.random.default_rng(3).normal(size=classes.shape))
    model = TFUP(off, scale=10.0, alpha=0.3).fit(X)
    assert (model.predict(X) == y).mean() > ((unit(X) @ off.T).argmax(1) == y).mean()


def test_adapters_start_where_the_equations_say():
    x, classes = F.normalize(torch.randn(5, 8), dim=1), F.normalize(torch.randn(3, 8), dim=1)
    adapters = Adapters(classes, 0.2, 0.5, torch.Generator().manual_seed(0))
    torch.testing.assert_close(adapters.texts(), classes)  # the residual is 0
    inner = F.relu(F.linear(F.relu(F.linear(x, adapters.down)), adapters.up))
    torch.testing.assert_close(adapters.images(x), F.normalize(0.2 * inner + 0.8 * x, dim=1))
    torch.testing.assert_close(adapt(x, adapters.down, adapters.up, 0.0), x)


def test_second_loss_is_cross_entropy_of_the_sure_and_the_marginals_entropy():
    model = TFUPT(marginal_weight=0.3)
    logits, labels = torch.randn(6, 3, dtype=torch.double), torch.tensor([0, 1, 2, 0, 1, 2])
    sure = torch.tensor([True, False, True, False, False, True])
    p = logits.softmax(1)
    fit = -sum(math.log(p[i, labels[i]]) for i in (0, 2, 5)) / 3
    entropy = -sum(float(m) * math.log(float(m)) for m in p.mean(0))
    assert model._second_loss(logits, labels, sure).item() == pytest.approx(fit - 0.3 * entropy, abs=1e-5)
    none = model._second_loss(logits, labels, sure & False)
    assert none.item() == pytest.approx(-0.3 * entropy, abs=1e-5)


def test_training_corrects_the_texts_and_is_the_seeds():
    X, y, classes = clusters(400, k=4, d=16, noise=0.2, seed=4)
    off = unit(classes + 0.2 * np.random.default_rng(5).normal(size=classes.shape))
    words = {"scale": 20.0, "max_steps": 80, "batch_size": 64, "random_state": 0}
    model = TFUPT(off, **words).fit(X)
    assert (model.predict(X) == y).mean() >= ((unit(X) @ off.T).argmax(1) == y).mean()
    again = TFUPT(off, **words).fit(X, crops=X[None])
    np.testing.assert_array_equal(model.decision_function(X), again.decision_function(X))


@pytest.mark.parametrize("kind", [TFUP, TFUPT])
def test_what_cannot_be_is_refused(kind):
    X, _, classes = clusters()
    for bad in ({"shots": 0}, {"alpha": -1}, {"beta": 0}, {"scale": 0}):
        with pytest.raises(ArgumentError, match=next(iter(bad))):
            kind(classes, **bad).fit(X)
    with pytest.raises(ArgumentError, match="class_embeddings"):
        kind(classes[:, :2]).fit(X)
    with pytest.raises(ArgumentError, match="crops"):
        TFUPT(classes).fit(X, crops=X)
