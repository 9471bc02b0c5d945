"""Named sets: the pixels belong to the labels, subsets nest, and what is missing is said."""

import io
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from tacit.data._named import _resize, named
from tacit.errors import ArgumentError, DataError

have_data = pytest.mark.skipif(not os.environ.get("TACIT_DATA"), reason="TACIT_DATA is not set")


def jpeg(colour):
    file = io.BytesIO()
    Image.new("RGB", (32, 32), colour).save(file, "JPEG", quality=95)
    return file.getvalue()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Tiny sets of the same layout; each image's brightness tells its label: 20 times it."""
    for name in ("cifar10_jpeg", "fashion_mnist", "mnist_test10k", "usps"):
        (tmp_path / name).mkdir()
    labels = np.repeat(np.arange(10, dtype=np.uint8), 4)
    flat = np.broadcast_to((20 * labels)[:, None, None], (40, 28, 28))
    for split in ("train", "test"):
        files = [jpeg((20 * int(label), 0, 255)) for label in labels]
        parquet.write_table(pa.table({"image": files, "label": labels}), tmp_path / f"cifar10_jpeg/{split}.parquet")
        np.savez(tmp_path / f"fashion_mnist/{split}.npz", images=flat, labels=labels)
    np.savez(tmp_path / "mnist_test10k/mnist_test10k.npz", images=flat, labels=labels)
    ink = np.broadcast_to((labels.astype(np.uint16) * 157)[:, None, None], (40, 16, 16))
    np.savez(tmp_path / "usps/usps.npz", train_images=ink, train_labels=labels, test_images=ink, test_labels=labels)
    monkeypatch.setenv("TACIT_DATA", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", ["cifar10", "fashion_mnist", "mnist", "usps"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_images_belong_to_labels(folder, name, split):
    images, labels = named(name, split, seed=4)
    assert (images.dtype, labels.dtype) == (np.uint8, np.int64)
    assert np.abs(images[:, 0].mean((1, 2)) - 20 * labels).max() <= 2  # JPEG rounds
    if name == "cifar10":
        assert images[:, 1].max() <= 3
        assert images[:, 2].min() >= 252
    assert sorted(labels) != list(labels)
    assert len(labels) == (20 if name == "mnist" else 40)


def test_mnist_halves_do_not_meet(folder):
    assert set(named("mnist", "train")[1]) == {0, 1, 2, 3, 4}
    assert set(named("mnist", "test")[1]) == {5, 6, 7, 8, 9}


def test_subsets_nest_and_seeds_differ(folder):
    few, all_of_them = named("cifar10", n=7, seed=2), named("cifar10", seed=2)
    np.testing.assert_array_equal(few[0], all_of_them[0][:7])
    np.testing.assert_array_equal(few[1], all_of_them[1][:7])
    assert list(named("cifar10", seed=3)[1]) != list(all_of_them[1])
    np.testing.assert_array_equal(np.bincount(all_of_them[1]), np.full(10, 4))


def test_what_is_given_out_can_be_changed(folder):
    for name in ("cifar10", "usps"):
        images, labels = named(name)
        before = images.copy()
        images[:], labels[:] = 0, 0
        np.testing.assert_array_equal(named(name)[0], before)


def test_digits_need_no_folder(monkeypatch):
    from sklearn.datasets import load_digits

    monkeypatch.delenv("TACIT_DATA", raising=False)
    source = load_digits()
    images = np.concatenate([named("digits", split)[0] for split in ("train", "test")])
    labels = np.concatenate([named("digits", split)[1] for split in ("train", "test")])
    np.testing.assert_array_equal(np.bincount(labels), np.bincount(source.target))
    np.testing.assert_allclose(np.sort(images.ravel()), np.sort(source.images.ravel()) * 255 / 16, atol=0.5)


def test_resize_agrees_with_pillow():
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
    for size in (16, 24, 48):
        ours = _resize(images, size)
        for image, resized in zip(images, ours, strict=True):
            theirs = Image.fromarray(image.transpose(1, 2, 0)).resize((size, size), Image.Resampling.BILINEAR)
            assert np.abs(np.asarray(theirs).transpose(2, 0, 1).astype(int) - resized).max() <= 1
    assert _resize(images, 32) is images
    assert named("digits", n=5, size=16)[0].shape == (5, 1, 16, 16)


def test_what_is_missing_is_said(folder, monkeypatch):
    with pytest.raises(ArgumentError, match="did you mean 'cifar10'"):
        named("cifar-10")
    with pytest.raises(ArgumentError, match="split='val': expected one of test, train"):
        named("cifar10", "val")
    with pytest.raises(ArgumentError, match="n=41: expected 1 to 40"):
        named("cifar10", n=41)
    with pytest.raises(ArgumentError, match="size=0"):
        named("cifar10", size=0)
    monkeypatch.setenv("TACIT_DATA", str(folder / "elsewhere"))
    with pytest.raises(DataError, match=r"TACIT_DATA=.*expected it to hold usps/usps.npz"):
        named("usps")
    monkeypatch.delenv("TACIT_DATA")
    with pytest.raises(
        DataError, match=r"TACIT_DATA is not set: expected the folder that holds cifar10_jpeg/train.parquet"
    ):
        named("cifar10")


@have_data
def test_real_sets_have_their_sizes():
    sizes = {
        "cifar10": (50_000, 10_000),
        "fashion_mnist": (60_000, 10_000),
        "mnist": (5_000, 5_000),
        "usps": (7_291, 2_007),
    }
    for name, (_, test) in sizes.items():
        with pytest.raises(ArgumentError, match=f"expected 1 to {test},"):
            named(name, "test", n=10**9)
    path = Path(os.environ["TACIT_DATA"]) / "cifar10_jpeg/test.parquet"
    table = parquet.read_table(path).to_pydict()
    images, labels = named("cifar10", "test", n=300, seed=1)
    decoded = {
        np.asarray(Image.open(io.BytesIO(file))).tobytes(): label
        for file, label in zip(table["image"], table["label"], strict=True)
    }
    assert [decoded[image.transpose(1, 2, 0).tobytes()] for image in images] == labels.tolist()


@have_data
def test_usps_nearest_neighbour_is_as_published_with_the_data():
    """The data's own notes: 0.944 for one nearest neighbour on the standard split."""
    x, y = named("usps", "train")
    test_x, test_y = named("usps", "test")
    x, test_x = x.reshape(len(x), -1) / np.float32(255), test_x.reshape(len(test_x), -1) / np.float32(255)
    distance = (x**2).sum(1) - 2 * test_x @ x.T
    assert (y[distance.argmin(1)] == test_y).mean() == pytest.approx(0.944, abs=0.001)
