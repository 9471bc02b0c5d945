"""Downloads: whole and checked, or not there; each packer against originals made by hand."""

import gzip
import hashlib
import http.server
import io
import json
import tarfile
import threading
import zipfile

import numpy as np
import pytest
from PIL import Image

from tacit.data import _packers as packers
from tacit.data import cache_folder, load_named, named
from tacit.data._download import KITS, File, Kit, downloaded
from tacit.data._readers import READERS
from tacit.errors import DataError


@pytest.fixture(autouse=True)
def _own(tmp_path, monkeypatch):
    monkeypatch.setenv("TACIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TACIT_DATA", raising=False)
    monkeypatch.delenv("TACIT_OFFLINE", raising=False)


def idx(values):
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    return gzip.compress(header + values.astype(np.uint8).tobytes())


IMAGES, LABELS = np.arange(6 * 28 * 28).reshape(6, 28, 28) % 251, np.array([3, 1, 2, 0, 1, 5])


@pytest.fixture
def server(tmp_path):
    """A web server on this machine: path -> what it answers with."""
    answers = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            if self.path not in answers:
                self.send_error(404)
                return
            content, announced = answers[self.path]
            self.send_response(200)
            self.send_header("Content-Length", str(announced))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    asked = []
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}", answers, asked
    running.shutdown()
    running.server_close()


@pytest.fixture
def mnist(server, monkeypatch):
    """A tiny MNIST on the server."""
    address, answers, _ = server
    files = []
    for name, content in (("images.gz", idx(IMAGES)), ("labels.gz", idx(LABELS))):
        answers[f"/{name}"] = content, len(content)
        files.append(File(name, f"{address}/{name}", len(content), hashlib.sha256(content).hexdigest()))
    monkeypatch.setitem(KITS, "mnist_test10k", Kit(files, packers.pack_mnist, "a server"))


def left_over():
    return [path for path in cache_folder().rglob("*") if path.is_file()]


def test_a_set_is_downloaded_once_and_read(mnist, server, capsys):
    data = load_named("mnist")
    np.testing.assert_array_equal(data.columns["x"][:, 0], IMAGES)
    np.testing.assert_array_equal(data.columns["y"], LABELS)
    assert data.source == "a server"
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "downloading mnist_test10k (1 kB from 127.0.0.1" in said
    assert "licence: no licence stated" in said
    assert [path.name for path in left_over()] == ["mnist_test10k.npz"]  # the originals are gone
    from tacit.data import _named

    _named._load.cache_clear()
    load_named("mnist", download=False)
    assert named("mnist", "train", n=3)[0].shape == (3, 1, 28, 28)
    assert server[2] == ["/images.gz", "/labels.gz"]
    assert capsys.readouterr().err == ""


def test_a_wrong_file_is_refused_and_removed(mnist, server):
    content, size = server[1]["/labels.gz"]
    server[1]["/labels.gz"] = content[:-1] + b"?", size
    with pytest.raises(DataError, match=r"labels.gz is not the file that was expected \(SHA-256 .*TACIT_DATA=DIR"):
        load_named("mnist")
    assert left_over() == []
    server[1]["/labels.gz"] = content, size
    assert len(load_named("mnist")) == 6


def test_a_larger_file_is_refused(mnist, server):
    content, size = server[1]["/labels.gz"]
    server[1]["/labels.gz"] = content + b"?" * 10, size + 10
    with pytest.raises(DataError, match="is not the file"):
        load_named("mnist")
    assert left_over() == []


@pytest.mark.parametrize("announced", [True, False])
def test_an_interrupted_download_leaves_nothing(mnist, server, announced):
    content, size = server[1]["/images.gz"]
    server[1]["/images.gz"] = content[: size // 2], size if announced else size // 2
    with pytest.raises(DataError, match=r"broke off after|cannot be read"):
        load_named("mnist")
    assert left_over() == []


def test_what_goes_wrong_while_packing_leaves_nothing(mnist, monkeypatch):
    def broken(files, folder):
        (folder / "mnist_test10k.npz").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setitem(KITS, "mnist_test10k", KITS["mnist_test10k"]._replace(pack=broken))
    with pytest.raises(KeyboardInterrupt):
        downloaded("mnist_test10k", licence="")
    assert left_over() == []


def test_no_server_and_no_file(mnist, server):
    del server[1]["/images.gz"]
    with pytest.raises(DataError, match=r"images.gz cannot be read \(Not Found\).*TACIT_DATA=DIR"):
        load_named("mnist")
    gone = KITS["mnist_test10k"].files[0]._replace(url="http://127.0.0.1:9/images.gz")
    with pytest.raises(DataError, match=r"cannot be read \(.*refused\); connect to a network once, or set TACIT_DATA"):
        downloaded_with(gone)


def downloaded_with(file):
    KITS["mnist_test10k"] = KITS["mnist_test10k"]._replace(files=[file])
    return downloaded("mnist_test10k", licence="")


def test_offline_nothing_is_asked(mnist, server, monkeypatch):
    with pytest.raises(DataError, match="let it be downloaded"):
        load_named("mnist", download=False)
    monkeypatch.setenv("TACIT_OFFLINE", "1")
    with pytest.raises(DataError, match=r"TACIT_DATA is not set.*\(without TACIT_OFFLINE\)"):
        load_named("mnist")
    with pytest.raises(DataError, match=r"tacit cannot download this set, whose source is .*niuers"):
        load_named("usps")
    assert server[2] == []
    assert left_over() == []


def test_tacit_data_comes_first(mnist, server, tmp_path, monkeypatch):
    (tmp_path / "mnist_test10k").mkdir()
    np.savez(tmp_path / "mnist_test10k/mnist_test10k.npz", images=IMAGES.astype(np.uint8)[:2], labels=LABELS[:2])
    monkeypatch.setenv("TACIT_DATA", str(tmp_path))
    assert len(load_named("mnist")) == 2
    assert server[2] == []


def test_files_are_read_from_file_addresses_too(tmp_path, monkeypatch):
    content = idx(IMAGES)
    (tmp_path / "images").write_bytes(content)
    file = File("images", (tmp_path / "images").as_uri(), len(content), hashlib.sha256(content).hexdigest())

    def pack(files, folder):
        (folder / "copy").write_bytes(files[0].read_bytes())

    monkeypatch.setitem(KITS, "some_set", Kit([file], pack, "here"))
    assert (downloaded("some_set", licence="none") / "copy").read_bytes() == content


def test_every_kit_is_complete():
    """Each has a packer and original files that cannot be mistaken; addresses are secure and name a commit."""
    for folder, kit in KITS.items():
        assert len({file.name for file in kit.files}) == len(kit.files), folder
        for file in kit.files:
            assert file.url.startswith("https://")
            assert len(file.sha256) == 64
            assert int(file.sha256, 16)
            assert file.size > 1000
            assert "/master/" not in file.url
            assert "/main/" not in file.url
            assert file.name.rpartition(".")[2] not in ("pt", "pkl", "pickle", "mat")


# Packers --------------------------------------------------------------------------------------------------------------


def packed(folder, pack, tmp_path, files):
    """The set as a reader finds it after packing these originals: name -> content."""
    originals = tmp_path / "originals"
    originals.mkdir()
    paths = []
    for name, content in files.items():
        (originals / name).write_bytes(content)
        paths.append(originals / name)
    (tmp_path / folder).mkdir()
    pack(paths, tmp_path / folder)
    return lambda path: tmp_path / path


def test_fashion_mnist_is_sorted_by_class(tmp_path):
    files = {"a": idx(IMAGES), "b": idx(LABELS), "c": idx(IMAGES[:4]), "d": idx(LABELS[:4])}
    data = READERS["fashion_mnist"](packed("fashion_mnist", packers.pack_fashion_mnist, tmp_path, files))
    assert data.columns["y"].tolist() == [0, 1, 1, 2, 3, 5, 0, 1, 2, 3]
    np.testing.assert_array_equal(data.columns["x"][:, 0], IMAGES[[3, 1, 4, 2, 0, 5, 3, 1, 2, 0]])
    assert (len(data.train), data.classes[9]) == (6, "Ankle boot")


def test_idx_of_another_type_is_refused(tmp_path):
    (tmp_path / "x").write_bytes(gzip.compress(bytes([0, 0, 9, 1, 0, 0, 0, 1, 5])))
    with pytest.raises(ValueError, match="IDX"):
        packers._idx(tmp_path / "x")


def test_cifar10_keeps_every_pixel(tmp_path):
    rng = np.random.default_rng(0)
    pictures, labels = rng.integers(0, 256, (12, 3, 32, 32), np.uint8), np.array([4, 0, 9, 4, 1, 1, 0, 2, 3, 3, 9, 0])
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for batch in range(6):
            rows = slice(2 * batch, 2 * batch + 2)
            content = np.column_stack([labels[rows], pictures[rows].reshape(2, -1)]).astype(np.uint8).tobytes()
            name = "test_batch" if batch == 5 else f"data_batch_{batch + 1}"
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    find = packed("cifar10_jpeg", packers.pack_cifar10, tmp_path, {"cifar.tar.gz": archive.getvalue()})
    data = READERS["cifar10"](find)
    order = [*np.argsort(labels[:10], kind="stable"), 11, 10]
    np.testing.assert_array_equal(data.columns["y"], labels[order])
    np.testing.assert_array_equal(np.asarray(data.columns["x"]), pictures[order])


def drawing(ink):
    file = io.BytesIO()
    Image.fromarray(~ink).save(file, "PNG")  # one bit: black where there is ink
    return file.getvalue()


def archive(files):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as opened:
        for name, content in files.items():
            opened.writestr(name, content)
    return file.getvalue()


def test_omniglot_is_the_union_and_its_runs_are_answered(tmp_path):
    rng = np.random.default_rng(0)
    ink = {
        f"{alphabet}/character{character:02}/{character:04}_{drawer:02}.png": rng.random((105, 105)) < 0.1
        for alphabet in "ABCDEFGH"
        for character in (1, 2)
        for drawer in (1, 2)
    }
    first = {f"small1/{name}": drawing(ink[name]) for name in ink if name[0] < "F"}
    second = {f"small2/{name}": drawing(ink[name]) for name in ink if name[0] > "C"}  # some are in both
    runs, right = {}, rng.permuted(np.tile(np.arange(20), (20, 1)), axis=1)
    support = rng.random((20, 20, 105, 105)) < 0.1
    for run in range(20):
        lines = []
        for item in range(20):
            asked, shown = f"run{run + 1:02}/test/item{item + 1:02}.png", right[run, item] + 1
            lines.append(f"{asked} run{run + 1:02}/training/class{shown:02}.png")
            runs[asked] = drawing(support[run, right[run, item]])
            runs[f"run{run + 1:02}/training/class{item + 1:02}.png"] = drawing(support[run, item])
        runs[f"run{run + 1:02}/class_labels.txt"] = "\n".join(reversed(lines)).encode()
    files = {"one.zip": archive(first), "two.zip": archive(second), "runs.zip": archive(runs)}
    data = READERS["omniglot"](packed("omniglot_small", packers.pack_omniglot, tmp_path, files))
    assert len(data) == 32
    assert data.classes[:3] == ("A/character01", "A/character02", "B/character01")
    assert data.columns["drawer"][:4].tolist() == [0, 1, 0, 1]
    share = np.array([ink[name].mean() for name in sorted(ink)])
    np.testing.assert_allclose(data.columns["x"].mean((1, 2, 3)) / 255, share, atol=0.01)
    np.testing.assert_array_equal(data.extras["answer"], right)
    asked = np.take_along_axis(data.extras["support"], right[..., None, None, None], axis=1)
    np.testing.assert_array_equal(data.extras["query"], asked)


def test_texts(tmp_path):
    news = b'"3","A ""quoted"" title","Text, with a comma\\and a bar"\n"1","B","C"\n'
    data = READERS["ag_news"](packed("ag_news_test", packers.pack_ag_news, tmp_path, {"test.csv": news}))
    assert data.columns["text"] == ['A "quoted" title Text, with a comma\\and a bar', "B C"]
    assert data.columns["y"].tolist() == [2, 0]


def test_requests_in_and_out_of_scope(tmp_path):
    parts = {
        "oos_val": [["what", "oos"]],
        "train": [["pay it", "pay_bill"], ["call me", "make_call"]],
        "test": [["paid?", "pay_bill"]],
        "oos_test": [["why", "oos"]],
    }
    domains = {"banking": ["pay_bill"], "phone": ["make_call"]}
    files = {"full.json": json.dumps(parts).encode(), "domains.json": json.dumps(domains).encode()}
    find = packed("clinc150", packers.pack_clinc150, tmp_path, files)
    data = READERS["clinc150_oos"](find)
    assert data.classes == ("make_call", "pay_bill", "oos")
    assert data.categories["domain"] == ("banking", "phone", "oos")
    assert data.columns["y"].tolist() == [2, 1, 0, 1, 2]
    assert data.columns["domain"].tolist() == [2, 0, 1, 0, 2]
    assert [part.tolist() for part in (data.train, data.choose, data.test)] == [[1, 2], [0], [3, 4]]
    assert READERS["clinc150"](find).columns["text"] == ["pay it", "call me", "paid?"]


def test_sentence_pairs(tmp_path):
    files = {
        f"{part}.csv": f'news\tX\t2012\t0001\t{score}\tA "quote.\tB {part}.\n'.encode()
        for part, score in (("train", 5), ("dev", "2.5"), ("test", 0))
    }
    data = READERS["sts"](packed("sts_benchmark", packers.pack_sts, tmp_path, files))
    assert data.columns["a"] == ['A "quote.'] * 3
    assert data.columns["b"] == ["B train.", "B dev.", "B test."]
    assert data.columns["y"].tolist() == [5, 2.5, 0]
    assert [part.tolist() for part in (data.train, data.choose, data.test)] == [[0], [1], [2]]


def test_a_collection(tmp_path):
    documents = b".I 1\n.T\nwings in\na stream .\n.A\nx,y.\n.B\nj. 1, 2.\n.W\nwings in\na stream .\n  it is .I said .\n"
    documents += b".I 2\n.T\n\n.A\n.B\n.W\n"
    files = {
        "docs": documents,
        "queries": b".I 004\n.W\nwhat\nwings .\n.I 009\n.W\nwhy .\n",
        "rel": b"1 2 2 \n2 1 -1\n",
    }
    data = READERS["cranfield"](packed("cranfield", packers.pack_cranfield, tmp_path, files))
    assert data.columns["title"] == ["wings in a stream .", ""]
    assert data.columns["text"] == ["wings in a stream . it is .I said .", ""]
    assert data.extras["queries"] == ["what wings .", "why ."]
    assert data.extras["judgements"].tolist() == [[0, 1, 3], [1, 0, 4]]


def test_reviews(tmp_path):
    lines = {
        f"{domain}_{part}.svmlight": f"1 0:6 4999:{number + 1}\n-1 7:2\n".encode()
        for number, (domain, part) in enumerate(
            (domain, part) for domain in ("books", "dvd", "electronics", "kitchen") for part in ("train", "test")
        )
    }
    find = packed("amazon_reviews_da", packers.pack_amazon, tmp_path, lines)
    data = READERS["amazon_reviews_da"](find)
    assert data.columns["y"].tolist() == [1, 0] * 8
    assert data.columns["domain"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3] * 2
    dense = data.columns["x"][:]
    assert dense[0, [0, 4999]].tolist() == [6, 1]
    assert dense[8, 4999] == 2  # the first test item: books again
    assert dense[1, 7] == 2
    assert (dense > 0).sum() == 8 * 3
