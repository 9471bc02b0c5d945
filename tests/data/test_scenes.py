import hashlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tacit.data import OBJECT_COLUMNS, scenes
from tacit.data._drawn import COLOURS, PLACES, SHAPES
from tacit.errors import ArgumentError
from tacit.evaluate import mean_iou, segmentation_probe

NAMES = list(SHAPES)


def fields(objects):
    return {name: objects[..., i] for i, name in enumerate(OBJECT_COLUMNS)}


def signed_area(name, x, y):
    """Whether points, in radii from the centre, lie in the shape: written anew for the convex ones and the cross."""
    if name == "circle":
        return x**2 + y**2 < 0.9**2
    if name == "square":
        return (abs(x) < 0.8) & (abs(y) < 0.8)
    if name == "triangle":
        corners = [(1.1 * np.sin(a), 1.1 * np.cos(a)) for a in (np.pi, np.pi / 3, -np.pi / 3)]  # the first one up
        inside = np.ones(np.shape(x), bool)
        for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
            inside &= (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0) > 0
        return inside
    if name == "cross":
        return ((abs(x) < 0.95) & (abs(y) < 0.32)) | ((abs(y) < 0.95) & (abs(x) < 0.32))
    raise KeyError(name)


def test_mask_and_instance_are_what_the_objects_say():
    """Each object drawn again from its row of parameters, one pixel at a time, the last one on top."""
    size = 48
    data = scenes(12, seed=3, image_size=size, n_classes=4)
    found = fields(data["objects"])
    v, u = np.meshgrid(*[(np.arange(size) + 0.5) / size] * 2, indexing="ij")
    differing = 0
    for i in range(12):
        instance = np.zeros((size, size), int)
        for k in range(data["objects"].shape[1]):
            if found["class"][i, k] == 0:
                continue
            c, s, r = found["cos"][i, k], found["sin"][i, k], found["radius"][i, k]
            right, down = (u - found["u"][i, k]) / r, (v - found["v"][i, k]) / r
            name = NAMES[int(found["class"][i, k]) - 1]
            instance[signed_area(name, c * right + s * down, c * down - s * right)] = k + 1
        differing += (instance != data["instance"][i]).sum()
    assert differing <= 3  # pixels whose centre lies on an edge
    classes = np.concatenate([np.zeros((12, 1)), found["class"]], axis=1)
    for i in range(12):
        np.testing.assert_array_equal(data["segments"][i], classes[i][data["instance"][i]])
        areas = [(data["segments"][i] == k).sum() for k in range(1, 4)]
        assert areas[data["y"][i] - 1] == max(areas)
        counts = [(data["instance"][i] == k + 1).sum() for k in range(data["objects"].shape[1])]
        np.testing.assert_array_equal(found["visible"][i], counts)


def test_an_object_has_its_colour():
    """Without texture, the median of an object's pixels points where its colour does, up to light, rim and noise."""
    data = scenes(60, seed=1, contrast=0, n_objects=(1, 1))
    tones = np.array(list(COLOURS.values()), float)
    tones /= np.linalg.norm(tones, axis=1, keepdims=True)
    inside = np.stack(
        [np.median(x[:, where == 1], axis=1) for x, where in zip(data["x"], data["instance"], strict=True)]
    )
    nearest = (inside @ tones.T).argmax(1)
    assert np.mean(nearest == data["objects"][:, 0, OBJECT_COLUMNS.index("colour")]) > 0.9


def test_factors_are_uniform_and_independent_of_the_class():
    from scipy.stats import chi2_contingency, chisquare

    data = scenes(1000, seed=5, image_size=24, n_objects=(2, 4))
    found = fields(data["objects"])
    there = found["class"] > 0
    assert set(there.sum(1)) == {2, 3, 4}
    for name in ("class", "colour", "texture"):
        assert chisquare(np.bincount(found[name][there].astype(int))[int(name == "class") :]).pvalue > 1e-3
    assert chisquare(np.bincount(data["place"], minlength=len(PLACES))).pvalue > 1e-3
    for name in ("colour", "texture"):
        table = np.zeros((6, 8))
        np.add.at(table, (found["class"][there].astype(int), found[name][there].astype(int)), 1)
        assert chi2_contingency(table[1:, table.any(0)]).pvalue > 1e-3


def test_raw_colour_says_little_of_the_class():
    data = scenes(200, seed=1, image_size=32)
    x, mask = torch.from_numpy(data["x"]).float(), torch.from_numpy(data["segments"])
    ground = mean_iou(mask[100:], torch.zeros_like(mask[100:]))
    assert ground == pytest.approx(0.10, abs=0.01)
    colours = F.avg_pool2d(x, 2).permute(0, 2, 3, 1)
    score = segmentation_probe(colours[:100], mask[:100], colours[100:], mask[100:])
    assert ground - 0.01 < score.value < 0.14


def test_every_machine_draws_the_same():
    data = scenes(5, seed=7, image_size=32)
    digest = hashlib.sha256(
        b"".join(data[name].tobytes() for name in ("x", "segments", "instance", "objects", "place", "y"))
    )
    assert digest.hexdigest()[:16] == "edb704d6d94a6a47"
    again = scenes(70, seed=7, image_size=32)
    other = scenes(70, seed=8, image_size=32)
    assert all(column.flags.c_contiguous for column in data.values())  # as torch wants them
    assert (again["x"] == scenes(70, seed=7, image_size=32)["x"]).all()
    assert (again["x"] != other["x"]).mean() > 0.9


@pytest.mark.parametrize(
    "words",
    [
        {"n": 0},
        {"seed": -1},
        {"image_size": 16},
        {"n_classes": 1},
        {"n_classes": 9},
        {"n_objects": (3, 2)},
        {"contrast": 2},
    ],
)
def test_what_cannot_be_is_refused(words):
    with pytest.raises(ArgumentError, match=next(iter(words))):
        scenes(**({"n": 4} | words))
