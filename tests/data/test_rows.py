import datetime
import decimal
import json

import numpy as np
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from tacit.data import read_table
from tacit.errors import DataError

N = 60
RNG = np.random.default_rng(0)


def columns():
    """A column of each kind, and what is to become of it."""
    day = datetime.date(2024, 1, 1)
    return {
        "age": [float(i % 7) for i in range(N)],
        "count": [i * i % 11 for i in range(N)],
        "member": [i % 3 == 0 for i in range(N)],
        "city": [("Rome", "Oslo", "Bern")[i % 3] for i in range(N)],
        "joined": [day + datetime.timedelta(days=i % 9) for i in range(N)],
        "user_id": [1000 + 17 * i for i in range(N)],
        "row": list(range(1, N + 1)),
        "email": [f"p{i}@x.org" for i in range(N)],
        "remark": [f"this is what number {i // 2} of them all had to say about it" for i in range(N)],
        "same": ["yes"] * N,
        "zero": [0.0] * N,
        "gone": [None] * N,
    }


KEPT = ("age", "count", "member", "city", "joined")
WHY = {
    "user_id": "an identifier: distinct whole numbers",
    "row": "an identifier: whole numbers from 1 to 60, each once",
    "email": "an identifier: texts that all differ",
    "remark": "free text: 30 distinct texts, taken for categories up to 20",
    "same": "constant: yes everywhere",
    "zero": "constant: 0 everywhere",
    "gone": "nothing but missing values",
}


def write(path, kind):
    table = pyarrow.table(columns())
    if kind == "parquet":
        parquet.write_table(table, path)
    elif kind in ("csv", "tsv"):
        tab = "," if kind == "csv" else "\t"
        rows = [tab.join(table.column_names)]
        rows += [tab.join("" if value is None else str(value) for value in row.values()) for row in table.to_pylist()]
        path.write_text("\n".join(rows) + "\n")
    else:
        path.write_text("".join(json.dumps(row, default=str) + "\n" for row in table.to_pylist()))
    return path


@pytest.mark.parametrize("kind", ["parquet", "csv", "tsv", "jsonl", "ndjson"])
def test_every_kind_of_file_says_the_same(tmp_path, kind):
    table = read_table(write(tmp_path / f"t.{kind}", kind))
    assert table.features == KEPT
    assert table.left_out == WHY
    assert table.categories == (0, 0, 0, 3, 0)
    assert table.category_names[3] == ("Bern", "Oslo", "Rome")
    assert table.dates == {"joined"}
    expected = [[i % 7, i * i % 11, i % 3 == 0, (2, 1, 0)[i % 3], 19723 + i % 9] for i in range(N)]
    np.testing.assert_array_equal(table.x, np.array(expected, np.float32))
    assert table.row_text(3) == "age 3, count 9, member 1, city Rome, joined 2024-01-04"
    assert any("joined" in remark for remark in table.remarks)


def test_columns_that_are_not_to_be_read():
    table = read_table(pyarrow.table(columns()), without=("city", "age"))
    assert table.features == ("count", "member", "joined")
    assert "city" not in table.left_out


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["1", "2", "x", *"345678901234567890"], [1, 2, np.nan]),  # numbers in text, one that is none
        (["1,000", "2,500.5", "7", "?"], [1000, 2500.5, 7, np.nan]),
        (["5 %", "7%", "n/a"], [5, 7, np.nan]),
        ([1, "2", None, 2.5], [1, 2, np.nan, 2.5]),  # mixed types
        ([True, False, None], [1, 0, np.nan]),
        ([float("inf"), 1.0, 2.0, float("nan")], [np.nan, 1, 2, np.nan]),
        ([1e300, 1.0, 2.0], [np.nan, 1, 2]),
        ([decimal.Decimal("1.5"), decimal.Decimal("2.5"), None], [1.5, 2.5, np.nan]),
        ([datetime.time(12), datetime.time(18), None], [0.5, 0.75, np.nan]),
        ([datetime.timedelta(days=2), datetime.timedelta(hours=6)], [2, 0.25]),
        ([datetime.datetime(1970, 1, 2, 12), datetime.datetime(1969, 12, 31)], [1.5, -1]),
        (["2020-01-01", "", "2020-01-03"], [18262, np.nan, 18264]),
        ([b"a", b"b", b"a"], [0, 1, 0]),
        (["b", " a ", "b", None], [1, 0, 1, np.nan]),
    ],
)
def test_values(values, expected, tmp_path):
    path = tmp_path / "t.jsonl"
    filler = [1.5, 2.5] * len(values)
    if all(isinstance(value, str | int | float | None) for value in values):
        rows = [{"v": value, "w": other} for value, other in zip(values, filler, strict=False)]
        path.write_text("\n".join(json.dumps(row) for row in rows))
        table = read_table(path)
    else:
        table = read_table(pyarrow.table({"v": values, "w": filler[: len(values)]}))
    found = table.x[:, table.features.index("v")]
    np.testing.assert_array_equal(found[: len(expected)], np.array(expected, np.float32))


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (["one", "two", "three"], "identifier"),
        ([[1], [2], [3]], "nested values"),
        ([{"a": 1}, {"a": 2}, {"a": 3}], "nested values"),
        ([b"\xff\x00", b"\xfe", b"\xff"], "bytes"),
        ([f"t{i % 40}" for i in range(100)], "too many categories: 40 distinct texts, taken for categories up to 20"),
        ([float("nan")] * 3, "nothing but missing"),
        (["", "?", "NA"], "nothing but missing"),
        (["only", None, "only"], ""),
        (["2020-01-01"] * 3, "constant"),
        ([3, 1, 2], ""),  # too few to tell
        ([*range(20, 10, -1)], "each once"),
        ([f"{i}" for i in range(12)], "each once"),
    ],
)
def test_what_is_left_out(values, why):
    table = read_table(pyarrow.table({"v": values, "w": [1.5, 2.5, *([0.5] * (len(values) - 2))]}))
    assert ("v" in table.left_out) == bool(why)
    assert why in table.left_out.get("v", "")


def test_dictionaries_are_categories_even_of_numbers():
    codes = pyarrow.array([3, 5, 3, None]).dictionary_encode()
    words = pyarrow.array(["1", "2", "1", "1"]).dictionary_encode()
    table = read_table(pyarrow.table({"code": codes, "word": words}))
    assert table.categories == (2, 2)
    assert table.category_names == (("3", "5"), ("1", "2"))
    assert np.isnan(table.x[3, 0])


def test_more_rows_allow_more_categories():
    table = read_table(pyarrow.table({"v": [f"t{i % 40}" for i in range(1000)]}))
    assert table.categories == (40,)  # of 50


def test_rows_without_any_value_are_skipped(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b,name\n1.5,x,n1\n,,n2\n2.5,y,n3\n?,NA,n4\n")
    table = read_table(path, without=("name",))
    assert table.rows.tolist() == [0, 2]
    assert [item.uri for item in table.skipped] == ["t.csv#1", "t.csv#3"]
    assert {item.reason for item in table.skipped} == {"every value missing"}


def test_lines_that_are_no_rows_are_skipped(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1.5,2.5\n1,2,3\n3.5,4\n")
    table = read_table(path)
    assert table.x.tolist() == [[1.5, 2.5], [3.5, 4.0]]
    assert table.skipped[0].reason == "3 fields in place of 2"
    path = tmp_path / "t.jsonl"
    path.write_text('{"a": 1.5}\n\n{"a": \n[2]\n{"a": 2.5, "b": 1}\n')
    table = read_table(path)
    assert table.x[:, 0].tolist() == [1.5, 2.5]
    assert [item.uri for item in table.skipped] == ["t.jsonl, line 3", "t.jsonl, line 4"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiters_marks_and_quotes(tmp_path, delimiter):
    path = tmp_path / "t.csv"
    text = f'a{delimiter}"b, c"\n1.5{delimiter}"x\ny"\n2.5{delimiter}z\n3.5{delimiter}z\n'
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    table = read_table(path)
    if delimiter == ",":
        assert table.features == ("a", "b, c")
    assert table.x[:, 0].tolist() == [1.5, 2.5, 3.5]
    assert table.x[:, 1].tolist() == [0, 1, 1]


def test_decimal_commas(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a;b\n1,5;2\n-2,25;3\n")
    table = read_table(path)
    assert table.x.tolist() == [[1.5, 2], [-2.25, 3]]
    assert "decimal comma" in table.remarks[0]
    path.write_text("a;b\n1.5;2\n-2.25;3\n")
    assert read_table(path).x.tolist() == [[1.5, 2], [-2.25, 3]]


def test_files_without_header_and_unnamed_columns(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("1.5,2,0\n2.5,3,1\n")
    table = read_table(path)
    assert table.features == ("column 1", "column 2", "column 3")
    assert len(table) == 2
    path.write_text(",a\n0,1.5\n1,2.5\n2,2.5\n")  # as pandas writes its index
    assert read_table(path).features == ("column 1", "a")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.csv", b"", "is empty"),
        ("t.csv", b"a,b\n", "found 0 rows"),
        ("t.csv", b"a,a\n1,2\n", "several columns called a"),
        ("t.csv", b"a,b\n1,caf\xe9\n", "line 2: not UTF-8 .byte 0xe9.; save it as UTF-8"),
        ("t.csv", "a,b\n1,2\n".encode("utf-16"), "is UTF-16"),
        ("t.csv", b"name\nx\nx\n", "no column to learn from"),
        ("t.csv", b"a\n?\n\n", "no column to learn from"),
        ("t.jsonl", b"hello\n", "is empty"),
        ("t.parquet", b"PAR1 it is not", "cannot be read as parquet"),
        ("t.xlsx", b"", "expected a table, one of .parquet"),
    ],
)
def test_what_cannot_be_read(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said):
        read_table(tmp_path / name)
    with pytest.raises(DataError, match="cannot be read"):
        read_table(tmp_path / "missing.csv")
    with pytest.raises(DataError, match="list: expected a path"):
        read_table([1, 2])


def test_other_rows_by_the_schema(tmp_path):
    first = read_table(pyarrow.table(columns()))
    schema = json.loads(json.dumps(first.schema))
    path = tmp_path / "t.csv"
    path.write_text(
        "new,city,joined,age,count,member\nx,Oslo,2024-01-02,9,4,true\ny,Paris,?,,3,false\nz,Bern,1970-01-01,1,1,\n"
    )
    table = read_table(path, schema=schema)
    assert table.features == first.features
    assert table.category_names == first.category_names
    expected = [[9, 4, 1, 1, 19724], [np.nan, 3, 0, np.nan, np.nan], [1, 1, np.nan, 0, 0]]
    np.testing.assert_array_equal(table.x, np.array(expected, np.float32))
    assert "1 values of unknown categories" in " ".join(table.remarks)
    np.testing.assert_array_equal(read_table(pyarrow.table(columns()), schema=schema).x, first.x)
    path.write_text("city,age\nOslo,1\n")
    with pytest.raises(DataError, match="count, member, joined is not among them"):
        read_table(path, schema=schema)


def test_schema_of_numbers_that_became_categories():
    first = read_table(pyarrow.table({"v": pyarrow.array([3, 5, 3]).dictionary_encode()}))
    table = read_table(pyarrow.table({"v": [5, 3, 4]}), schema=first.schema)
    assert table.rows.tolist() == [0, 1]
    assert table.x[:, 0].tolist() == [1, 0]


def test_frames():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(columns())
    frame["mixed"] = [1, "2", *[3.5, float("nan")] * (N // 2 - 1)]
    frame["kind"] = pandas.Categorical(["u", "v"] * (N // 2))
    frame["when"] = pandas.Timestamp("2024-01-02")
    frame.loc[0, "when"] = pandas.NaT
    table = read_table(frame)
    assert table.features == (*KEPT, "mixed", "kind", "when")
    assert table.x[:3, 5].tolist() == [1, 2, 3.5]
    assert np.isnan(table.x[0, 7])
    with pytest.raises(DataError, match="several columns called age"):
        read_table(pandas.concat([frame, frame[["age"]]], axis=1))


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.one_of(st.none(), st.floats(width=32), st.integers(-9, 9), st.text(max_size=4), st.booleans()), min_size=2
    )
)
def test_whatever_a_column_holds(values):
    """It is left out with a reason, or becomes finite numbers and categories that there are."""
    from tacit.data._rows import _from_objects

    table = pyarrow.Table.from_arrays(
        [_from_objects(values), pyarrow.array([0.5, 1.5, *[1.0] * (len(values) - 2)])], ["v", "w"]
    )
    read = read_table(table)
    assert ("v" in read.left_out) != ("v" in read.features)
    assert not np.isinf(read.x).any()
    for column, count in enumerate(read.categories):
        there = read.x[:, column][~np.isnan(read.x[:, column])]
        assert not count or set(there) <= set(range(count))
    assert all(isinstance(read.row_text(row), str) for row in range(len(read)))
