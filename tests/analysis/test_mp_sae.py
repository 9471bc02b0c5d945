import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from sklearn.linear_model import OrthogonalMatchingPursuit, orthogonal_mp
from torch.nn.functional import normalize

from tacit.analysis import MatchingPursuitSAE, SparseAutoencoder, atom_recovery, concept_tree, matching_pursuit
from tacit.analysis._mp_sae import _Pursuit, _Shallow, top_k
from tacit.errors import ArgumentError


def drawn(n=7, d=6, n_atoms=10):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=generator, dtype=torch.double)
    return x, normalize(torch.randn(n_atoms, d, generator=generator, dtype=torch.double))


def slow(x, atoms, k, positive):
    """The pursuit of one row, step by step as in the paper."""
    r, z = x.copy(), np.zeros(len(atoms))
    for _ in range(k):
        products = [float(atom @ r) for atom in atoms]
        j = int(np.argmax(products if positive else np.abs(products)))
        if positive and products[j] <= 0:
            break
        z[j] += products[j]
        r = r - products[j] * atoms[j]
    return z


@pytest.mark.parametrize("positive", [True, False])
def test_the_pursuit_is_the_loop_over_rows_and_steps(positive):
    x, atoms = drawn()
    expected = [slow(row, atoms.numpy(), 9, positive) for row in x.numpy()]
    np.testing.assert_allclose(matching_pursuit(x, atoms, 9, positive=positive), expected, atol=1e-12)


@pytest.mark.parametrize("k", [1, 3, 6])
def test_with_orthogonal_atoms_it_is_orthogonal_matching_pursuit(k):
    x, _ = drawn()
    atoms = torch.linalg.qr(drawn(6, 6)[0])[0]
    theirs = orthogonal_mp(atoms.numpy().T, x.numpy().T, n_nonzero_coefs=k).T
    np.testing.assert_allclose(matching_pursuit(x, atoms, k, positive=False), theirs, atol=1e-10)


def test_its_first_atom_is_that_of_orthogonal_matching_pursuit_whatever_the_atoms():
    x, atoms = drawn()
    for row, z in zip(x.numpy(), matching_pursuit(x, atoms, 1, positive=False).numpy(), strict=True):
        theirs = OrthogonalMatchingPursuit(n_nonzero_coefs=1, fit_intercept=False).fit(atoms.numpy().T, row).coef_
        np.testing.assert_allclose(z, theirs, atol=1e-10)


def test_with_many_steps_it_reaches_least_squares():
    x, _ = drawn()
    atoms = drawn(n_atoms=4)[1]
    z = matching_pursuit(x, atoms, 2000, positive=False).numpy()
    expected = np.linalg.lstsq(atoms.numpy().T, x.numpy().T, rcond=None)[0].T
    np.testing.assert_allclose(z, expected, atol=1e-6)


def test_a_positive_pursuit_is_no_better_than_nonnegative_least_squares_and_stops_where_nothing_helps():
    x, atoms = drawn()
    z = matching_pursuit(x, atoms, 500)
    left = x - z @ atoms
    assert (z >= 0).all()
    for row, r in zip(x.numpy(), left.numpy(), strict=True):
        assert np.linalg.norm(r) >= nnls(atoms.numpy().T, row)[1] - 1e-9
    assert not matching_pursuit(-atoms[:1], atoms[:1], 3).any()


def test_the_residual_never_grows_and_stays_once_it_is_short():
    x, atoms = drawn()
    lengths = torch.stack([(x - matching_pursuit(x, atoms, k) @ atoms).norm(dim=1) for k in range(1, 30)])
    assert (lengths.diff(dim=0) <= 1e-12).all()
    tol = lengths[8].mean().item()
    stopped = (x - matching_pursuit(x, atoms, 29, tol=tol) @ atoms).norm(dim=1)
    first = torch.where((lengths < tol).any(0), (lengths < tol).int().argmax(0), 28)
    torch.testing.assert_close(stopped, lengths[first, torch.arange(len(x))])


def test_the_loss_has_the_gradient_of_its_steps():
    x, atoms = drawn()
    assert torch.autograd.gradcheck(
        lambda d: (x - matching_pursuit(x, d, 3) @ d).square().sum(), atoms.requires_grad_()
    )


def test_the_pursuit_s_loss_is_its_squared_error():
    torch.manual_seed(0)
    learner = _Pursuit(6, 10, True, 3, 0.0).double()
    learner.offset.data.normal_()
    x, atoms = drawn()[0], learner.atoms.detach().numpy()
    b = learner.offset.detach().numpy()
    errors = [np.square(row - b - slow(row - b, atoms, 3, True) @ atoms).sum() for row in x.numpy()]
    assert learner.loss(x).item() == pytest.approx(np.mean(errors))


def test_top_k_and_batch_top_k_keep_the_largest():
    z = torch.rand(5, 8, generator=torch.Generator().manual_seed(0))
    expected = torch.where(z >= z.sort(dim=1).values[:, -3:-2], z, 0)
    torch.testing.assert_close(top_k(z, 3), expected)
    learner = _Shallow(4, 8, True, "batch-topk", 1.5)
    x = torch.randn(10, 4, generator=torch.Generator().manual_seed(1))
    z = torch.relu(x @ learner.encoder.weight.T).detach()
    least = z.flatten().sort(descending=True).values[14]
    kept = torch.where(z >= least, z, 0)
    error = (x - kept @ learner.atoms).square().sum(1).mean()
    torch.testing.assert_close(learner.loss(x), error)
    assert learner.threshold.item() == pytest.approx(0.1 * least.item())


def test_the_tree_has_the_cosines_and_the_concepts_that_it_says():
    data = concept_tree(4000, seed=1, similarity=0.4)
    features, active = data["features"], data["concepts"] != 0
    cosines = features @ features.T
    np.testing.assert_allclose(cosines[:11, :11], 0.4 + 0.6 * np.eye(11), atol=1e-10)
    np.testing.assert_allclose(cosines[:11, 11:], 0, atol=1e-10)
    siblings = np.kron(np.eye(3), np.full((3, 3), 0.4)) + 0.6 * np.eye(9)
    np.testing.assert_allclose(cosines[11:, 11:], siblings, atol=1e-10)
    assert (active[:, :11].sum(1) == 1).all()
    children = active[:, 11:].reshape(-1, 3, 3)
    assert not (children.any(2) & ~active[:, :3]).any(), "a child without its parent"
    assert (children.sum((1, 2)) <= 1).all()
    assert active.sum(1).mean() == pytest.approx(1.36, abs=0.03)


def test_orthogonal_concepts_are_found():
    chance = np.random.default_rng(0)
    truth = np.linalg.qr(chance.normal(size=(6, 6)))[0]
    x = chance.uniform(1, 2, size=(600, 1)) * truth[chance.integers(6, size=600)]
    model = MatchingPursuitSAE(n_atoms=12, k=1, center=False, max_steps=300, lr=3e-2, batch_size=100, random_state=0)
    assert atom_recovery(model.fit(x).components_, truth) > 0.98


def test_codes_are_in_the_units_of_the_rows():
    x = np.random.default_rng(0).normal(size=(60, 4))
    words = {"n_atoms": 8, "k": 3, "max_steps": 20, "random_state": 0}
    model, larger = MatchingPursuitSAE(**words).fit(x), MatchingPursuitSAE(**words).fit(100 * x + 7)
    np.testing.assert_allclose(larger.transform(100 * x + 7), 100 * model.transform(x), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(model.components_, axis=1), 1)


@pytest.mark.parametrize("kind", [MatchingPursuitSAE, SparseAutoencoder])
def test_its_presets_are_its_own_settings(kind):
    for words in kind.settings.values():
        assert kind(**words).get_params().items() >= words.items()


def test_what_cannot_be_is_refused():
    x = np.ones((4, 2))
    with pytest.raises(ArgumentError, match="k=0"):
        MatchingPursuitSAE(k=0).fit(x)
    with pytest.raises(ArgumentError, match="kind='top'"):
        SparseAutoencoder(kind="top").fit(x)
    relu = SparseAutoencoder(kind="relu", n_atoms=4, max_steps=1).fit(x)
    with pytest.raises(ArgumentError, match="topk"):
        relu.transform(x, k=2)
