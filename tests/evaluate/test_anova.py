import numpy as np
import pytest
from scipy.stats import f_oneway

from tacit.errors import ArgumentError
from tacit.evaluate import two_way_anova


def drawn(a=3, b=4, r=5, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(a, b, r)) + rng.normal(size=(a, 1, 1)) + 2 * rng.normal(size=(1, b, 1))


def residual_of(columns, y):
    """Sum of squares that least squares on these indicator columns leaves."""
    fitted = columns @ np.linalg.lstsq(columns, y, rcond=None)[0]
    return ((y - fitted) ** 2).sum()


def test_sums_of_squares_are_those_of_nested_regressions():
    scores = drawn()
    a, b, _ = scores.shape
    i, j, _ = (index.ravel() for index in np.indices(scores.shape))
    y, one = scores.ravel(), np.ones((scores.size, 1))
    rows, columns, cells = np.eye(a)[i], np.eye(b)[j], np.eye(a * b)[i * b + j]
    left = [residual_of(np.hstack(parts), y) for parts in ([one], [one, rows], [one, rows, columns], [cells])]
    found = {source.name: source for source in two_way_anova(scores)}
    assert found["rows"].squares == pytest.approx(left[0] - left[1])
    assert found["columns"].squares == pytest.approx(left[1] - left[2])
    assert found["interaction"].squares == pytest.approx(left[2] - left[3])
    assert found["residual"].squares == pytest.approx(left[3])
    assert [source.degrees for source in found.values()] == [2, 3, 6, 48]
    assert sum(source.share for source in found.values()) == pytest.approx(1)


def test_f_and_p_are_scipys_where_the_other_factor_and_the_interaction_do_nothing():
    """With two columns that hold the same numbers, F of the rows is that of one-way analysis up to the degrees."""
    groups = np.random.default_rng(1).normal(size=(3, 6)) + np.arange(3)[:, None]
    doubled = np.stack([groups, groups], axis=1)
    rows = two_way_anova(doubled)[0]
    expected = f_oneway(*groups)
    # twice the squares of the rows over twice the squares of the residual, on twice as many degrees of freedom
    assert rows.f == pytest.approx(expected.statistic * 2)


def test_without_replicates_the_interaction_is_the_error():
    found = two_way_anova(drawn(r=1), ("views", "algorithm"))
    assert [source.name for source in found] == ["views", "algorithm", "interaction"]
    assert np.isnan(found[2].f)
    noise = found[2].squares / found[2].degrees
    assert found[0].f == pytest.approx(found[0].squares / 2 / noise)


@pytest.mark.parametrize("scores", [np.ones((3, 4)), np.ones((1, 4, 2)), np.full((2, 2, 2), np.nan)])
def test_other_shapes_are_refused(scores):
    with pytest.raises(ArgumentError, match="scores"):
        two_way_anova(scores)
