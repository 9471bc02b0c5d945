"""Texts, sounds, series, tables and graphs as users have them: what is odd is skipped and listed with its reason."""

import json
import tracemalloc
import wave
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tacit import data
from tacit.data import _kinds
from tacit.errors import ArgumentError, DataError


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("TACIT_CACHE", str(folder))
    return folder


def rows_of(source):
    return source.dataset["x"][:].numpy()


def fits_together(source):
    """Every item has its name, hash and labels; every picture is one."""
    n = len(source)
    assert len(source.uris) == len(source.hashes) == n
    assert all(len(values) == n for values in source.labels.values())
    if source.thumbnails is not None:
        assert source.thumbnails[0][:4] in (b"\x89PNG", b"\xff\xd8\xff\xe0")
    json.dumps(source.description)
    assert source.describe()[0].startswith("Found ")
    return True


# Texts ----------------------------------------------------------------------------------------------------------------


def test_files_of_text_and_what_is_odd_among_them(tmp_path):
    good = {
        "a.txt": b"The sun rises in the east.",
        "b.md": "Körbchen für Äpfel".encode("utf-8-sig"),
        "c.txt": "wide letters".encode("utf-16"),
        "d.html": b"<html><style>p {}</style><script>let x = '<p>'</script><p>Tom &amp; Jerry</p><p>run</p></html>",
        "e.txt": b"one\0two",
    }
    bad = {
        "f.txt": b"",
        "g.txt": b" \n\t \n",
        "h.txt": "Müller".encode("latin-1"),
        "i.txt": "wide letters, unmarked".encode("utf-16-le"),
        "j.txt": b"\x89PNG\r\n\x1a\n" + bytes(range(128, 256)),
        "k.pdf": b"%PDF-1.4",
        "l.png": b"no text at all",
    }
    for name, content in {**good, **bad}.items():
        (tmp_path / name).write_bytes(content)
    source = data.open(tmp_path)
    assert source.modality == "text"
    assert source.uris == ["a.txt", "b.md", "c.txt", "d.html"]
    assert source.texts == ["The sun rises in the east.", "Körbchen für Äpfel", "wide letters", "Tom & Jerry run"]
    reasons = dict(source.skipped)
    assert set(reasons) == {*bad, "e.txt"}
    assert reasons["e.txt"] == "not a text: it holds zero bytes"
    assert reasons["f.txt"].startswith("empty")
    assert reasons["g.txt"] == "empty text"
    assert reasons["h.txt"] == "wrong encoding: not UTF-8 from byte 1 on"
    assert reasons["i.txt"].startswith(("not a text", "wrong encoding"))
    assert reasons["j.txt"].startswith("wrong encoding")
    assert reasons["k.pdf"] == "not a text by its name: .pdf"
    assert any("byte-order mark" in remark for remark in source.remarks)
    assert fits_together(source)
    with pytest.raises(DataError, match=r"e\.txt in .*zero bytes"):
        data.open(tmp_path, on_error="raise")


def test_folders_of_texts_are_labels_and_line_up(tmp_path):
    for kind in ("sport", "science"):
        (tmp_path / kind).mkdir()
        for number in range(5):
            (tmp_path / kind / f"{number}.txt").write_text(f"{kind} number {number}")
    (tmp_path / "science" / "2.txt").write_bytes(b"\xff\xff\xff\xff")
    source = data.open(tmp_path)
    assert source.labels == {"folder": [text.split()[0] for text in source.texts]}
    assert len(source) == 9
    assert fits_together(source)


def test_a_line_of_ten_megabytes_is_cut_and_the_lines_after_it_are_read(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("first line\r\n\n" + "word " * 2_000_000 + "\nlast\x0bline\u2028still")
    source = data.open(path)
    assert source.uris == ["lines.txt:1", "lines.txt:3", "lines.txt:4"]
    assert [len(text) for text in source.texts] == [10, 1_000_000, 15]
    assert source.texts[2] == "last\x0bline\u2028still"
    assert source.skipped == []  # an empty line parts others
    assert any("the first 1,000,000 characters" in remark for remark in source.remarks)


def test_a_file_of_lines_that_is_no_text_is_one_line_of_error(tmp_path):
    for content, why in ((b"caf\xe9\n", "wrong encoding"), (b"", "empty"), (b"\n\n", "no text")):
        (tmp_path / "t.txt").write_bytes(content)
        with pytest.raises(DataError, match=why):
            data.open(tmp_path / "t.txt")


def test_a_table_of_texts_with_titles_labels_and_equal_texts(tmp_path):
    texts = ["He won.", "They lost the match.", None, "  ", "He won.", "x" * 200_000 + " end"]
    titles = ["Final.", None, "No body", "Blank", "Other", "Long"]
    labels = [1, 0, 1, 1, 0, 0]
    pq.write_table(pa.table({"title": titles, "text": texts, "label": labels}), tmp_path / "t.parquet")
    source = data.open(tmp_path / "t.parquet")
    assert source.texts[:3] == ["Final. He won.", "They lost the match.", "Blank."]
    assert source.texts[3] == "Other. He won."
    assert source.uris == [f"t.parquet#{row}" for row in (0, 1, 3, 4, 5)]
    assert source.labels == {"label": ["1", "0", "1", "0", "0"]}
    assert source.skipped == [("t.parquet#2", "not a text: missing")]

    lines = ["text,label", '"Good, really.",yes', '"Good, really.",no', f'"{"long " * 50_000}",yes', ",no"]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    source = data.open(tmp_path / "t.csv")
    assert source.texts[:2] == ["Good, really."] * 2  # as it stands, its full stop too
    assert source.labels == {"label": ["yes", "no", "yes"]}
    assert len(set(source.uris)) == 3
    assert fits_together(source)


SAID = ["good, and cheap", "broken", "late again, sadly", "fine; almost"]


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_a_table_of_texts_is_parted_by_what_its_first_line_has_most_of(tmp_path, mark):
    rows = [f'"{text} said number {n} of them"{mark}{"ab"[n % 2]}' for n, text in enumerate(SAID)]
    (tmp_path / "t.csv").write_text("\n".join([f"text {mark}label", *rows]), encoding="utf-8-sig")
    source = data.open(tmp_path / "t.csv")
    assert source.texts == [f"{text} said number {n} of them" for n, text in enumerate(SAID)]
    assert source.labels == {"label": ["a", "b", "a", "b"]}


def test_commas_in_the_only_column_are_the_texts(tmp_path):
    (tmp_path / "t.csv").write_text("review\n" + "\n".join(f"{text} said number {n}" for n, text in enumerate(SAID)))
    source = data.open(tmp_path / "t.csv")
    assert source.texts == [f"{text} said number {n}" for n, text in enumerate(SAID)]


def test_a_line_of_too_many_fields_is_listed_and_no_text_is_cut(tmp_path):
    (tmp_path / "t.csv").write_text("text,label\na text of words,x\na text, cut,y\none more text,y,\nand no label\n")
    source = data.open(tmp_path / "t.csv")
    assert source.texts == ["a text of words", "one more text", "and no label"]
    assert source.labels == {"label": ["x", "y", None]}
    assert source.skipped == [("t.csv, line 3", "3 fields in place of 2")]
    with pytest.raises(DataError, match="line 3"):
        data.open(tmp_path / "t.csv", on_error="raise")


@pytest.mark.parametrize(
    ("encoding", "said"), [("latin-1", "line 3: not UTF-8 .byte 0xe9.; save"), ("utf-16", "UTF-16")]
)
@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_a_table_of_texts_in_another_encoding_is_told_what_to_do(tmp_path, name, encoding, said):
    rows = ["text,label", "a text of words,x", "un café au lait,y"]
    if name == "t.jsonl":
        rows = [json.dumps({"text": row}, ensure_ascii=False) for row in rows]
    (tmp_path / name).write_bytes("\n".join(rows).encode(encoding))
    with pytest.raises(DataError, match=said):
        data.open(tmp_path / name)


def test_a_bad_line_of_jsonl_is_listed_and_labels_are_looked_for_in_all_rows(tmp_path):
    rows = [json.dumps({"text": f"a text of some words {n}"} | ({"label": "x"} if n > 70 else {})) for n in range(90)]
    rows[10:10] = ['{"text": "cut of', "[1]"]
    (tmp_path / "t.jsonl").write_text("\n".join(rows))
    source = data.open(tmp_path / "t.jsonl")
    assert len(source) == 90
    assert source.labels == {"label": [None] * 71 + ["x"] * 19}
    reasons = dict(source.skipped)
    assert reasons == {
        "t.jsonl, line 11": "no JSON: Invalid control character at, character 17",
        "t.jsonl, line 12": "no object",
    }
    with pytest.raises(DataError, match="line 11"):
        data.open(tmp_path / "t.jsonl", on_error="raise")


def test_a_zip_of_texts_and_a_list_of_texts(tmp_path):
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as packed:
        for number in range(3):
            packed.writestr(f"{number}.txt", f"text number {number}")
        packed.writestr("3.txt", "")
    zipped = data.open(tmp_path / "t.zip")
    assert zipped.skipped == [("3.txt", "empty: zero bytes")]
    listed = data.open(["text number 0", "text number 1", "text number 2"])
    assert listed.texts == zipped.texts == list(data.open(np.array(listed.texts)).texts)
    assert listed.hashes == zipped.hashes
    assert data.open(["text number 0", "", None, "y"], modality="text").skipped == [
        ("1", "empty text"),
        ("2", "not a text: missing"),
    ]
    assert data.open(["one " * 300, "a\0b", "c"]).texts[1] == "ab"


def test_paths_that_are_not_there_are_no_texts():
    with pytest.raises(DataError, match=r"lost\.png"):
        data.open(["/nowhere/lost.png", "/nowhere/too.png"])


def test_the_fingerprint_of_texts_follows_content_and_order():
    prints = {data.open(texts).dataset.fingerprint for texts in (["a b", "c d"], ["c d", "a b"], ["a b", "c e"])}
    assert len(prints) == 3
    assert data.open(["a b", "c d"]).dataset.fingerprint == data.open([" a b", "c d\n"]).dataset.fingerprint


# Sounds ---------------------------------------------------------------------------------------------------------------


def tone(pitch, seconds, rate):
    return np.int16(12_000 * np.sin(2 * np.pi * pitch * np.arange(round(seconds * rate)) / rate))


def write_wav(path, samples, rate):
    """samples: int16 (n,) or (n, channels)"""
    path.parent.mkdir(exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())


@pytest.fixture
def sounds(tmp_path):
    folder = tmp_path / "sounds"
    write_wav(folder / "a.wav", tone(440, 0.5, 8000), 8000)
    write_wav(folder / "b.wav", np.stack([tone(300, 0.4, 8000)] * 2, axis=1), 8000)
    write_wav(folder / "c.wav", tone(500, 0.5, 44_100), 44_100)
    write_wav(folder / "d.wav", tone(200, 0.25, 11_025), 11_025)
    write_wav(folder / "e.wav", np.zeros(0, np.int16), 8000)
    write_wav(folder / "f.wav", np.zeros(800, np.int16), 8000)
    write_wav(folder / "g.wav", tone(440, 0.5, 8000), 8000)
    (folder / "g.wav").write_bytes((folder / "g.wav").read_bytes()[:3000])
    (folder / "h.wav").write_bytes(b"")
    (folder / "i.wav").write_text("not a sound")
    (folder / "j.txt").write_text("about these sounds")
    return folder


def test_sounds_of_any_rate_and_width_and_what_is_odd_among_them(sounds):
    source = data.open(sounds)
    assert source.modality == "audio"
    assert source.uris == ["a.wav", "b.wav", "c.wav", "d.wav"]
    x = rows_of(source)
    assert x.dtype == np.int16
    assert x.shape == (4, 4000)
    np.testing.assert_array_equal(x[0], tone(440, 0.5, 8000))  # at the stored rate bit for bit
    np.testing.assert_array_equal(x[1, :3200], tone(300, 0.4, 8000))
    assert not x[1, 3200:].any()
    for row, pitch, seconds in ((2, 500, 0.5), (3, 200, 0.25)):
        heard = np.abs(np.fft.rfft(x[row, : round(seconds * 8000)].astype(float)))
        assert heard.argmax() / seconds == pytest.approx(pitch, abs=1 / seconds)
    reasons = dict(source.skipped)
    assert set(reasons) == {f"{name}.wav" for name in "efghi"} | {"j.txt"}
    assert [reasons[f"{name}.wav"].partition(":")[0] for name in "efghi"] == [
        *("empty", "silent", "truncated", "empty", "not audio")
    ]
    assert source.shape == {"sample_rate": 8000, "seconds": 0.5}
    assert "averaged" in " ".join(source.remarks)
    assert fits_together(source)


def test_sounds_are_decoded_once(sounds, monkeypatch):
    first = data.open(sounds)

    def never(*arguments, **words):
        raise AssertionError("decoded again")

    monkeypatch.setattr(_kinds, "decode", never)
    again = data.open(sounds)
    np.testing.assert_array_equal(rows_of(again), rows_of(first))
    assert again.skipped == first.skipped
    assert again.dataset.fingerprint == first.dataset.fingerprint
    write_wav(sounds / "a.wav", tone(441, 0.5, 8000), 8000)
    with pytest.raises(AssertionError, match="decoded again"):
        data.open(sounds)


def test_sounds_are_not_held_in_memory(tmp_path):
    n, held = 180, []

    def tell(stage, done, total):
        if (stage, done) == ("decoding", n):
            arrays = tracemalloc.DomainFilter(inclusive=True, domain=np.lib.tracemalloc_domain)
            found = tracemalloc.take_snapshot().filter_traces([arrays])
            held.append(sum(trace.size for trace in found.traces))

    for number in range(n):
        write_wav(tmp_path / "sounds" / f"{number:03}.wav", tone(100 + number, 1 + number / n, 8000), 8000)
    tracemalloc.start()
    try:
        source = data.open(tmp_path / "sounds", num_workers=1, progress=tell)
    finally:
        tracemalloc.stop()
    assert held[0] < 64 * 32_000  # of 180 sounds a few that were taken ahead
    x = rows_of(source)
    for number, row in enumerate(x):
        wave = tone(100 + number, 1 + number / n, 8000)[: x.shape[1]]
        np.testing.assert_array_equal(row[: len(wave)], wave)
        assert not row[len(wave) :].any()
    assert sorted(file.name for file in source.cached.iterdir()) == ["sounds.json", "x.npy"]


def test_long_sounds_are_cut_and_others_are_kept_like_them(tmp_path):
    write_wav(tmp_path / "long" / "1.wav", tone(100, 10.5, 8000), 8000)
    write_wav(tmp_path / "long" / "2.wav", tone(100, 9.0, 8000), 8000)
    source = data.open(tmp_path / "long")
    assert rows_of(source).shape == (2, 80_000)
    assert "Cut to 10 s: 1 sounds." in source.remarks
    assert not any("longer than" in remark for remark in source.remarks)
    write_wav(tmp_path / "short" / "1.wav", tone(100, 1.0, 16_000), 16_000)
    like = {"sample_rate": 16_000, "seconds": 0.5}
    np.testing.assert_array_equal(
        rows_of(data.open(tmp_path / "short", like=like)), tone(100, 1.0, 16_000)[None, :8000]
    )


def test_a_table_of_paths_to_sounds(sounds):
    rows = ["file,label", "c.wav,high", "a.wav,low", "lost.wav,low", "a.wav,again"]
    (sounds / "index.csv").write_text("\n".join(rows))
    source = data.open(sounds / "index.csv")
    assert source.modality == "audio"
    assert source.uris == ["c.wav", "a.wav", "a.wav"]
    assert source.labels == {"label": ["high", "low", "again"]}
    assert source.skipped == [("lost.wav", "cannot be read: No such file or directory")]
    np.testing.assert_array_equal(rows_of(source)[1], tone(440, 0.5, 8000))


def test_a_parquet_of_sounds_as_hugging_face_writes_it(sounds):
    stored = [{"bytes": (sounds / f"{name}.wav").read_bytes(), "path": None} for name in "abe"]
    pq.write_table(pa.table({"audio": stored, "label": [3, 4, 5]}), sounds / "train.parquet")
    source = data.open(sounds / "train.parquet")
    assert source.modality == "audio"
    assert source.labels == {"label": ["3", "4"]}
    assert source.skipped == [("train.parquet#2", "empty: no samples")]
    np.testing.assert_array_equal(rows_of(source)[0], tone(440, 0.5, 8000))


def test_a_zip_of_sounds_is_the_folder_of_them(sounds, tmp_path):
    with zipfile.ZipFile(tmp_path / "sounds.zip", "w") as packed:
        for path in sounds.iterdir():
            packed.write(path, path.name)
    zipped, folder = data.open(tmp_path / "sounds.zip"), data.open(sounds)
    assert zipped.dataset.fingerprint == folder.dataset.fingerprint
    assert sorted(zipped.skipped) == sorted(folder.skipped)


# Series ---------------------------------------------------------------------------------------------------------------


def test_series_of_unequal_length_with_gaps(tmp_path):
    walks = [np.arange(6.0), np.array([1.0, np.nan, np.inf, 4.0]), np.full(3, np.nan), np.zeros((2, 4)), np.zeros(0)]
    source = data.open(walks)
    assert source.modality == "series"
    nan = np.nan
    np.testing.assert_array_equal(rows_of(source)[:, 0], [[0, 1, 2, 3, 4, 5], [1, nan, nan, 4, nan, nan]])
    assert source.uris == ["0", "1"]
    assert {uri for uri, _ in source.skipped} == {"2", "3", "4"}
    assert source.description["length"] == 6
    assert fits_together(source)


def test_a_long_table_of_series_with_labels(tmp_path):
    (tmp_path / "s.csv").write_text("id,time,value,label\nb,2,5,x\nb,1,4,x\na,1,1,y\na,2,,y\na,3,3,y\nc,1,,z\n")
    source = data.open(tmp_path / "s.csv")
    assert source.modality == "series"
    found = dict(zip(source.uris, rows_of(source)[:, 0], strict=True))
    np.testing.assert_array_equal(found["b"][:2], [4, 5])
    np.testing.assert_array_equal(found["a"], [1, np.nan, 3])
    assert dict(zip(source.uris, source.labels["label"], strict=True)) == {"a": "y", "b": "x"}
    assert [uri for uri, _ in source.skipped] == ["c"]
    assert fits_together(source)


def test_a_folder_of_tables_is_a_folder_of_series_when_asked(tmp_path):
    chance = np.random.default_rng(0)
    for number in range(3):
        rows = "\n".join(f"{a:.2f},{b:.2f}" for a, b in chance.normal(size=(5 + number, 2)))
        (tmp_path / f"{number}.csv").write_text("east,north\n" + rows)
    source = data.open(tmp_path, modality="series")
    assert rows_of(source).shape == (3, 2, 7)
    assert source.uris[0].startswith("0")
    with pytest.raises(DataError, match="modality='series'"):
        data.open(tmp_path)


def test_labels_of_files_of_series_are_no_variables(tmp_path):
    for number in range(10):
        rows = "\n".join(f"{step},{step * number},{number % 2},{step % 3}" for step in range(9))
        (tmp_path / f"{number}.csv").write_text("t,v,label,class\n" + rows)
    write = {"format": 1, "made": {}}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(write))
    (tmp_path / "run" / "skipped.csv").write_text("v,reason\n1,2\n")
    source = data.open(tmp_path, modality="series", on_error="raise")
    assert source.shape["variables"] == ["v"]
    assert source.labels == {"label": ["0", "1"] * 5}
    assert source.skipped == [("run", "a run of tacit")]
    assert "Left out: class (a label by its name, and changes within a series)." in source.remarks
    assert data.open(tmp_path, modality="series", labels="none").labels == {}
    with pytest.raises(ArgumentError, match="did you mean 'label'"):
        data.open(tmp_path, modality="series", labels="labell")


def test_what_forecasters_measure_is_a_variable_and_a_label_of_steps_is_none(tmp_path):
    rows = "\n".join(f"{id},{ds},{ds * id},{ds % 2},{ds % 3}.5" for id in (1, 2) for ds in range(5))
    (tmp_path / "s.csv").write_text("unique_id,ds,y,label,warm\n" + rows)
    source = data.open(tmp_path / "s.csv", modality="series")
    assert source.shape["variables"] == ["y", "warm"]
    assert "Left out: label (a label by its name, and changes within a series)." in source.remarks


# Tables ---------------------------------------------------------------------------------------------------------------


def test_a_table_with_missing_values_mixed_types_and_dates(tmp_path):
    lines = ["age,sex,joined,code,note,label", "39,f,2021-03-04,7,,yes", "?,m,2021-03-05,x,,no", ",,,,,yes"]
    lines += [f"{20 + n},{'fm'[n % 2]},2021-04-{n + 10},{n},,{'yes' if n % 3 else 'no'}" for n in range(10)]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    source = data.open(tmp_path / "t.csv")
    assert source.modality == "table"
    assert len(source) == 12
    x = rows_of(source)
    assert np.isnan(x[1, 0])
    assert source.labels == {"label": ["yes", "no"] + ["yes" if n % 3 else "no" for n in range(10)]}
    assert source.skipped == [("t.csv#2", "every value missing")]
    assert source.description["categories"][1] == 2
    assert source.captions[0].startswith("age 39, sex f")
    assert fits_together(source)
    assert "label" not in source.shape["schema"]["features"]
    assert data.open(tmp_path / "t.csv", labels="sex").labels["sex"][:2] == ["f", "m"]
    with pytest.raises(ArgumentError, match="did you mean 'label'"):
        data.open(tmp_path / "t.csv", labels="labell")


@pytest.mark.parametrize("labels", ["auto", "none", "folder", "kind", "target"])
def test_nothing_is_learned_from_a_column_that_is_a_label(tmp_path, labels):
    chance = np.random.default_rng(0)
    rows = [f"{a:.3f};{b:.3f};{n % 2};{n % 3};{'xyz'[n % 3]}" for n, (a, b) in enumerate(chance.normal(size=(30, 2)))]
    (tmp_path / "t.csv").write_text("\n".join(["a;b;target;Label;kind", *rows]))
    source = data.open(tmp_path / "t.csv", labels=labels)
    kept = {"auto": ["Label", "target"], "kind": ["kind"], "target": ["target"]}.get(labels, [])
    assert source.shape["schema"]["features"] == ["a", "b"] + ["kind"] * (labels != "kind")
    assert list(source.labels) == kept
    lost = [name for name in ("Label", "target") if name not in kept]
    said = [line for line in source.remarks if line.startswith("Left out: ")]
    listed = "; ".join(f"{name} (a label by its name)" for name in lost)
    assert said == [f"Left out: {listed}; rename what is none."] * bool(lost)


def test_an_encoder_that_once_learned_from_a_label_still_reads_its_rows(tmp_path):
    (tmp_path / "t.csv").write_text("a,label\n" + "\n".join(f"{n * n % 7},{n % 2}" for n in range(12)))
    schema = {"features": ["a", "label"], "categories": {"a": [], "label": []}, "dates": []}
    assert rows_of(data.open(tmp_path / "t.csv", like={"schema": schema})).shape == (12, 2)


def test_other_rows_are_read_by_the_columns_and_categories_learned_from(tmp_path):
    (tmp_path / "a.csv").write_text("size,colour\n1,red\n2,green\n3,blue\n4,red\n")
    (tmp_path / "b.csv").write_text("extra,colour,size\nx,red,5\ny,pink,6\n")
    first = data.open(tmp_path / "a.csv")
    other = rows_of(data.open(tmp_path / "b.csv", like=first.description))
    np.testing.assert_array_equal(other, [[5, rows_of(first)[0, 1]], [6, np.nan]])


def test_two_columns_of_one_name_are_refused(tmp_path):
    (tmp_path / "t.csv").write_text("size,size\n1,2\n3,4\n")
    with pytest.raises(DataError, match="size"):
        data.open(tmp_path / "t.csv")


def test_a_data_frame_is_the_table_that_it_holds(tmp_path):
    columns = {"age": [39.0, None, 50.5], "sex": ["f", "m", "f"], "label": [0, 1, 1]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    held, stored = data.open(pa.table(columns)), data.open(tmp_path / "t.parquet")
    assert held.modality == "table"
    assert held.dataset.fingerprint == stored.dataset.fingerprint
    assert held.labels == stored.labels == {"label": ["0", "1", "1"]}


def test_the_fingerprint_of_rows_follows_their_values(tmp_path):
    prints = set()
    for value in (1.5, 2.5):
        prints.add(data.open(pa.table({"a": [value, 3.0], "b": [1.0, 2.5]})).dataset.fingerprint)
    assert len(prints) == 2


# Graphs ---------------------------------------------------------------------------------------------------------------


def test_a_graph_with_isolated_nodes_self_loops_and_repeated_edges(tmp_path):
    (tmp_path / "edges.csv").write_text("source,target\n1,2\n2,1\n1,2\n2,2\n2,3\n4,4\nx\n")
    source = data.open(tmp_path / "edges.csv")
    assert source.modality == "graph"
    assert source.uris == ["1", "2", "3", "4"] or set(source.uris) >= {"1", "2", "3"}
    x, size = rows_of(source), source.description["size"]
    degrees = {uri: int(row[0, :size].sum()) - 1 for uri, row in zip(source.uris, x, strict=True)}
    assert (degrees["1"], degrees["2"], degrees["3"]) == (1, 2, 1)
    assert degrees.get("4", 0) == 0
    said = " ".join(source.remarks)
    assert "self-loops" in said
    assert "duplicate" in said
    assert any("no edge" in reason for _, reason in source.skipped)
    assert len(set(source.hashes)) == len(source)  # nodes 1 and 3 see the same, and are two
    assert fits_together(source)


def test_nodes_beside_the_edges_bring_features_and_labels(tmp_path):
    (tmp_path / "friends.csv").write_text("source,target\nann,bob\nbob,cy\n")
    (tmp_path / "friends_nodes.csv").write_text("id,age,label\nann,30,x\nbob,40,y\ncy,50,x\ndan,60,y\n")
    source = data.open(tmp_path / "friends.csv")
    labels = dict(zip(source.uris, source.labels["label"], strict=True))
    assert labels == {"ann": "x", "bob": "y", "cy": "x", "dan": "y"}
    assert source.description["in_features"] == 1
    assert data.open(tmp_path / "friends.csv", labels="none").labels == {}
    with pytest.raises(ArgumentError, match="labels='age'"):
        data.open(tmp_path / "friends.csv", labels="age")


def test_series_and_graphs_with_semicolons(tmp_path):
    (tmp_path / "s.csv").write_text("id;time;value\n1;0;2,5\n1;1;3,5\n2;0;4,5\n")
    series = data.open(tmp_path / "s.csv")
    assert series.modality == "series"
    np.testing.assert_array_equal(rows_of(series)[:, 0], [[2.5, 3.5], [4.5, np.nan]])
    (tmp_path / "g.csv").write_text("source;target\nann;bob\nbob;cy\n")
    (tmp_path / "g_nodes.csv").write_text("id;label;age\nann;x;30\nbob;y;40\ncy;x;50\n")
    graph = data.open(tmp_path / "g.csv")
    assert (graph.modality, graph.uris) == ("graph", ["ann", "bob", "cy"])
    assert graph.labels == {"label": ["x", "y", "x"]}


def test_objects_of_networkx_are_nodes_or_graphs():
    networkx = pytest.importorskip("networkx")
    one = networkx.path_graph(5)
    assert len(data.open(one)) == 5
    many = data.open([one, networkx.star_graph(3), networkx.Graph()])
    assert (len(many), len(many.skipped)) == (2, 1)
    assert fits_together(many)


def test_the_fingerprint_of_a_graph_follows_its_edges(tmp_path):
    prints = set()
    for last in ("c,d", "b,d"):
        (tmp_path / "e.csv").write_text(f"source,target\na,b\nb,c\n{last}\n")
        prints.add(data.open(tmp_path / "e.csv").dataset.fingerprint)
    assert len(prints) == 2
