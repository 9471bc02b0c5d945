import io
import json

import numpy as np
import pyarrow
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from tacit.data import read_series, sparkline_png
from tacit.errors import ArgumentError, DataError

NAN = float("nan")


def same(found, expected):
    np.testing.assert_array_equal(found.x, np.array(expected, np.float32))


def test_arrays_tensors_lists(tmp_path):
    x = np.arange(24.0).reshape(4, 2, 3)
    for source in (x, torch.tensor(x), list(x), x.astype(int)):
        same(read_series(source), x)
    same(read_series(x[:, 0]), x[:, :1])
    np.save(tmp_path / "x.npy", x)
    same(read_series(tmp_path / "x.npy"), x)
    found = read_series([np.arange(2), np.array([1.0, NAN, 3.0, NAN]), np.arange(3).tolist()])
    same(found, [[[0, 1, NAN]], [[1, NAN, 3]], [[0, 1, 2]]])
    assert found.lengths.tolist() == [2, 3, 3]
    assert found.uris == ["0", "1", "2"]


def test_npz_with_lengths_and_labels(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(
        path,
        y=np.array(["b", "a", "b"]),
        x=np.arange(9.0).reshape(3, 3),
        lengths=np.array([3, 2, 1]),
        other=np.arange(3),
    )
    found = read_series(path)
    same(found, [[[0, 1, 2]], [[3, 4, NAN]], [[6, NAN, NAN]]])
    assert found.labels == {"y": ["b", "a", "b"]}
    assert read_series(path, labels="other").labels == {"other": ["0", "1", "2"]}
    assert read_series(path, labels="none").labels == {}
    with pytest.raises(ArgumentError, match="labels='z'"):
        read_series(path, labels="z")


TS = """# made for a test
@problemName Made
@timestamps false
@missing true
@univariate {one}
@equallength false
@classLabel true up down
@data
"""


def test_ts_of_one_variable(tmp_path):
    path = tmp_path / "a.ts"
    path.write_text(TS.format(one="true") + "1.0,2.0,3.0:up\n4,?,6e1,7:down\n\n?,?:up\n5:?\n1,x:up\n")
    found = read_series(path)
    same(found, [[[1, 2, 3, NAN]], [[4, NAN, 60, 7]], [[5, NAN, NAN, NAN]]])
    assert found.labels == {"class": ["up", "down", None]}
    assert [item.reason.partition(":")[0] for item in found.skipped] == ["not a series", "every value missing"]
    assert found.uris[0] == "a.ts, line 9"


def test_ts_of_several_variables_and_without_labels(tmp_path):
    path = tmp_path / "a.ts"
    path.write_text(TS.format(one="false") + "1,2:3,4,5:up\n6:7:8:down\n9,9:8,8:down\n")
    found = read_series(path)
    same(found, [[[1, 2, NAN], [3, 4, 5]], [[9, 9, NAN], [8, 8, NAN]]])
    assert found.skipped[0].reason == "3 variables in place of 2"
    path.write_text("@classLabel false\n@data\n1,2:3,4\n")
    found = read_series(path)
    same(found, [[[1, 2], [3, 4]]])
    assert found.labels == {}
    path.write_text(
        "@targetlabel true\n@timestamps true\n@data\n(2020-01-01 00:00:00,1),(2020-01-01 01:00:00,2):(0,5),(1,6):0.5\n"
    )
    found = read_series(path)
    same(found, [[[1, 2], [5, 6]]])
    assert found.labels == {"target": ["0.5"]}


LONG = {
    "series_id": ["b", "a", "b", "a", "b"],
    "time": [2, 1, 0, 0, 1],
    "u": [1.0, 2.0, 3.0, 4.0, None],
    "v": [10, 20, 30, 40, 50],
    "label": ["x", "y", "x", "y", "x"],
    "note": ["p", "q", "r", "s", "t"],
}


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_long_form(tmp_path, kind):
    path, table = tmp_path / f"a.{kind}", pyarrow.table(LONG)
    if kind == "parquet":
        parquet.write_table(table, path)
    elif kind == "csv":
        rows = [",".join("" if value is None else str(value) for value in row.values()) for row in table.to_pylist()]
        path.write_text("\n".join([",".join(LONG), *rows]))
    else:
        path.write_text("\n".join(json.dumps(row) for row in table.to_pylist()))
    found = read_series(path)
    same(found, [[[3, NAN, 1], [30, 50, 10]], [[4, 2, NAN], [40, 20, NAN]]])
    assert (found.uris, found.channels, found.labels) == (["b", "a"], ("u", "v"), {"label": ["x", "y"]})
    assert found.remarks[0] == "A series for each value of series_id, in the order of time; variables: u, v."
    assert read_series(path, labels="none").labels == {}


def test_long_form_of_dates_and_of_a_variable_called_y(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("unique_id,ds,y\n7,2024-01-02,1.5\n7,2024-01-01,2.5\n8,2024-01-01,3.5\n")
    found = read_series(path)
    same(found, [[[2.5, 1.5]], [[3.5, NAN]]])
    assert found.labels == {}
    assert found.channels == ("y",)


def test_wide_form(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id,t0,t1,t2,class\ns1,1,2,3,up\ns2,4,,6,down\n")
    found = read_series(path)
    same(found, [[[1, 2, 3]], [[4, NAN, 6]]])
    assert (found.uris, found.labels) == (["s1", "s2"], {"class": ["up", "down"]})


def test_the_archives_tsv(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("1\t0.5\t1.5\n2\t2.5\tNaN\n")
    found = read_series(path)
    same(found, [[[0.5, 1.5]], [[2.5, NAN]]])
    assert found.labels == {"label": ["1", "2"]}


def test_a_folder_of_files(tmp_path):
    for number in range(10):
        folder = tmp_path / ("cat" if number % 2 else "dog")
        folder.mkdir(exist_ok=True)
        (folder / f"{number}.csv").write_text(f"time,u,v,word\n1,{number},2,x\n0,5,6,y\n" + "2,7,8,z\n" * (number % 3))
    (tmp_path / "cat" / "9.csv").write_text("v,u\n1,2\n")
    (tmp_path / "dog" / "bad.csv").write_text("u\n1\n")
    (tmp_path / "dog" / "empty.csv").write_text("")
    found = read_series(tmp_path)
    assert len(found) == 10
    assert found.channels == ("u", "v")
    assert found.labels["folder"] == ["cat"] * 5 + ["dog"] * 5
    same(type(found)(found.x[:1, :, :2], *[None] * 3), [[[5, 1], [6, 2]]])
    assert found.x[4, :, 0].tolist() == [2, 1]  # columns in the order of the first file
    assert {item.uri: item.reason for item in found.skipped} == {
        "dog/bad.csv": "without the columns v of the first file",
        "dog/empty.csv": "is empty: expected rows and columns",
    }


def test_long_series_are_averaged():
    x = np.random.default_rng(0).normal(size=(2, 3, 10))
    x[0, 0, 1] = NAN
    found = read_series(list(x), max_steps=4)
    assert found.x.shape == (2, 3, 4)
    np.testing.assert_allclose(found.x[1, :, :3], x[1, :, :9].reshape(3, 3, 3).mean(2), atol=1e-6)
    np.testing.assert_allclose(found.x[1, :, 3], x[1, :, 9], atol=1e-6)
    assert found.x[0, 0, 0] == pytest.approx((x[0, 0, 0] + x[0, 0, 2]) / 2)
    assert "means over 3 steps" in found.remarks[0]


def test_odd_series():
    found = read_series([[1, np.inf, 3], [NAN, NAN], [], [2, 2, 2]])
    same(found, [[[1, NAN, 3]], [[2, 2, 2]]])
    assert [(item.uri, item.reason) for item in found.skipped] == [("1", "every value missing"), ("2", "no step")]
    assert found.remarks == ["1 infinite values count as missing.", "1 series never change."]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.ts", b"1,2,3\n", "no line @data"),
        ("a.ts", b"@data\n", "nothing there"),
        ("a.ts", b"\xff\xfe@data", "cannot be read as ts"),
        ("a.npy", b"no", "cannot be read"),
        ("a.npz", b"no", "cannot be read"),
        ("a.csv", b"id,time,word\n1,0,x\n1,1,y\n", "no column of numbers"),
        ("a.csv", b"name,v\nx,1\n", "expected a row a series"),
        ("a.mat", b"", "expected series in"),
    ],
)
def test_what_cannot_be_read(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said):
        read_series(tmp_path / name)


def test_other_things_are_refused(tmp_path):
    folder = tmp_path / "nothing"
    folder.mkdir()
    np.save(tmp_path / "a.npy", np.array([[1], [1, 2]], object), allow_pickle=True)
    with pytest.raises(DataError, match="never loaded"):
        read_series(tmp_path / "a.npy")
    with pytest.raises(DataError, match="cut one long series up"):
        read_series(np.zeros(100))
    with pytest.raises(DataError, match="series 1"):
        read_series([[1.0], ["a"]])
    with pytest.raises(DataError, match="one for each series"):
        read_series(folder)


def pixels(png):
    image = Image.open(io.BytesIO(png))
    return np.asarray(image.convert("L")), image


def test_pictures_show_the_series():
    grey, image = pixels(sparkline_png(np.arange(50.0)))
    assert image.format == "PNG"
    assert image.size == (160, 48)
    rows = (255 - grey.astype(float)).T @ np.arange(48) / np.maximum((255 - grey.astype(float)).sum(0), 1)
    drawn = rows[5:-5]
    assert (np.diff(drawn) <= 0.5).all()  # it rises
    assert drawn[0] > 40 > 8 > drawn[-1]


def test_pictures_of_odd_series():
    gap = np.arange(30.0)
    gap[10:20] = NAN
    grey, _ = pixels(sparkline_png(gap))
    assert (grey[:, 65:95] == 255).all()
    assert (grey[:, 10:40] < 200).any()
    blank, _ = pixels(sparkline_png(np.full((2, 5), NAN)))
    assert (blank == 255).all()
    flat, _ = pixels(sparkline_png(torch.ones(3, 20)))
    assert set(np.flatnonzero((flat < 255).any(axis=1))) <= {22, 23, 24, 25, 26}
    one, image = pixels(sparkline_png([5.0], height=500))
    assert image.size[1] == 64
    assert (one < 255).any()
    assert len(sparkline_png(np.random.default_rng(0).normal(size=(12, 4096)))) < 10_000
