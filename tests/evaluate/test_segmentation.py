"""Scores of masks against loops over pixels, and average precision against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from tacit.errors import ArgumentError
from tacit.evaluate import box_iou, corloc, largest_regions, mask_average_precision, mask_boxes, mask_iou


def masks(n=20, h=9, w=7, share=0.3, seed=0):
    return np.random.default_rng(seed).random((n, h, w)) < share


def slow_iou(a, b):
    """Pixels as sets."""
    a, b = ({place for place in np.ndindex(mask.shape) if mask[place]} for mask in (a, b))
    return len(a & b) / len(a | b) if a | b else 1.0


def slow_box(mask):
    places = np.argwhere(mask)
    if not len(places):
        return [0, 0, 0, 0]
    (top, left), (bottom, right) = places.min(0), places.max(0) + 1
    return [left, top, right, bottom]


def slow_region(mask):
    """Flood fill, eight neighbours."""
    left, best = {tuple(place) for place in np.argwhere(mask)}, set()
    while left:
        region, open_ = set(), [min(left)]
        while open_:
            i, j = open_.pop()
            if (i, j) in left:
                left.remove((i, j))
                region.add((i, j))
                open_ += [(i + a, j + b) for a in (-1, 0, 1) for b in (-1, 0, 1)]
        best = region if len(region) > len(best) else best
    found = np.zeros_like(mask)
    for place in best:
        found[place] = True
    return found


def test_iou_is_that_of_sets_of_pixels():
    y, predicted = masks(), masks(seed=1)
    y[3] = predicted[3] = False
    y[4] = False
    np.testing.assert_allclose(mask_iou(y, predicted), [slow_iou(*pair) for pair in zip(y, predicted, strict=True)])
    scores = np.random.default_rng(2).random(y.shape)
    np.testing.assert_allclose(mask_iou(y, scores[:, None], threshold=0.7), mask_iou(y, scores > 0.7))


def test_boxes_and_regions_are_those_of_slow_loops():
    y = masks(40, share=0.25)
    y[0] = False
    y[1, 0, 0] = y[1, -1, -1] = True
    assert mask_boxes(y).tolist() == [slow_box(mask) for mask in y]
    found = largest_regions(y).numpy()
    assert (found.sum((1, 2)) == [slow_region(mask).sum() for mask in y]).all()
    sizes = [np.unique([slow_region(mask & ~kept).sum(), kept.sum()]) for mask, kept in zip(y, found, strict=True)]
    assert all(len(pair) == 1 or pair[1] > 0 for pair in sizes)
    for mask, kept in zip(y, found, strict=True):
        np.testing.assert_array_equal(slow_region(kept), kept)  # one region, of the mask
        assert not (kept & ~mask).any()


def test_iou_of_boxes_is_that_of_the_pixels_in_them():
    chance = np.random.default_rng(0)
    low, side = chance.integers(0, 6, (30, 2, 2)), chance.integers(1, 5, (30, 2, 2))
    boxes = np.concatenate([low, low + side], 2)
    drawn = np.zeros((30, 2, 12, 12), bool)
    for (i, j), (left, top, right, bottom) in zip(np.ndindex(30, 2), boxes.reshape(-1, 4), strict=True):
        drawn[i, j, top:bottom, left:right] = True
    a, b = torch.from_numpy(boxes).unbind(1)
    np.testing.assert_allclose(box_iou(a, b), [slow_iou(*pair) for pair in drawn], atol=1e-6)


def test_corloc_counts_boxes_of_the_largest_region():
    y, predicted = masks(30, share=0.2), masks(30, share=0.2, seed=1)
    y[:2] = False
    predicted[2] = False
    right = []
    for truth, found in zip(y[2:], predicted[2:], strict=True):
        boxes = [torch.tensor([slow_box(mask)]) for mask in (truth, slow_region(found))]
        right.append(float(box_iou(*boxes)) > 0.5)
    score = corloc(y, predicted)
    assert score.n == 28
    assert score.value == pytest.approx(np.mean(right), abs=2 / 28)  # regions of equal size may be told apart otherwise
    assert corloc(y, y | False).value <= 1
    assert corloc(y[5:6], y[5:6], overlap=0.0).value == 1


def test_average_precision_is_that_of_scikit_learn():
    y = masks()
    y[0] = False
    chance = np.random.default_rng(3)
    for scores in (chance.random(y.shape), chance.integers(0, 4, y.shape) / 4):  # with and without ties
        found = mask_average_precision(y, scores)
        assert torch.isnan(found[0])
        for truth, score, value in zip(y[1:], scores[1:], found[1:], strict=True):
            assert float(value) == pytest.approx(average_precision_score(truth.ravel(), score.ravel()), abs=1e-6)


def test_what_cannot_be_scored_is_refused():
    y = masks()
    with pytest.raises(ArgumentError, match="that of y"):
        mask_iou(y, y[:, :5])
    with pytest.raises(ArgumentError, match="NaN"):
        mask_iou(y, np.full(y.shape, np.nan))
    with pytest.raises(ArgumentError, match=r"masks \(n, h, w\)"):
        mask_iou(y[0], y[0])
    with pytest.raises(ArgumentError, match="an object"):
        corloc(np.zeros((2, 4, 4)), np.ones((2, 4, 4)))
