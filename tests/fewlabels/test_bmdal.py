import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.estimator_checks import check_estimator
from torch import nn

from tacit.errors import ArgumentError, DataError
from tacit.fewlabels import BatchActiveSelector, Features, _bmdal, select_batch

WIDTH = 3


def network(n_outputs=1, seed=0):
    torch.manual_seed(seed)
    layers = nn.Linear(WIDTH, 5), nn.ReLU(inplace=True), nn.Linear(5, 4, bias=False), nn.Tanh(), nn.Linear(4, n_outputs)
    return nn.Sequential(*layers).double()


def points(n, seed=0):
    return torch.randn(n, WIDTH, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


def slow_gradients(net, x, *, last=False):
    """The gradient of each item's answer to all weights, one backward pass an item."""
    rows = []
    for item in x:
        net.zero_grad()
        out = net(item[None])
        answer = out[0, 0] if out.shape[1] == 1 else nn.functional.cross_entropy(out, out.argmax(1))
        answer.backward()
        linear = [layer for layer in net if isinstance(layer, nn.Linear)]
        parts = [p.grad.flatten() for layer in (linear[-1:] if last else linear) for p in layer.parameters()]
        rows.append(torch.cat(parts))
    return torch.stack(rows)


# kernels and transforms -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_outputs", [1, 3])
@pytest.mark.parametrize("kernel", ["grad", "last"])
def test_gradient_kernel_against_one_backward_pass_an_item(n_outputs, kernel):
    net, x = network(n_outputs), points(7)
    features = _bmdal.gradient_features(net, x, kernel, block=3)
    gradients = slow_gradients(net, x, last=kernel == "last")
    expected = gradients @ gradients.T
    torch.testing.assert_close(features.products(features), expected)
    torch.testing.assert_close(features.diagonal(), expected.diag())
    phi = features.explicit()
    torch.testing.assert_close(phi @ phi.T, expected)


def test_a_network_is_left_as_it_was():
    net, x = network().train(), points(4)
    before = [p.clone() for p in net.parameters()]
    _bmdal.gradient_features(net, x)
    assert net.training
    assert not x.requires_grad
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert all(not layer._forward_hooks for layer in net)


def test_sketched_products_are_right_on_average():
    features = _bmdal.gradient_features(network(), points(6))
    exact = features.products(features)
    generator = torch.Generator().manual_seed(0)
    sketches = [features.sketch(64, generator) for _ in range(200)]
    average = torch.stack([sketch.products(sketch) for sketch in sketches]).mean(0)
    assert (average - exact).abs().max() < 0.1 * exact.diag().max()


def test_sketch_against_loops_over_layers_and_projections():
    features = _bmdal.gradient_features(network(), points(4))
    sketch = features.sketch(8, torch.Generator().manual_seed(1)).explicit()
    generator, expected = torch.Generator().manual_seed(1), torch.zeros(4, 8, dtype=torch.double)
    for a, b in features.factors:
        u = torch.randn(a.shape[1], 8, generator=generator).double()
        v = torch.randn(b.shape[1], 8, generator=generator).double()
        for i in range(4):
            for p in range(8):
                # the projection of the whole tensor product by the tensor product of two vectors
                expected[i, p] += torch.outer(a[i], b[i]).flatten() @ torch.outer(u[:, p], v[:, p]).flatten() / 8**0.5
    torch.testing.assert_close(sketch, expected)


def test_posterior_features_against_the_posterior_covariance():
    phi, known, sigma = torch.randn(9, 4, dtype=torch.double), torch.tensor([1, 4, 5]), 0.3
    posterior = _bmdal.posterior_features(Features(((phi, None),)), known, sigma)
    k = phi @ phi.T
    inverse = torch.linalg.inv(k[known][:, known] + sigma**2 * torch.eye(3))
    torch.testing.assert_close(posterior.products(posterior), k - k[:, known] @ inverse @ k[known])


# selections against brute force ---------------------------------------------------------------------------------------


def slow_batch(kernel, pool, known, n, rule):
    """The greedy rules from their definitions, on a whole kernel matrix."""
    centres, batch = list(known), []
    distance = np.maximum(np.diag(kernel)[:, None] + np.diag(kernel) - 2 * kernel, 0)
    for _ in range(n):
        left = [i for i in pool if i not in batch]
        if rule == "max_det":
            best = max(left, key=lambda i: np.linalg.det(kernel[np.ix_([*centres, i], [*centres, i])]))
        elif not centres:
            best = max(left, key=lambda i: kernel[i, i])
        elif rule == "max_dist":
            best = max(left, key=lambda i: min(distance[i, c] for c in centres))
        else:
            clusters = {c: [] for c in centres}
            for i in left:
                clusters[min(centres, key=lambda c: distance[i, c])].append(i)
            largest = max(centres, key=lambda c: sum(distance[i, c] for i in clusters[c]))
            best = max(clusters[largest], key=lambda i: distance[i, largest])
        batch.append(best)
        centres.append(best)
    return batch


@pytest.mark.parametrize("rule", ["max_dist", "lcmd", "max_det"])
@pytest.mark.parametrize("n_known", [0, 1, 6])
def test_greedy_rules_against_brute_force(rule, n_known, monkeypatch):
    monkeypatch.setattr(_bmdal, "BLOCK", 4)
    phi = torch.randn(40, 12, dtype=torch.double, generator=torch.Generator().manual_seed(n_known))
    known, pool = torch.arange(n_known), torch.arange(n_known, 40)
    features = Features(((phi, None),))
    batch = _bmdal._select(features, pool, known, 6, rule, True, torch.Generator())
    expected = slow_batch((phi @ phi.T).numpy(), pool.tolist(), known.tolist(), 6, rule)
    assert batch.items.tolist() == expected


def test_scores_nearest_and_shares_are_those_of_the_moment_of_choice():
    phi = torch.randn(25, 3, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    batch = select_batch(phi, 5, labelled=[0, 1])
    centres = [0, 1]
    for item, score, nearest, share in zip(batch.items, batch.scores, batch.nearest, batch.shares, strict=True):
        squared = torch.cdist(phi, phi[centres]).square()
        to_nearest, which = squared.min(1)
        assert score == pytest.approx(to_nearest[item].item(), rel=1e-6)
        assert nearest == centres[which[item]]
        around = to_nearest[which == which[item]].sum() / to_nearest.sum()
        assert share == pytest.approx(around.item(), rel=1e-6)
        centres.append(int(item))
    assert f"from item {batch.nearest[0]}" in batch.reasons()[0]


def test_k_means_pp_draws_in_proportion_to_squared_distance():
    phi = torch.tensor([[0.0], [1.0], [2.0], [3.0]], dtype=torch.double)
    draws = [select_batch(phi, 1, labelled=[0], selection="k_means_pp", random_state=s).items[0] for s in range(500)]
    np.testing.assert_allclose(np.bincount(draws, minlength=4) / 500, np.array([0, 1, 4, 9]) / 14, atol=0.06)


def test_frank_wolfe_comes_nearer_to_the_sum_than_random_items_do():
    phi = torch.randn(60, 5, dtype=torch.double, generator=torch.Generator().manual_seed(0)) + 1

    def residual(items):
        """Of the best weights, not below 0."""
        from scipy.optimize import nnls

        return nnls(phi[items].T.numpy(), phi.sum(0).numpy())[1]

    ours = residual(select_batch(phi, 5, selection="frank_wolfe").items)
    others = [residual(select_batch(phi, 5, selection="random", random_state=s).items) for s in range(20)]
    assert ours < np.median(others)


def test_max_diag_is_the_order_of_norms_and_max_det_fills_up_where_no_variance_is_left():
    phi = torch.tensor([[1.0, 0.0], [3.0, 0.0], [2.0, 0.0], [6.0, 0.0]])
    assert select_batch(phi, 3, selection="max_diag").items.tolist() == [3, 1, 2]
    batch = select_batch(phi, 3, selection="max_det", random_state=0)
    assert batch.items[0] == 3
    assert len(set(batch.items)) == 3
    assert np.isnan(batch.scores[1:]).all()
    assert batch.reasons()[1] == "drawn at random"


def test_probabilities_make_the_gradients_of_a_linear_probe():
    """(p - e_answer) x is the gradient of the cross-entropy of a linear layer at its own answer."""
    x = points(12)
    probe = nn.Linear(WIDTH, 3, bias=False).double()
    p = probe(x).softmax(1).detach()
    expected = slow_gradients(nn.Sequential(probe), x)
    kernel = (expected @ expected.T).numpy()
    batch = select_batch(x, 4, labelled=[2, 3], probabilities=p.numpy())
    assert batch.items.tolist() == slow_batch(kernel, [i for i in range(12) if i not in (2, 3)], [2, 3], 4, "lcmd")


# the estimator --------------------------------------------------------------------------------------------------------


def test_estimator_conventions():
    kind = BatchActiveSelector
    check_estimator(kind(), expected_failed_checks=getattr(kind, "expected_failed_checks", {}))


def test_selector_is_its_parts_one_after_the_other():
    net, pool, known = network(), points(30, seed=1), points(6, seed=2)
    selector = BatchActiveSelector(net, transforms=(("posterior", 0.2),), selection="max_det").fit(known.numpy())
    gradients = slow_gradients(net, torch.cat([pool, known]))
    gradients = gradients / gradients[30:].square().sum(1).mean().sqrt()
    k = gradients @ gradients.T
    inverse = torch.linalg.inv(k[30:, 30:] + 0.04 * torch.eye(6))
    posterior = (k - k[:, 30:] @ inverse @ k[30:]).numpy()
    # of a covariance that is nearly singular, brute force keeps the first digits only
    assert selector.select(pool.numpy(), 3).tolist() == slow_batch(posterior, range(30), [], 3, "max_det")


def test_several_networks_add_their_kernels():
    nets, x = [network(seed=1), network(seed=2)], points(8)
    features = BatchActiveSelector(nets, kernel="grad")._features(x.numpy())
    expected = sum((g := slow_gradients(net, x)) @ g.T for net in nets)
    torch.testing.assert_close(features.products(features), expected)


def test_float32_stays_and_a_large_pool_is_read_in_blocks(monkeypatch):
    monkeypatch.setattr(_bmdal, "BLOCK", 64)
    x = np.random.default_rng(0).normal(size=(3000, 8)).astype(np.float32)
    labelled = np.arange(200)
    ours = select_batch(x, 10, labelled=labelled)
    monkeypatch.setattr(_bmdal, "BLOCK", 100_000)
    assert ours.items.tolist() == select_batch(x, 10, labelled=labelled).items.tolist()
    assert not set(ours.items) & set(labelled)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 12), st.integers(1, 4), st.sampled_from(list(_bmdal.SELECTIONS)), st.booleans(), st.integers(0, 9)
)
def test_any_shape_gives_distinct_items_without_label(n, width, selection, double, seed):
    rng = np.random.default_rng(seed)
    x = rng.integers(-1, 2, (n, width)).astype(np.float64 if double else np.float32)  # many twins and zero rows
    labelled = rng.permutation(n)[: rng.integers(0, n)]
    count = int(rng.integers(1, n - len(labelled) + 1))
    batch = select_batch(x, count, labelled=labelled, selection=selection, random_state=seed)
    assert len(set(batch.items)) == count
    assert not set(batch.items) & set(labelled)
    assert len(batch.reasons()) == count


def test_what_cannot_be_is_refused():
    x = np.zeros((4, 2))
    with pytest.raises(ArgumentError, match="n=5"):
        select_batch(x, 5)
    with pytest.raises(ArgumentError, match="n=4"):
        select_batch(x, 4, labelled=[0])
    with pytest.raises(ArgumentError, match="lcmd"):
        select_batch(x, 1, selection="lcdm")
    with pytest.raises(ArgumentError, match="labelled"):
        select_batch(x, 1, labelled=[7])
    with pytest.raises(DataError, match="finite"):
        select_batch(np.full((4, 2), np.nan), 1)
    with pytest.raises(ArgumentError, match="sum to 1"):
        select_batch(x, 1, probabilities=np.ones((4, 2)))
    with pytest.raises(ArgumentError, match="network"):
        BatchActiveSelector(kernel="grad").fit(x).select(x, 1)
    with pytest.raises(ArgumentError, match="kernel"):
        BatchActiveSelector(kernel="ntk").fit(x).select(x, 1)
    with pytest.raises(ArgumentError, match="transforms"):
        BatchActiveSelector(transforms=("squash",)).fit(x).select(x, 1)
    with pytest.raises(DataError, match="Linear"):
        BatchActiveSelector(nn.LayerNorm(2)).fit(x).select(x, 1)
