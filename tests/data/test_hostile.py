"""Files as they come: each is used, or skipped with its reason, or refused with a clear line."""

import csv
import io
import os
import re
import struct
import subprocess
import sys
import threading
import weakref
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from tacit import data
from tacit.data import _images, _listing
from tacit.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("TACIT_CACHE", str(folder))
    return folder


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def raw_png(rows, *, width, height, depth, colour, extra=b""):
    """A PNG written from the specification, so that its pixels are known without a decoder."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    packed = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def encoded(pixels, kind="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def noise(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


GOOD = encoded(noise(0, 32, 32, 3))


def only_image(tmp_path, content, name="a.png", **options):
    """The pixels (c, 32, 32) of a folder with one file."""
    (tmp_path / name).write_bytes(content)
    source = data.open(tmp_path, image_size=32, **options)
    assert source.skipped == []
    return source.dataset["x"][:].numpy()[0]


# Files that cannot be used --------------------------------------------------------------------------------------------

JPEG = encoded(noise(1, 64, 64, 3), "JPEG", quality=90)
BOMB = raw_png([b"\0" * 100], width=60_000, height=60_000, depth=8, colour=2)
LARGE = raw_png([b"\0" * 100], width=11_000, height=11_000, depth=8, colour=0)

UNUSABLE = {
    "truncated.jpg": (JPEG[: len(JPEG) // 2], "truncated"),
    "header_only.jpg": (JPEG[:100], "truncated|damaged|not an image"),
    "truncated.png": (GOOD[: len(GOOD) // 2], "truncated|damaged"),
    "zero.jpg": (b"", "empty: zero bytes"),
    "text.jpg": (b"Sehr geehrte Damen und Herren,\n" * 99, "not an image: text"),
    "page.png": (b"<!DOCTYPE html><title>404</title>", "not an image: text"),
    "drawing.png": (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "not an image of pixels: SVG"),
    "phone.heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99), "HEIC: .*pillow-heif"),
    "noise.jpg": (noise(2, 5000).tobytes(), "not an image: unknown format"),
    "zeros.jpg": (bytes(5000), "damaged: nothing but zeros"),
    "program.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "not an image: text"),
    "bomb.png": (BOMB, "too many pixels: .*3600000000 pixels"),
    "large.png": (LARGE, "too many pixels: 11,000 x 11,000"),
    "checksum.png": (GOOD.replace(b"IDAT", b"IDAX"), "damaged|truncated|not an image"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_what_cannot_be_read_is_skipped_with_its_reason_or_raised(tmp_path, name):
    content, reason = UNUSABLE[name]
    (tmp_path / name).write_bytes(content)
    (tmp_path / "good.png").write_bytes(GOOD)
    source = data.open(tmp_path)
    assert source.uris == ["good.png"]
    assert [skipped.uri for skipped in source.skipped] == [name]
    assert_matches(reason, source.skipped[0].reason)
    for _ in range(2):  # the second time, the cache knows
        with pytest.raises(DataError, match=name) as caught:
            data.open(tmp_path, on_error="raise")
        assert_matches(reason, str(caught.value))


def assert_matches(pattern, text):
    assert re.search(pattern, text), text


def test_all_of_them_together_leave_the_good_ones_and_a_csv(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, (content, _) in UNUSABLE.items():
        (folder / name).write_bytes(content)
    for name in ("a.png", "m.png", "z.png"):
        (folder / name).write_bytes(GOOD)
    source = data.open(folder)
    assert source.uris == ["a.png", "m.png", "z.png"]
    assert (source.dataset["x"][:].numpy() == noise(0, 32, 32, 3).transpose(2, 0, 1)).all()
    assert {skipped.uri for skipped in source.skipped} == set(UNUSABLE)
    line = next(line for line in source.describe() if line.startswith("Skipped"))
    assert f"Skipped {len(UNUSABLE)}: " in line
    assert "2 too many pixels" in line

    data.write_skipped(tmp_path / "skipped.csv", source.skipped)
    with (tmp_path / "skipped.csv").open(newline="", encoding="utf-8") as file:
        assert [tuple(row) for row in csv.reader(file)] == [("uri", "reason"), *source.skipped]
    assert not (tmp_path / "skipped.csv.tmp").exists()


def test_nothing_readable_says_what_was_found(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    (tmp_path / "b.jpg").write_bytes(JPEG[:300])
    with pytest.raises(DataError, match=r"nothing readable in .* 1 empty, 1 truncated|1 truncated, 1 empty"):
        data.open(tmp_path)


def test_a_bomb_is_not_decoded(tmp_path, monkeypatch):
    """Compressed zeros a little above the limit, which Pillow alone would decode, and a header that promises 10 GB."""
    monkeypatch.setattr(_images, "MAX_PIXELS", 1_000_000)
    zeros = raw_png([bytes(1100)] * 1100, width=1100, height=1100, depth=8, colour=0)
    for name, content in {"zeros.png": zeros, "bomb.png": BOMB, "good.png": GOOD}.items():
        (tmp_path / name).write_bytes(content)
    assert sizes_decoded(monkeypatch, tmp_path) == {(32, 32)}


def test_a_large_jpeg_is_decoded_at_an_eighth(tmp_path, monkeypatch):
    monkeypatch.setattr(_images, "MAX_PIXELS", 1_000_000)
    Image.new("RGB", (1200, 900), (200, 100, 50)).save(tmp_path / "a.jpg")
    assert sizes_decoded(monkeypatch, tmp_path) == {(150, 113)}
    source = data.open(tmp_path, image_size=32)
    assert source.sizes.tolist() == [[1200, 900]]
    np.testing.assert_allclose(source.dataset["x"][:].numpy()[0].mean(axis=(1, 2)), (200, 100, 50), atol=2)


def sizes_decoded(monkeypatch, folder):
    decoded, original = set(), ImageFile.ImageFile.load
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: decoded.add(self.size) or original(self))
    data.open(folder, image_size=32)
    return decoded


# Unusual images that can be used --------------------------------------------------------------------------------------


def test_one_pixel(tmp_path):
    pixels = only_image(tmp_path, encoded(np.full((1, 1, 3), (10, 200, 30), np.uint8)))
    assert (pixels == np.array([10, 200, 30])[:, None, None]).all()


def test_one_pixel_high(tmp_path):
    image = np.zeros((1, 4000), np.uint8)
    image[:, 1990:2010] = 255
    assert (only_image(tmp_path, encoded(image)) == 255).all()


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    values = np.linspace(0, 65535, 32 * 32).astype(">u2").reshape(32, 32)
    content = raw_png([row.tobytes() for row in values], width=32, height=32, depth=16, colour=0)
    expected = np.round(values.astype(float) / 65535 * 255)
    pixels = only_image(tmp_path, content)
    assert pixels.shape == (1, 32, 32)
    np.testing.assert_array_equal(pixels[0], expected)
    assert len(np.unique(pixels)) == 256


def test_sixteen_bits_in_tiff_of_either_byte_order(tmp_path):
    values = np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)
    for order, mode in (("<", "I;16"), (">", "I;16B")):
        image = Image.frombytes(mode, (32, 32), values.astype(f"{order}u2").tobytes())
        image.save(tmp_path / f"{mode[-1]}.tif")
    stored = data.open(tmp_path).dataset["x"][:].numpy()
    np.testing.assert_array_equal(stored, np.round(np.stack([values, values])[:, None] / 65535 * 255))


def test_sixteen_bits_of_which_few_are_used_are_remarked_on(tmp_path):
    values = np.full((32, 32), 1000, np.uint16)
    pixels = only_image(tmp_path, encoded(values))
    assert (pixels == round(1000 / 65535 * 255)).all()
    assert any("upper 4 bits are unused" in line for line in data.open(tmp_path).describe())


def test_floating_point_tiff(tmp_path):
    values = np.linspace(0, 1, 32 * 32, dtype=np.float32).reshape(32, 32)
    np.testing.assert_array_equal(only_image(tmp_path, encoded(values, "TIFF"), "a.tif")[0], np.round(values * 255))
    (tmp_path / "b.tif").write_bytes(encoded(values * 3000 - 1, "TIFF"))
    assert data.open(tmp_path).skipped == [("b.tif", "floating-point values outside 0 to 1: from -1 to 2999")]


def test_cmyk_jpeg(tmp_path):
    """Solid inks: r = 255 (1 - c)(1 - k), and so on."""
    for c, m, y, k in [(0, 0, 0, 0), (0, 0, 0, 255), (255, 0, 0, 0), (0, 255, 255, 0), (0, 0, 0, 128)]:
        file = io.BytesIO()
        Image.new("CMYK", (32, 32), (c, m, y, k)).save(file, "JPEG", quality=95)
        pixels = only_image(tmp_path, file.getvalue(), "a.jpg").astype(float)
        pixels = np.broadcast_to(pixels, (3, 32, 32))  # black and white are grey
        expected = [255 * (1 - ink / 255) * (1 - k / 255) for ink in (c, m, y)]
        np.testing.assert_allclose(pixels.mean(axis=(1, 2)), expected, atol=3)


def test_a_palette_with_and_without_transparency(tmp_path):
    palette = noise(3, 256, 3)
    palette[0] = 7, 8, 9
    numbers = noise(4, 32, 32)
    options = {"width": 32, "height": 32, "depth": 8, "colour": 3}
    rows = [row.tobytes() for row in numbers]
    opaque = raw_png(rows, extra=chunk(b"PLTE", palette.tobytes()), **options)
    np.testing.assert_array_equal(only_image(tmp_path, opaque), palette[numbers].transpose(2, 0, 1))

    alpha = bytes([0] + [255] * 255)  # colour 0 is transparent, and so white
    extra = chunk(b"PLTE", palette.tobytes()) + chunk(b"tRNS", alpha)
    expected = np.where((numbers == 0)[..., None], 255, palette[numbers]).transpose(2, 0, 1)
    np.testing.assert_array_equal(only_image(tmp_path, raw_png(rows, extra=extra, **options)), expected)


@pytest.mark.parametrize(("colour", "channels"), [(6, 4), (4, 2)])
def test_transparency_is_put_on_white(tmp_path, colour, channels):
    image = noise(5, 32, 32, channels)
    rows = [row.tobytes() for row in image]
    pixels = only_image(tmp_path, raw_png(rows, width=32, height=32, depth=8, colour=colour))
    alpha = image[..., -1:] / 255
    expected = (image[..., :-1] * alpha + 255 * (1 - alpha)).transpose(2, 0, 1)
    assert pixels.shape == (channels - 1, 32, 32)
    np.testing.assert_allclose(pixels, expected, atol=1)


def test_a_transparent_grey_level(tmp_path):
    image = noise(6, 32, 32) // 2
    rows = [row.tobytes() for row in image]
    content = raw_png(rows, width=32, height=32, depth=8, colour=0, extra=chunk(b"tRNS", struct.pack(">H", 5)))
    np.testing.assert_array_equal(only_image(tmp_path, content)[0], np.where(image == 5, 255, image))


def test_one_bit(tmp_path):
    image = noise(7, 32, 32) > 127
    rows = [np.packbits(row).tobytes() for row in image]
    pixels = only_image(tmp_path, raw_png(rows, width=32, height=32, depth=1, colour=0))
    np.testing.assert_array_equal(pixels[0], image * 255)


def test_grey_images_have_one_channel_until_one_has_colour(tmp_path):
    grey = [noise(seed, 32, 32) for seed in range(40)]
    for number, image in enumerate(grey):
        content = (
            encoded(image) if number % 2 else encoded(np.stack([image] * 3, axis=-1))
        )  # grey, though stored as RGB
        (tmp_path / f"{number:02}.png").write_bytes(content)
    source = data.open(tmp_path)
    assert source.channels == 1
    np.testing.assert_array_equal(source.dataset["x"][:].numpy()[:, 0], grey)

    (tmp_path / "zz.png").write_bytes(GOOD)
    source = data.open(tmp_path)
    stored = source.dataset["x"][:].numpy()
    assert source.channels == 3
    np.testing.assert_array_equal(stored[:40], np.stack([grey] * 3, axis=1))
    np.testing.assert_array_equal(stored[40], noise(0, 32, 32, 3).transpose(2, 0, 1))
    assert "colour" in source.describe()[0]


ROW_AND_COLUMN = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}
"""EXIF's definition: where the stored 0th row and 0th column are in the upright picture."""


@pytest.mark.parametrize("orientation", ROW_AND_COLUMN)
def test_exif_rotation(tmp_path, orientation):
    stored = noise(orientation, 32, 32, 3)
    row, column = ROW_AND_COLUMN[orientation]
    upright = stored.transpose(1, 0, 2) if row in ("left", "right") else stored
    upright = upright[::-1] if "bottom" in (row, column) else upright
    upright = upright[:, ::-1] if "right" in (row, column) else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = only_image(tmp_path, encoded(stored, exif=exif))
    np.testing.assert_array_equal(pixels, upright.transpose(2, 0, 1))


def test_exif_rotation_turns_the_size_and_the_thumbnail_too(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "a.jpg").write_bytes(encoded(noise(0, 40, 100, 3), "JPEG", exif=exif))
    source = data.open(tmp_path)
    assert source.sizes.tolist() == [[40, 100]]
    assert Image.open(io.BytesIO(source.thumbnails[0])).size == (26, 64)
    assert any("turned upright as their EXIF says: 1" in line for line in source.describe())


def test_damaged_exif_is_no_reason_to_skip(tmp_path):
    image = noise(0, 32, 32, 3)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" + b"\xff" * 40)
    np.testing.assert_array_equal(only_image(tmp_path, file.getvalue()), image.transpose(2, 0, 1))


def test_an_animation_gives_its_first_frame(tmp_path):
    first, second = Image.new("RGB", (32, 32), "red"), Image.new("RGB", (32, 32), "blue")
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    source = data.open(tmp_path)
    assert source.dataset["x"][:].numpy()[0].mean(axis=(1, 2)).tolist() == [255, 0, 0]
    assert any("several frames" in line for line in source.describe())


# Names and folders ----------------------------------------------------------------------------------------------------


def test_unicode_and_very_long_names(tmp_path):
    names = ["größe.png", "写真/猫 🐈.png", "l" * 251 + ".png", "a\nb,\"c'.png", "-rf *.png", "a\u0301.png"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(GOOD)
    source = data.open(tmp_path)
    assert source.uris == sorted(names)
    assert source.skipped == []


def test_a_name_that_is_no_text(tmp_path):
    folder, cache_name = os.fsencode(tmp_path), b"caf\xe9.png"
    try:
        fd = os.open(os.path.join(folder, cache_name), os.O_CREAT | os.O_WRONLY)  # noqa: PTH118
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    os.write(fd, GOOD)
    os.close(fd)
    source = data.open(tmp_path)
    assert source.uris == ["caf\\xe9.png"]
    source.uris[0].encode()


def test_paths_deeper_than_the_system_opens(tmp_path):
    """Each name is fine, the path is longer than PATH_MAX: listed as a problem, not a crash."""
    (tmp_path / "good.png").write_bytes(GOOD)
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=here)
        there = os.open("d" * 250, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = there
    os.close(here)
    source = data.open(tmp_path)
    assert source.uris == ["good.png"]
    assert "too long" in source.skipped[0].reason
    subprocess.run(["rm", "-rf", "d" * 250], cwd=tmp_path, check=True)


def test_symbolic_links_and_loops_of_them(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    for name in ("root/z/1.png", "root/z/deep/2.png", "outside/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(GOOD)
    (root / "z" / "up").symlink_to(root, target_is_directory=True)  # a loop
    (root / "a").symlink_to(root / "z" / "deep", target_is_directory=True)  # a second name for what is there
    (root / "out").symlink_to(outside, target_is_directory=True)
    (outside / "back").symlink_to(root, target_is_directory=True)  # a loop over two folders
    (root / "file.png").symlink_to(outside / "3.png")
    (root / "broken.png").symlink_to(root / "nowhere")
    (root / "self.png").symlink_to("self.png")
    source = data.open(root)
    assert source.uris == ["file.png", "out/3.png", "z/1.png", "z/deep/2.png"]
    assert {skipped.uri for skipped in source.skipped} == {"broken.png", "self.png"}
    with pytest.raises(DataError, match=r"broken\.png.*broken symbolic link|self\.png.*Too many levels"):
        data.open(root, on_error="raise")
    assert data.open(f"{root}/**/?.png").uris == ["z/1.png", "z/deep/2.png"]  # as in a shell, ** follows no links


def test_a_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "a.png").write_bytes(GOOD)
    (tmp_path / "t.csv").write_text("path\na.png\npipe.jpg\n/dev/zero\n")
    done = []
    worker = threading.Thread(
        target=lambda: done.extend([data.open(tmp_path).skipped, data.open(tmp_path / "t.csv").skipped]), daemon=True
    )
    worker.start()
    worker.join(30)
    assert ("pipe.jpg", "not a regular file") in done[0]
    assert done[1] == [("pipe.jpg", "not a regular file"), ("/dev/zero", "not a regular file")]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read everything")
def test_what_may_not_be_read(tmp_path):
    (tmp_path / "good.png").write_bytes(GOOD)
    (tmp_path / "secret.png").write_bytes(GOOD)
    (tmp_path / "secrets").mkdir(mode=0)
    (tmp_path / "secret.png").chmod(0)
    source = data.open(tmp_path)
    assert source.skipped == [
        ("secret.png", "cannot be read: Permission denied"),
        ("secrets/", "cannot be listed: Permission denied"),
    ]


def test_a_file_that_may_be_read_tomorrow_is_not_skipped_for_ever(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(GOOD)
    (tmp_path / "b.png").write_bytes(encoded(noise(1, 32, 32, 3)))
    original = _listing.read_file

    def denied(path):
        if path.endswith("b.png"):
            raise _images.Unreadable("cannot be read: Permission denied")
        return original(path)

    monkeypatch.setattr(_listing, "read_file", denied)
    assert data.open(tmp_path).skipped == [("b.png", "cannot be read: Permission denied")]
    monkeypatch.setattr(_listing, "read_file", original)
    assert data.open(tmp_path).uris == ["a.png", "b.png"]


def test_an_empty_folder_is_refused_with_what_was_looked_for(tmp_path):
    for names in ([], [".hidden.png", ".git/a.png"]):
        for name in names:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(GOOD)
        with pytest.raises(DataError, match=r"nothing to learn from in .*looked for images.*is empty") as caught:
            data.open(tmp_path)
        assert str(tmp_path) in str(caught.value)


def test_one_single_image_as_a_folder_and_as_a_file(tmp_path):
    (tmp_path / "a.png").write_bytes(GOOD)
    for x in (tmp_path, tmp_path / "a.png"):
        source = data.open(x)
        assert (len(source), source.uris) == (1, ["a.png"])
        assert "Found 1 colour image in" in source.describe()[0]


# Archives -------------------------------------------------------------------------------------------------------------


def archive(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members.items():
            packed.writestr(name, content)


def test_damaged_and_encrypted_members(tmp_path):
    archive(tmp_path / "a.zip", {"a.png": GOOD, "b.png": encoded(noise(1, 32, 32, 3)), "c.png": GOOD})
    content = bytearray((tmp_path / "a.zip").read_bytes())
    entries = [at for at in range(len(content)) if content[at : at + 4] == b"PK\x01\x02"]
    locals_ = [at for at in range(len(content)) if content[at : at + 4] == b"PK\x03\x04"]
    content[entries[2] + 8] |= 1  # the flag of encryption
    content[locals_[2] + 6] |= 1
    content[locals_[1] + 300] ^= 255
    (tmp_path / "a.zip").write_bytes(content)
    source = data.open(tmp_path / "a.zip")
    assert source.uris == ["a.png"]
    assert [skipped.uri for skipped in source.skipped] == ["b.png", "c.png"]
    assert source.skipped[0].reason.startswith("damaged in the archive")
    assert source.skipped[1].reason == "encrypted in the archive"


def test_a_member_that_unpacks_to_too_much(tmp_path, monkeypatch):
    monkeypatch.setattr(_listing, "MAX_BYTES", 10_000)
    archive(tmp_path / "a.zip", {"a.png": GOOD, "bomb.png": bytes(10**7)})
    assert data.open(tmp_path / "a.zip").skipped == [("bomb.png", "too large: 10,000,000 bytes, the limit is 10,000")]


def test_names_that_point_out_of_the_archive_are_only_names(tmp_path):
    archive(tmp_path / "a.zip", {"../../up.png": GOOD, "/etc/a.png": GOOD})
    before = sorted(tmp_path.parent.rglob("*.png"))
    assert len(data.open(tmp_path / "a.zip")) == 1  # names that begin with a dot are hidden
    assert sorted(tmp_path.parent.rglob("*.png")) == before


# Very many ------------------------------------------------------------------------------------------------------------


class Entry:
    def __init__(self, name):
        self.name = name

    def is_dir(self):
        return False

    def is_file(self):
        return True


def test_a_million_names_come_one_by_one(tmp_path, monkeypatch):
    """The first name is there after one entry, progress is told after one, and every 1,000 from then on."""
    listed = []

    class Endless:
        def __init__(self, path):
            pass

        def __enter__(self):
            return (listed.append(number) or Entry(f"{number:07}.jpg") for number in range(10**6))

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(_listing.os, "scandir", Endless)
    names = _listing.walk(str(tmp_path), [])
    assert next(names) == "0000000.jpg"
    assert len(listed) == 1

    class Enough(Exception):
        pass

    told = []

    def stop(stage, done, total):
        told.append((stage, done, len(listed)))
        if done > 3000:
            raise Enough

    listed.clear()
    with pytest.raises(Enough):
        data.open(tmp_path, progress=stop)
    assert told == [("listing", done, done) for done in (1, 1001, 2001, 3001)]


def test_decoded_images_are_never_many_in_memory(tmp_path, monkeypatch):
    for number in range(50):
        (tmp_path / f"{number:03}.png").write_bytes(encoded(noise(number, 32, 32, 3)))
    for number in range(50, 1000):
        os.link(tmp_path / f"{number % 50:03}.png", tmp_path / f"{number:03}.png")
    original, alive, most, lock = _images.decode, [0], [0], threading.Lock()

    def gone(_):
        with lock:
            alive[0] -= 1

    def counted(*arguments):
        picture = original(*arguments)
        with lock:
            alive[0] += 1
            most[0] = max(most[0], alive[0])
        held = picture.pixels.copy()
        weakref.finalize(held, gone, None)
        return picture._replace(pixels=held)

    monkeypatch.setattr(_images, "decode", counted)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    source = data.open(tmp_path)
    assert len(source) == 1000
    assert most[0] <= 6 * 16  # four tasks of 16 ahead, one being taken, one being written
    for number in (0, 49, 50, 999):
        expected = noise(number % 50, 32, 32, 3).transpose(2, 0, 1)
        np.testing.assert_array_equal(source.dataset["x"][[number]][0].numpy(), expected)


@pytest.mark.slow
def test_twenty_thousand_names_in_bounded_memory(tmp_path):
    """20,000 images of 256 x 256 pixels are 4 GB when decoded; the process grows by far less."""
    y, x = np.mgrid[0:256, 0:256]
    (tmp_path / "0.jpg").write_bytes(encoded(np.uint8(np.stack([x, y, (x + y) // 2], axis=-1)), "JPEG"))
    for number in range(1, 20_000):
        os.link(tmp_path / "0.jpg", tmp_path / f"{number}.jpg")
    program = (
        "import resource, sys; from tacit import data\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "data.open('demo:digits'); before = peak()\n"
        "source = data.open(sys.argv[1], image_size=32)\n"
        "print(len(source), peak() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True)
    n, grown = map(int, done.stdout.split())
    assert n == 20_000
    assert grown < 100
