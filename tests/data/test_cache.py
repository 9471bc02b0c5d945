"""The cache: what is in it is whole, is found again by content, and costs a second opening almost nothing."""

import errno
import io
import multiprocessing
import os
import resource
import shutil
import sqlite3
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tacit import data
from tacit.data import _cache, _images, _packs, _points
from tacit.data._cache import ArrayWriter, Fact, FileIndex, Stamp
from tacit.errors import DataError

FORK = multiprocessing.get_context("fork")  # a fresh interpreter would import torch anew each time


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TACIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def photos(tmp_path):
    """Twenty images, one damaged, all last changed an hour ago."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(20):
        Image.fromarray(noise(number)).save(folder / f"{number:02}.png")
    (folder / "20.png").write_bytes(b"damaged")
    age(folder)
    return folder


def noise(seed):
    return np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)


def age(folder, seconds=3600):
    for path in folder.iterdir():
        os.utime(path, (time.time() - seconds, time.time() - seconds))


def same(a, b):
    assert a.uris == b.uris
    assert a.hashes == b.hashes
    assert a.skipped == b.skipped
    assert a.dataset.fingerprint == b.dataset.fingerprint
    np.testing.assert_array_equal(a.dataset["x"][:].numpy(), b.dataset["x"][:].numpy())
    np.testing.assert_array_equal(a.sizes, b.sizes)
    assert list(a.thumbnails) == list(b.thumbnails)
    assert a.describe() == b.describe()
    return True


def entries(cache, kind="images"):
    return sorted((cache / kind).iterdir()) if (cache / kind).is_dir() else []


def never(*_, **__):
    raise AssertionError("not needed")


# Hits and misses ------------------------------------------------------------------------------------------------------


def test_a_second_opening_neither_reads_nor_decodes_and_is_the_same(photos, monkeypatch):
    first = data.open(photos)
    monkeypatch.setattr(_images, "decode", never)
    monkeypatch.setattr(Path, "read_bytes", never)
    assert same(first, data.open(photos))


def test_the_rows_lie_on_disk(photos, cache):
    source = data.open(photos)
    rows = np.load(entries(cache)[0] / "x.npy", mmap_mode="r")
    assert isinstance(source.dataset["x"]._rows, np.memmap)
    np.testing.assert_array_equal(rows, source.dataset["x"][:].numpy())


def test_content_counts_and_not_the_place(photos, monkeypatch):
    first = data.open(photos)
    moved = photos.rename(photos.with_name("moved"))
    monkeypatch.setattr(_images, "decode", never)
    second = data.open(moved)
    assert second.hashes == first.hashes
    assert second.where == str(moved)


def test_a_changed_file_is_seen(photos):
    first = data.open(photos)
    Image.fromarray(noise(99)).save(photos / "03.png")
    second = data.open(photos)
    assert first.hashes != second.hashes
    assert not np.array_equal(first.dataset["x"][[3]], second.dataset["x"][[3]])
    np.testing.assert_array_equal(first.dataset["x"][[4]], second.dataset["x"][[4]])


def test_a_change_within_the_clocks_tick_is_seen(tmp_path):
    """Same path, size and time: possible only right after the first change, so such files are not indexed."""
    folder = tmp_path / "photos"
    folder.mkdir()
    now = time.time_ns()
    seen = []
    for level in (1, 2):
        Image.new("L", (32, 32), level).save(folder / "a.bmp")
        os.utime(folder / "a.bmp", ns=(now, now))
        seen.append(int(data.open(folder).dataset["x"][[0]].max()))
    assert seen == [1, 2]


def test_a_damaged_file_is_skipped_again_or_raised(photos):
    for _ in range(2):
        assert data.open(photos).skipped == [("20.png", "not an image: text")]
        with pytest.raises(DataError, match=r"20\.png"):
            data.open(photos, on_error="raise")


def test_raising_keeps_nothing(photos, cache):
    with pytest.raises(DataError, match=r"20\.png"):
        data.open(photos, on_error="raise")
    assert entries(cache) == []
    assert entries(cache, "tmp") == []


def test_each_stored_size_has_its_own_place(photos, cache):
    data.open(photos, image_size=32)
    data.open(photos, image_size=20)
    assert len(entries(cache)) == 1
    data.open(photos, image_size=64)
    assert len(entries(cache)) == 2


def test_points_are_found_again(cache, monkeypatch):
    rows = np.random.default_rng(0).normal(size=(100, 3))
    first = data.open(rows)
    monkeypatch.setattr(_points, "_write", never)
    second = data.open(rows)
    assert second.dataset.fingerprint == first.dataset.fingerprint
    np.testing.assert_array_equal(second.dataset["x"][:], first.dataset["x"][:])
    assert len(entries(cache, "points")) == 1


def test_items_that_change_between_the_passes_never_enter(photos, cache, monkeypatch):
    original = _packs.examine

    def examine(*arguments):
        facts = original(*arguments)
        Image.fromarray(noise(99)).save(photos / "05.png")
        return facts

    monkeypatch.setattr(_packs, "examine", examine)
    with pytest.raises(DataError, match=r"05\.png changed while the data was read"):
        data.open(photos)
    assert entries(cache) == entries(cache, "tmp") == []
    monkeypatch.setattr(_packs, "examine", original)
    stored = data.open(photos, image_size=32).dataset["x"][[5]][0].numpy()
    np.testing.assert_array_equal(stored, data.read_image(photos / "05.png", size=32))


# Whole or not at all --------------------------------------------------------------------------------------------------


def test_an_entry_that_was_damaged_afterwards_is_made_anew(photos, cache):
    expected = data.open(photos).dataset["x"][:]
    for name in ("x.npy", "kept.npy", "pack.json", "thumbnails.bin", "sizes.npy"):
        path = entries(cache)[0] / name
        os.truncate(path, path.stat().st_size // 2)
        source = data.open(photos)
        np.testing.assert_array_equal(source.dataset["x"][:], expected)
        assert [Image.open(io.BytesIO(thumbnail)).size for thumbnail in source.thumbnails] == [(50, 40)] * 20


def test_a_full_disk_in_the_middle_is_one_line_and_leaves_nothing(photos, cache, monkeypatch):
    original, written = ArrayWriter.append, []

    def append(self, rows):
        written.append(rows)
        if len(written) == 10:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(self, rows)

    monkeypatch.setattr(ArrayWriter, "append", append)
    with pytest.raises(DataError, match=r"No space left on device.*TACIT_CACHE") as caught:
        data.open(photos)
    assert "\n" not in str(caught.value)
    assert entries(cache) == entries(cache, "tmp") == []
    monkeypatch.setattr(ArrayWriter, "append", original)
    assert len(data.open(photos)) == 20


def open_with_limit(photos, limit, answer):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        answer.send(len(data.open(photos, image_size=64)))
    except DataError as error:
        answer.send(str(error))


@pytest.mark.parametrize("limit", [100, 500, 20_000, 80_000])
def test_a_limit_of_the_system_on_what_is_written(photos, cache, limit):
    """The system itself refuses to write on: within the header, the pixels, or the buffer that closing flushes."""
    answer, end = FORK.Pipe(duplex=False)
    child = FORK.Process(target=open_with_limit, args=(photos, limit, end))
    child.start()
    said = answer.recv()
    child.join()
    assert said.startswith("cannot write the cache")
    assert "\n" not in said
    assert entries(cache) == entries(cache, "tmp") == []
    assert len(data.open(photos, image_size=64)) == 20


def test_too_little_space_is_said_before_the_work(photos, monkeypatch):
    monkeypatch.setattr(_cache.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 5000))
    monkeypatch.setattr(_images, "decode", never)
    with pytest.raises(DataError, match="22 kB needed, 5 kB free"):
        data.open(photos, image_size=32)


def test_a_cache_that_is_no_folder(photos, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="cannot write the cache"):
        data.open(photos, cache_dir=tmp_path / "file" / "cache")


def open_slowly(photos, said):
    """In another process: 0.05 s for each image, telling what it does."""
    decode = _images.decode
    _images.decode = lambda *arguments: time.sleep(0.05) or decode(*arguments)
    data.open(photos, progress=lambda *state: said.send(state))


def test_killed_at_any_moment_nothing_half_written_counts(photos, cache, tmp_path):
    expected = data.open(photos, cache_dir=tmp_path / "other")
    for delay in (0.0, 0.1, 0.3):
        said, end = FORK.Pipe(duplex=False)
        child = FORK.Process(target=open_slowly, args=(photos, end))
        child.start()
        while said.recv()[0] != "reading":
            pass
        time.sleep(delay)
        child.kill()
        child.join()
        assert entries(cache) == []
    left = entries(cache, "tmp")
    assert left
    os.utime(left[0], (time.time() - 100, time.time() - 100))
    source = data.open(photos)
    np.testing.assert_array_equal(source.dataset["x"][:], expected.dataset["x"][:])
    assert left[0] not in entries(cache, "tmp")  # swept, for its process is gone


def test_processes_at_once_make_the_same_entry(photos, cache):
    _, end = FORK.Pipe(duplex=False)
    children = [FORK.Process(target=open_slowly, args=(photos, end)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert len(entries(cache)) == 1
    assert entries(cache, "tmp") == []
    assert len(data.open(photos)) == 20


def test_what_a_living_process_writes_is_not_swept(cache):
    with _cache.building(cache, "images", "key") as temporary:
        os.utime(temporary, (time.time() - 10_000, time.time() - 10_000))
        (temporary / "x").write_bytes(b"1")
        os.utime(temporary, (time.time() - 10_000, time.time() - 10_000))
        with _cache.building(cache, "images", "other"):
            assert temporary.is_dir()
        data.clear_cache()
        assert temporary.is_dir()
    assert (cache / "images" / "key" / "x").read_bytes() == b"1"


# The index of files ---------------------------------------------------------------------------------------------------


def test_the_index_remembers_what_has_settled(cache):
    old = Stamp(b"/a\xff", 10, time.time_ns() - 10**10)
    young = Stamp(b"/b", 10, time.time_ns())
    with FileIndex(cache) as index:
        index.put(old, Fact(b"h" * 32, 7))
        index.put(young, Fact(b"h" * 32, 7))
    with FileIndex(cache) as index:
        assert index.get(old) == Fact(b"h" * 32, 7)
        assert index.get(young) is None
        assert index.get(old._replace(size=11)) is None
        assert index.get(old._replace(changed=old.changed + 1)) is None
        assert index.get(old._replace(path=b"/c")) is None


@pytest.mark.parametrize("harm", ["garbage", "folder", "locked"])
def test_a_broken_index_only_costs_time(photos, cache, harm, monkeypatch):
    first = data.open(photos)
    path = cache / _cache.INDEX
    if harm == "garbage":
        path.write_bytes(b"no database" * 1000)
    elif harm == "folder":
        path.unlink()
        path.mkdir()
    else:
        connect = sqlite3.connect
        monkeypatch.setattr(_cache.sqlite3, "connect", lambda *a, **k: connect(*a, **{**k, "timeout": 0.05}))
        other = connect(path)
        other.execute("BEGIN EXCLUSIVE")
    Image.fromarray(noise(50)).save(photos / "50.png")
    age(photos)
    second = data.open(photos)
    assert (len(first), len(second)) == (20, 21)


# Its size, and emptying it --------------------------------------------------------------------------------------------


def test_size_and_clearing_touch_only_what_is_ours(photos, cache):
    cache.mkdir()
    (cache / "letters.txt").write_text("not ours")
    (cache / "images").mkdir()
    before = data.cache_size()
    source = data.open(photos)
    stored = sum(path.stat().st_size for path in source.cached.iterdir())
    assert data.cache_size() - before >= stored > 20 * 3 * 32 * 32
    size = data.cache_size()
    assert data.clear_cache() == size
    assert data.cache_size() == 0
    assert [path.name for path in cache.rglob("*") if path.is_file()] == ["letters.txt"]
    assert len(data.open(photos)) == 20


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data.cache_folder("x/y") == Path.cwd() / "x/y"
    assert data.cache_folder() == tmp_path / "cache"
    monkeypatch.setenv("TACIT_CACHE", "~/mine")
    assert data.cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("TACIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(sys, "platform", "linux")
    assert data.cache_folder() == tmp_path / "xdg" / "tacit"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert data.cache_folder() == tmp_path / ".cache" / "tacit"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert data.cache_folder() == tmp_path / "Library" / "Caches" / "tacit"


def test_the_cache_is_the_users_alone(photos, cache):
    data.open(photos)
    assert cache.stat().st_mode & 0o777 == 0o700


def test_rows_written_one_by_one_are_what_numpy_would_save(tmp_path):
    rows = np.random.default_rng(0).integers(0, 256, (1234, 2, 3), dtype=np.uint8)
    with ArrayWriter(tmp_path / "a.npy", (2, 3), np.uint8) as writer:
        for row in rows[:1000]:
            writer.append(row)
        writer.append(rows[1000:])
        writer.append(rows[:0])
    np.save(tmp_path / "b.npy", rows)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy", mmap_mode="r"), np.load(tmp_path / "b.npy"))


def test_threads_keep_the_order_and_stop_when_the_reader_does():
    taken = []

    def numbers():
        for number in range(10_000):
            taken.append(number)
            yield number

    def slow_at_first(number):
        time.sleep(0.01 if number % 16 == 0 and number < 64 else 0)
        return -number

    results = _packs.ordered(slow_at_first, numbers())
    assert [next(results) for _ in range(100)] == [-number for number in range(100)]
    results.close()
    assert len(taken) < 1000


def test_an_error_in_a_thread_is_the_readers():
    def fail(number):
        if number == 40:
            raise DataError("here")
        return number

    with pytest.raises(DataError, match="here"):
        list(_packs.ordered(fail, range(10_000)))
