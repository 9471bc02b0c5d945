"""Videos as users have them: folders of frames, gifs, films; and the damaged ones among them."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

import tacit
from tacit.data import clips
from tacit.data._videos import LONGEST, read_frames
from tacit.errors import DataError


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("TACIT_CACHE", str(tmp_path_factory.mktemp("cache")))


def frames(n=6, seed=0, size=32):
    return clips(n, seed=seed, image_size=size, n_frames=max(n, 2))["x"].transpose(0, 2, 3, 1)


def write_folder(folder, pictures, name="frame{}.png"):
    folder.mkdir(parents=True)
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / name.format(number))
    return folder


def write_gif(path, pictures):
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *others = [Image.fromarray(picture).quantize(64) for picture in pictures]
    first.save(path, save_all=True, append_images=others, duration=50, loop=0)
    return path


def write_film(path, pictures, rate=10):
    av = pytest.importorskip("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt, stream.bit_rate = "yuv420p", 4_000_000
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode())
    return path


def close(a, b, most=12.0):
    return np.abs(a.astype(float) - b.astype(float)).mean() < most


def test_a_folder_of_frames_is_a_clip_ordered_by_number(tmp_path):
    pictures = frames(12)
    write_folder(tmp_path / "videos" / "walk", pictures)
    write_folder(tmp_path / "videos" / "run", pictures[::-1][:3])
    source = tacit.data.open(tmp_path / "videos", modality="video", image_size=32)
    assert source.modality == "image"
    assert source.uris[:3] == ["run/frame0.png", "run/frame1.png", "run/frame2.png"]
    assert source.uris[3:] == [f"walk/frame{number}.png" for number in range(12)]  # frame2 before frame10
    assert source.dataset["clip"][:].tolist() == [0] * 3 + [1] * 12
    np.testing.assert_array_equal(source.dataset["x"][3:].numpy(), pictures.transpose(0, 3, 1, 2))
    assert set(source.columns()) == {"x", "clip"}
    assert source.description["clips"] == 2
    assert "15 frames of 2 clips" in source.describe()[0]
    assert source.labels == {}


def test_gifs_are_clips_and_still_ones_are_frames(tmp_path):
    pictures = frames(5)
    write_gif(tmp_path / "jump.gif", pictures)
    for number, picture in enumerate(frames(2, seed=1)):
        Image.fromarray(picture).save(tmp_path / f"{number}.gif")
    source = tacit.data.open(tmp_path, modality="video", image_size=32)
    clip = source.dataset["clip"][:].tolist()
    assert sorted(clip) == [0, 0, 1, 1, 1, 1, 1] or sorted(clip) == [0] * 5 + [1] * 2
    rows = [number for number, uri in enumerate(source.uris) if uri.startswith("jump.gif#")]
    assert [source.uris[row] for row in rows] == [f"jump.gif#{number:04d}" for number in range(5)]
    assert close(source.dataset["x"][rows].numpy(), pictures.transpose(0, 3, 1, 2))
    again = tacit.data.open(tmp_path, modality="video", image_size=32)
    assert again.dataset.fingerprint == source.dataset.fingerprint


def test_films_are_read_ten_frames_a_second(tmp_path):
    pictures = frames(24)
    write_film(tmp_path / "a" / "slow.mp4", pictures, rate=10)
    write_film(tmp_path / "a" / "fast.avi", pictures, rate=30)
    source = tacit.data.open(tmp_path / "a", image_size=32)  # found to be videos by their names
    clip = source.dataset["clip"][:].numpy()
    assert np.bincount(clip).tolist() == [8, 24]
    x = source.dataset["x"][:].numpy()
    assert close(x[clip == 1], pictures.transpose(0, 3, 1, 2))
    assert close(x[clip == 0], pictures[::3].transpose(0, 3, 1, 2))
    alone = tacit.data.open(tmp_path / "a" / "slow.mp4", image_size=32)
    np.testing.assert_array_equal(alone.dataset["x"][:].numpy(), x[clip == 1])


def test_what_cannot_be_read_is_skipped_and_listed(tmp_path):
    write_folder(tmp_path / "good", frames(4))
    (tmp_path / "good" / "frame9.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    whole = write_gif(tmp_path / "whole.gif", frames(4)).read_bytes()
    (tmp_path / "cut.gif").write_bytes(whole[: len(whole) // 2])
    write_folder(tmp_path / "alone", frames(2)[:1])
    (tmp_path / "notes.txt").write_text("not a video")
    pytest.importorskip("av")
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(4000))
    (tmp_path / "empty.webm").write_bytes(b"")
    source = tacit.data.open(tmp_path, modality="video", image_size=32)
    reasons = {one.uri: one.reason for one in source.skipped}
    assert {"good/frame9.png", "alone", "notes.txt", "noise.mp4", "empty.webm"} <= set(reasons)
    assert reasons["alone"].startswith("one frame")
    assert reasons["noise.mp4"].startswith("damaged")
    assert {uri.split("#")[0].split("/")[0] for uri in source.uris} <= {"good", "whole.gif", "cut.gif"}
    assert source.dataset["clip"][:].unique().tolist() == list(range(source.description["clips"]))


def test_a_long_clip_is_cut_in_equal_parts(tmp_path):
    pictures = np.repeat(frames(2), (LONGEST + 21) // 2, axis=0)[: LONGEST + 20]
    write_folder(tmp_path / "long", pictures)
    source = tacit.data.open(tmp_path, modality="video", image_size=32)
    assert np.bincount(source.dataset["clip"][:].numpy()).tolist() == [(LONGEST + 20) // 2] * 2
    assert any("Cut into clips" in remark for remark in source.remarks)


def test_clips_in_folders_have_these_as_labels(tmp_path):
    for number in range(10):
        write_folder(tmp_path / ("cat", "dog")[number % 2] / f"{number}", frames(2, seed=number))
    source = tacit.data.open(tmp_path, modality="video", image_size=32)
    assert source.labels["folder"] == ["cat"] * 10 + ["dog"] * 10


def test_a_zip_of_gifs(tmp_path):
    write_gif(tmp_path / "one.gif", frames(4))
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(tmp_path / "one.gif", "b/one.gif")
    source = tacit.data.open(tmp_path / "all.zip", modality="video", image_size=32)
    assert source.uris[0] == "b/one.gif#0000"
    assert len(source) == 4


def test_nothing_to_read_says_what_was_looked_for(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(DataError, match=r"looked for clips \(subfolders of numbered images"):
        tacit.data.open(tmp_path, modality="video")
    write_folder(tmp_path / "alone", frames(2)[:1])
    with pytest.raises(DataError, match=r"nothing readable.*one frame"):
        tacit.data.open(tmp_path, modality="video")


def test_transparency_is_put_on_white_and_large_frames_are_made_smaller(tmp_path):
    pictures = [Image.new("RGBA", (600, 300), (255, 0, 0, 0 if number else 255)) for number in range(2)]
    pictures[0].save(tmp_path / "a.webp", save_all=True, append_images=pictures[1:], duration=50, lossless=True)
    found = read_frames(tmp_path / "a.webp", side=16)
    assert [frame.pixels.shape for frame in found] == [(3, 16, 32)] * 2
    assert found[0].size == (512, 256)
    assert found[0].pixels[:, 8, 8].tolist() == [255, 0, 0]
    assert found[1].pixels[:, 8, 8].tolist() == [255, 255, 255]
    buffer = io.BytesIO()
    Image.new("L", (40, 20), 90).save(buffer, "PNG")
    (tmp_path / "still.png").write_bytes(buffer.getvalue())
    (frame,) = read_frames(tmp_path / "still.png", side=10)
    assert frame.pixels.shape == (1, 10, 20)
    assert frame.size == (40, 20)
