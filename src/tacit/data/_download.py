"""Public sets from their sources: checked, and kept in the cache in the form in which TACIT_DATA holds them.

Only sets are offered whose original files have a checksum that could be verified: against torchvision's list (MNIST,
Fashion-MNIST), the makers' page (CIFAR-10), or the commit that the copy in TACIT_DATA was made from (the rest).
"""

from __future__ import annotations

import hashlib
import os
import sys
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

from tacit.data import _packers as packers
from tacit.data._cache import building, cache_folder, megabytes, require_space
from tacit.errors import DataError

__all__ = ["KITS", "File", "Kit", "downloaded", "offline"]

CHUNK = 2**20
PATIENCE = 60
"""Seconds without an answer after which a server is given up."""


class File(NamedTuple):
    """An original file: its name here, where it lies, its size in bytes and its SHA-256."""

    name: str
    url: str
    size: int
    sha256: str


class Kit(NamedTuple):
    """What makes a set: original files, what packs them, and what to say of the source."""

    files: Sequence[File]
    pack: Callable[[Sequence[Path], Path], None]
    source: str


def offline() -> bool:
    """Whether the environment variable TACIT_OFFLINE forbids downloads."""
    return os.environ.get("TACIT_OFFLINE", "0") not in ("", "0")


def downloaded(folder: str, *, licence: str, allowed: bool = True) -> Path | None:
    """The cached copy of a set, downloaded if need be; None if it is not offered, or not there and not allowed.

    Several processes may download the same set; the first to end wins. What is interrupted or damaged is deleted.

    Args:
        folder: the set's folder in TACIT_DATA.
        licence: said when it is downloaded.
        allowed: whether the network may be used.

    Raises:
        DataError: no network, the disk is full, or a file is not what it should be.
    """
    kit, place = KITS.get(folder), cache_folder() / "named" / folder
    if place.is_dir():
        return place
    if kit is None or not allowed:
        return None
    total = sum(file.size for file in kit.files)
    host = kit.files[0].url.partition("://")[2].partition("/")[0]
    require_space(cache_folder(), 3 * total)
    print(f"tacit: downloading {folder} ({megabytes(total)} from {host}; licence: {licence})", file=sys.stderr)
    with building(cache_folder(), "named", folder) as temporary:
        originals = [_retrieve(file, temporary) for file in kit.files]
        kit.pack(originals, temporary)
        for original in originals:
            original.unlink()
    return place


def _retrieve(file: File, folder: Path) -> Path:
    target, digest, size = folder / file.name, hashlib.sha256(), 0
    with target.open("wb") as out:
        for chunk in _read(file.url):
            out.write(chunk)
            digest.update(chunk)
            size += len(chunk)
            if size > file.size:
                break
    if size < file.size:
        raise DataError(f"{file.url} broke off after {size:,} of {file.size:,} bytes; try again, or {_BY_HAND}")
    if digest.hexdigest() != file.sha256:
        raise DataError(f"{file.url} is not the file that was expected (SHA-256 {file.sha256}); {_BY_HAND}")
    return target


def _read(url: str) -> Iterator[bytes]:
    """The file piece by piece; what goes wrong on the way is told apart from a disk that is full."""
    request = urllib.request.Request(url, headers={"User-Agent": "tacit"})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            while chunk := answer.read(CHUNK):
                yield chunk
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise DataError(f"{url} cannot be read ({reason}); connect to a network once, or {_BY_HAND}") from None


_BY_HAND = "set TACIT_DATA=DIR to a folder that holds the set"


# What is offered ------------------------------------------------------------------------------------------------------


def _github(repository: str, commit: str, *files: tuple[str, int, str]) -> list[File]:
    base = f"https://raw.githubusercontent.com/{repository}/{commit}"
    return [File(path.rpartition("/")[2], f"{base}/{path}", size, sha256) for path, size, sha256 in files]


_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist"

KITS: dict[str, Kit] = {
    "mnist_test10k": Kit(
        [
            File(
                "t10k-images-idx3-ubyte.gz",
                f"{_MNIST}/t10k-images-idx3-ubyte.gz",
                1_648_877,
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            ),
            File(
                "t10k-labels-idx1-ubyte.gz",
                f"{_MNIST}/t10k-labels-idx1-ubyte.gz",
                4_542,
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            ),
        ],
        packers.pack_mnist,
        f"{_MNIST} (original pixels)",
    ),
    "fashion_mnist": Kit(
        _github(
            "zalandoresearch/fashion-mnist",
            "b2617bb6d3ffa2e429640350f613e3291e10b141",
            (
                "data/fashion/train-images-idx3-ubyte.gz",
                26_421_880,
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            ),
            (
                "data/fashion/train-labels-idx1-ubyte.gz",
                29_515,
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            ),
            (
                "data/fashion/t10k-images-idx3-ubyte.gz",
                4_422_102,
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            ),
            (
                "data/fashion/t10k-labels-idx1-ubyte.gz",
                5_148,
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            ),
        ),
        packers.pack_fashion_mnist,
        "https://github.com/zalandoresearch/fashion-mnist at b2617bb6d3ffa2e429640350f613e3291e10b141",
    ),
    "cifar10_jpeg": Kit(
        [
            File(
                "cifar-10-binary.tar.gz",
                "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                170_052_171,
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            )
        ],
        packers.pack_cifar10,
        "https://www.cs.toronto.edu/~kriz/cifar.html (original pixels)",
    ),
    "omniglot_small": Kit(
        _github(
            "brendenlake/omniglot",
            "057f034baf2ecb8530bc5710e5a23584d2a519cc",
            (
                "python/images_background_small1.zip",
                1_319_022,
                "f38eb80f801274ac2b4dff5b24289016bfaba4a7d5bb50deebf27104ad6cb8a4",
            ),
            (
                "python/images_background_small2.zip",
                1_580_917,
                "3ccaa407515a8778e5d0861875af38b17e418f301ad5bb3b5a6b65d901a41c7f",
            ),
            (
                "python/one-shot-classification/all_runs.zip",
                352_787,
                "437c1eeab0af8484112e1b4cc0f3d541ec727f7c47b9b202da738af9dfd6c325",
            ),
        ),
        packers.pack_omniglot,
        "https://github.com/brendenlake/omniglot at 057f034baf2ecb8530bc5710e5a23584d2a519cc",
    ),
    "ag_news_test": Kit(
        _github(
            "mhjabreel/CharCnn_Keras",
            "555590db4219b1243abb1918effd6a7425a2d75f",
            (
                "data/ag_news_csv/test.csv",
                1_857_427,
                "521465c2428ed7f02f8d6db6ffdd4b5447c1c701962353eb2c40d548c3c85699",
            ),
        ),
        packers.pack_ag_news,
        "https://github.com/mhjabreel/CharCnn_Keras at 555590db4219b1243abb1918effd6a7425a2d75f",
    ),
    "clinc150": Kit(
        _github(
            "clinc/oos-eval",
            "828f8093932c8fe6ca7936c3d2e52903b1c523de",
            ("data/data_full.json", 2_495_390, "36923c3705a59e08fe9c3883d8bc2dd966ef93e22cb78ac41171782a698d56e0"),
            ("data/domains.json", 3_818, "b947b579d3b8e74b06f93b01083d8efaff2888b43a3e362533bd88a6e1211b3a"),
        ),
        packers.pack_clinc150,
        "https://github.com/clinc/oos-eval at 828f8093932c8fe6ca7936c3d2e52903b1c523de",
    ),
    "sts_benchmark": Kit(
        _github(
            "zhangzhenhu/Semantic-Texual-Similarity-Toolkits",
            "c55a72f51bd15a8bd75114247c06984b432050f9",
            (
                "data/stsbenchmark/sts-train.csv",
                901_177,
                "0f71910b59aa1ad973c5897f0791f3b0965a92b8f82b1a95f3eea9f4162fda82",
            ),
            (
                "data/stsbenchmark/sts-dev.csv",
                255_680,
                "5d7e944d8b02734b07bfdb5df67db3420c64bed153fcaa1ba47ad03480cf4234",
            ),
            (
                "data/stsbenchmark/sts-test.csv",
                282_419,
                "affe45928a66ee5a708531233c95b7dacbbdc57f974f002a3d32ea0180cf816a",
            ),
        ),
        packers.pack_sts,
        "https://github.com/zhangzhenhu/Semantic-Texual-Similarity-Toolkits "
        "at c55a72f51bd15a8bd75114247c06984b432050f9",
    ),
    "cranfield": Kit(
        _github(
            "noramtboraas/information-retrieval",
            "4ea1b8e02da1db64b68b0364d50620b3c95528dc",
            ("cran.all.1400", 1_684_117, "fbb8935a93263ab6c9fadefb507fd7cd5e101e7fbeb31c12e6bff6dd501315e8"),
            ("cran.qry", 28_957, "99578ceb88941ef89c14faf7c63c23776a376d8fba319b990f01d0c601d8b03f"),
            ("cranqrel", 21_377, "a90f56082cd44db70bf2c21ebca39a1a34e37c82ccb5ddf1bcc64f18795234c7"),
        ),
        packers.pack_cranfield,
        "https://github.com/noramtboraas/information-retrieval at 4ea1b8e02da1db64b68b0364d50620b3c95528dc",
    ),
    "amazon_reviews_da": Kit(
        _github(
            "GRAAL-Research/domain_adversarial_neural_network",
            "74eec5e0ae06bd6614bce048abba492c16a633e3",
            *(
                (f"data/{name}.svmlight", size, sha256)
                for name, size, sha256 in (
                    ("books_train", 1_134_070, "317f9a2ec34b81de770b63a84d8c5cc2dc16bd0be6e079d2ff5b5bad5213ea19"),
                    ("books_test", 2_426_071, "fe4605c7dcf0e0a9410fd2a32f247caaf9abb352cc6e4c3e0f400853163ad9c4"),
                    ("dvd_train", 1_133_356, "95f602aa08bf6b55758f7b0b18df3882fe30acb11987ee60b6b4bb3c44cba733"),
                    ("dvd_test", 2_039_832, "4fe1b1a15010f78d8d0c49fe362d35fd4677463a45f1ac02a9f410ae1e638060"),
                    ("electronics_train", 872_265, "7d0061f03ff3827e4f8036b051b5e5828fddc0cd115aa5b212cd28d624dc14e4"),
                    ("electronics_test", 2_461_224, "641783bc941839c3a111d3488a1b7e3bd820a61ec14a129e7429b47703aa961d"),
                    ("kitchen_train", 771_076, "a70b5ebfe1413e0e16280360905f5c3b64389c435cd20c0165dc9d7f293b31b5"),
                    ("kitchen_test", 2_280_620, "e1502b97a824eb12314be4447394fa736fecb781c0724e6529cd6733ac7ff6d8"),
                )
            ),
        ),
        packers.pack_amazon,
        "https://github.com/GRAAL-Research/domain_adversarial_neural_network "
        "at 74eec5e0ae06bd6614bce048abba492c16a633e3",
    ),
}
"""A set's folder in TACIT_DATA -> how to make it."""
