import io

import numpy as np
import pytest
import torch
from PIL import Image

from tacit.errors import ArgumentError
from tacit.report._duplicates import _agreement, _groups, _Links, _thumbnails, near_duplicates


def pictures(n, seed=0, size=32):
    """Smooth random colour pictures, uint8 (n, 3, size, size)."""
    coarse = torch.rand(n, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 1)
    return (255 * smooth).to(torch.uint8).numpy()


def vectors_of(images):
    """What an encoder would give that does not care about brightness or left and right."""
    x = images.astype(np.float32)
    x = x + x[..., ::-1]
    x = x - x.mean(axis=(1, 2, 3), keepdims=True)
    pooled = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(x), 8)
    return pooled.flatten(1).numpy()


def jpeg(image):
    file = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(file, "JPEG", quality=40)
    return np.asarray(Image.open(file)).transpose(2, 0, 1)


CHANGES = {
    "brighter": lambda image: np.clip(image.astype(int) + 20, 0, 255).astype(np.uint8),
    "recompressed": jpeg,
    "moved by a pixel": lambda image: np.roll(image, 1, axis=2),
    "copied": lambda image: image.copy(),
    "mirrored": lambda image: image[:, :, ::-1],
}


def planted(n=400, each=12):
    images = pictures(n)
    sources = np.random.default_rng(0).permutation(n)[: each * len(CHANGES)].reshape(len(CHANGES), each)
    changed = [change(images[i]) for change, items in zip(CHANGES.values(), sources, strict=True) for i in items]
    pairs = {name: set() for name in CHANGES}
    names = np.repeat(list(CHANGES), each)
    for offset, (name, source) in enumerate(zip(names, sources.flatten(), strict=True)):
        pairs[name].add((int(source), n + offset))
    return np.concatenate([images, np.stack(changed)]), pairs


def test_finds_what_was_planted_and_nothing_else():
    images, pairs = planted()
    groups = near_duplicates(vectors_of(images), images)
    found = {group.items for group in groups}
    wanted = set().union(*(pairs[name] for name in CHANGES if name != "mirrored"))
    assert len(found & wanted) >= 0.9 * len(wanted)
    assert found <= wanted
    assert {group.items for group in groups if group.exact} == pairs["copied"]
    assert not found & pairs["mirrored"]
    assert all(group.similarity == 1 for group in groups if group.exact)


def test_mirrored_pictures_count_only_where_they_are_equal():
    images = pictures(100)
    images[50] = images[0][:, :, ::-1]
    images[1, :, :, 16:] = images[1, :, :, :16][:, :, ::-1]
    images[51] = images[1][:, :, ::-1]
    assert [(group.items, group.exact) for group in near_duplicates(vectors_of(images), images)] == [((1, 51), True)]


def test_without_images_the_vectors_alone_say_it():
    x = np.random.default_rng(0).normal(size=(300, 16))
    x[200:205] = x[:5] + 0.01 * np.random.default_rng(1).normal(size=(5, 16))
    groups = near_duplicates(x)
    assert {group.items for group in groups} == {(i, 200 + i) for i in range(5)}
    assert all(0.999 < group.similarity < 1 and not group.exact for group in groups)
    assert near_duplicates(np.random.default_rng(2).normal(size=(300, 16))) == []


def test_simple_pictures_that_all_look_alike_are_not_duplicates():
    """Upright bars: thumbnails correlate over 0.95 throughout, as handwritten ones do."""
    generator = torch.Generator().manual_seed(0)
    images = np.zeros((200, 1, 32, 32), dtype=np.uint8)
    images[:, :, 4:28, 13:19] = 200
    noisy = images + torch.randint(0, 40, images.shape, generator=generator).numpy().astype(np.uint8)
    x = torch.randn(200, 12, generator=generator) + 3
    agreement = _agreement(_thumbnails(noisy, np.arange(200)), torch.arange(200)[:, None].roll(1, 0))
    assert agreement.min() > 0.95
    assert len(near_duplicates(x, noisy, min_similarity=-1)[0].items) == 50
    assert len(near_duplicates(x, noisy)) <= 2


def test_exact_copies_are_all_found_however_many():
    images = pictures(60)
    images[10:45] = images[3]
    groups = near_duplicates(vectors_of(images), images, max_group=2)
    assert groups[0].items == (3, *range(10, 45))
    assert groups[0].exact


def test_hashes_of_the_caller_are_used():
    x = np.random.default_rng(0).normal(size=(30, 4))
    hashes = [str(i) for i in range(30)]
    hashes[7] = hashes[29] = "same"
    assert [(g.items, g.similarity, g.exact) for g in near_duplicates(x, hashes=hashes)] == [((7, 29), 1.0, True)]


def test_agreement_equals_correlation_over_nine_moves():
    images = pictures(6, seed=3)
    thumbnails = _thumbnails(images, np.arange(6))
    cells = torch.from_numpy(images).float().mean(dim=1).view(6, 16, 2, 16, 2).mean(dim=(2, 4)) / 255
    torch.testing.assert_close(thumbnails.float(), cells, atol=5e-4, rtol=0)
    for i, j in [(0, 1), (2, 3), (4, 4)]:
        best = -1.0
        for down in (0, -1, 1):
            for across in (0, -1, 1):
                moved = (cells[i] + cells[i].roll(down, 0)) / 2
                moved = (moved + moved.roll(across, 1)) / 2
                pair = torch.stack([moved[1:-1, 1:-1].flatten(), cells[j, 1:-1, 1:-1].flatten()])
                best = max(best, float(torch.corrcoef(pair)[0, 1]))
        found = _agreement(thumbnails, torch.tensor([[j]] * 6))[i, 0]
        assert float(found) == pytest.approx(best, abs=0.01)


def test_blank_pictures_agree_with_each_other_only():
    images = np.concatenate([np.full((2, 3, 32, 32), 250, dtype=np.uint8), pictures(1)])
    images[1, 0, 3, 3] = 249
    agreement = _agreement(_thumbnails(images, np.arange(3)), torch.tensor([[1, 2], [0, 2], [0, 1]]))
    assert agreement[0, 0] > 0.95
    assert agreement[0, 1] < 0.5


def test_links_join_nearest_first_up_to_the_cap():
    chain = _Links(np.array([[0, 1], [1, 2], [2, 3], [4, 5]]), np.array([0.99, 0.97, 0.98, 0.96]))
    whole = _groups(np.arange(6), chain, max_group=50)
    assert [(group.items, group.similarity) for group in whole] == [((0, 1, 2, 3), 0.97), ((4, 5), 0.96)]
    capped = _groups(np.arange(6), chain, max_group=3)
    assert [group.items for group in capped] == [(0, 1), (2, 3), (4, 5)]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_items(n):
    images = pictures(n)
    assert near_duplicates(vectors_of(images), images) == []
    assert near_duplicates(np.ones((n, 3))) == []
    copies = np.repeat(images[:1], n, axis=0)
    assert len(near_duplicates(vectors_of(copies), copies)) == (n > 1)


def test_reads_tensors_and_data_columns():
    from tacit.data._dataset import Dataset

    images, _ = planted(100, 4)
    expected = near_duplicates(vectors_of(images), images)
    assert near_duplicates(vectors_of(images), torch.from_numpy(images)) == expected
    assert near_duplicates(vectors_of(images), Dataset({"x": images})["x"]) == expected


def test_refuses():
    with pytest.raises(ArgumentError, match="images: expected one row for each of 3 vectors, got 2"):
        near_duplicates(np.eye(3), pictures(2))
    with pytest.raises(ArgumentError, match="min_agreement=2"):
        near_duplicates(np.eye(3), min_agreement=2)
    with pytest.raises(ArgumentError, match="vectors: expected finite"):
        near_duplicates(np.full((3, 2), np.nan))
