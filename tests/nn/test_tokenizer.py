import hashlib
import inspect
import json
import re
import subprocess
import sys
import textwrap
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.errors import ArgumentError, DataError, MissingExtra
from tacit.nn import Tokenizer
from tacit.nn._tokenizer import KINDS, SPECIALS
from tacit.nn._words import count_words, split_words

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "A quick dog, a lazy fox; 42 foxes!",
    "Größe und Maß: 3,5 cm. हिन्दी भाषा",
    "東京 is not 京都 😀👍🏽 مُحَمَّد",
    "",
]
SIZES = {"words": 30, "wordpiece": 200, "bpe": 300, "characters": 60}
HOSTILE = [
    "",
    " \n\t ",
    "\x00\x01",
    "\ud800 half",
    "a" * 10_000_000,
    "no " * 3_000_000,
    "[MASK] [PAD]",
    "👩‍👩‍👧‍👦" * 500,
]


@pytest.fixture(scope="module", params=KINDS)
def trained(request):
    return Tokenizer.train(TEXTS, kind=request.param, vocab_size=SIZES[request.param])


def test_words_by_a_slow_loop():
    texts = ["It's the 3 o'clock news, the NEWS_flash", "the end"]
    words = [re.findall(r"[a-z0-9]+", text.lower()) for text in texts]
    counts = Counter(word for row in words for word in row)
    kept = sorted(counts, key=lambda word: (-counts[word], word))[:5]
    numbers = {word: 5 + i for i, word in enumerate(kept)}
    expected = [([numbers.get(word, 1) for word in row] + 7 * [0])[:7] for row in words]
    tokenizer = Tokenizer.train(texts, kind="words", vocab_size=10)
    assert tokenizer.tokens == [*SPECIALS, *kept]
    assert tokenizer.encode(texts, 7).tolist() == expected
    with_start = [[2, *row][:7] for row in expected]
    assert tokenizer.encode(texts, 7, start=True).tolist() == with_start


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("مُحَمَّد رسول", ["مُحَمَّد", "رسول"]),
        ("می\u200cخواهم", ["می\u200cخواهم"]),
        ("東京タワーGO", ["東", "京", "タ", "ワ", "ー", "go"]),
        ("Ωmega_ΣΑΣ naïve ｆｕｌｌ", ["ωmega", "σας", "naïve", "full"]),
        ("ja😀nein👍🏽", ["ja", "😀", "nein", "👍", "🏽"]),
        ("𝒳² ½", ["x2", "1", "2"]),
    ],
)
def test_words_of_other_scripts(text, words):
    assert split_words(text) == words
    assert split_words(text, 1) == words[:1]


def test_a_word_of_a_million_letters_is_not_learned():
    assert count_words(["a" * 1_000_000 + " b"]) == {"b": 1}


def test_wordpiece_is_the_longest_match_first():
    tokenizer = Tokenizer.train(TEXTS[:2] * 3, kind="wordpiece", vocab_size=100)
    numbers = {token: i for i, token in enumerate(tokenizer.tokens)}

    def pieces(word):
        begin, found = 0, []
        while begin < len(word):
            candidates = (("##" if begin else "") + word[begin:end] for end in range(len(word), begin, -1))
            piece = next((piece for piece in candidates if piece in numbers), None)
            if piece is None:
                return [1]
            found.append(numbers[piece])
            begin += len(piece) - 2 * bool(begin)
        return found

    words = ["foxes", "quickly", "dog", "zzz", "überfox", ","]
    expected = [number for word in words for number in pieces(word)]
    assert tokenizer.encode([" ".join(words)], 60)[0][: len(expected)].tolist() == expected
    assert len(tokenizer) <= 100


@settings(max_examples=25, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_bytes_lose_nothing(text):
    tokenizer = Tokenizer.train(TEXTS, kind="bpe", vocab_size=270)
    ids = tokenizer.encode([text], 100)[0]
    assert (ids != 1).all()
    assert tokenizer.decode(ids).strip() == text.strip()


@pytest.mark.parametrize(("kind", "text"), [("characters", "The lazy fox"), ("words", "the lazy fox")])
def test_decoding_gives_known_text_back(kind, text):
    tokenizer = Tokenizer.train(TEXTS, kind=kind, vocab_size=90)
    assert tokenizer.decode(tokenizer.encode([text], 40, start=True)[0]) == text


def test_pieces_are_put_together_again():
    tokenizer = Tokenizer.train(TEXTS, kind="wordpiece", vocab_size=200)
    assert tokenizer.decode(tokenizer.encode(["Größe der fox 京都"], 40)[0]).split()[:1] == ["größe"]


def test_bytes_rebuild_it(trained):
    again = Tokenizer.from_bytes(trained.to_bytes())
    assert again.to_bytes() == trained.to_bytes()
    np.testing.assert_array_equal(again.encode(TEXTS, 30), trained.encode(TEXTS, 30))
    assert json.loads(trained.to_bytes())["kind"] == trained.kind


def test_vocabulary_is_within_its_size(trained):
    assert trained.tokens[:5] == list(SPECIALS)
    assert len(set(trained.tokens)) == len(trained) <= SIZES[trained.kind]
    assert trained.encode(TEXTS, 50).max() < len(trained)


def test_hostile_texts(trained):
    ids = trained.encode(HOSTILE, 16)
    assert ids.shape == (len(HOSTILE), 16)
    assert ids.dtype == np.int32
    assert not ids[0].any()
    assert not np.isin(ids[6], [2, 3, 4]).any()  # "[MASK]" in a text is a text
    np.testing.assert_array_equal(trained.encode(HOSTILE[:4], 8), ids[:4, :8])


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_texts_can_be_learned_from(kind):
    shorter = [text[:300_000] for text in HOSTILE]
    tokenizer = Tokenizer.train(shorter, kind=kind, vocab_size=400)
    assert 5 <= len(tokenizer) <= 400
    assert len(Tokenizer.train([], kind=kind, vocab_size=400).tokens) >= 5


def test_rows_do_not_hang_on_their_neighbours(trained):
    many = TEXTS * 2500  # more than one part
    ids = trained.encode(many, 12)
    np.testing.assert_array_equal(ids, np.tile(trained.encode(TEXTS, 12), (2500, 1)))


def test_the_same_texts_give_the_same_bytes_in_another_process():
    def hashes():
        texts = [" ".join(f"{a}{b}ab{b}{a} 好{a}" for a in "abcdefgéß你" for b in "uvwxyz"), "x y z " * 9]
        return [hashlib.md5(Tokenizer.train(texts, kind=kind, vocab_size=300).to_bytes()).hexdigest() for kind in KINDS]

    script = "import hashlib; from tacit.nn._tokenizer import KINDS, Tokenizer\n"
    script += textwrap.dedent(inspect.getsource(hashes)) + "\nprint(*hashes())"
    environment = {"PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1"}
    there = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert there.stdout.split() == hashes()


def test_words_and_characters_need_no_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    for kind in ("words", "characters"):
        Tokenizer.train(TEXTS, kind=kind, vocab_size=20).encode(TEXTS, 5)
    for kind in ("wordpiece", "bpe"):
        with pytest.raises(MissingExtra, match=r"tokenizers.*tacit\[text\]"):
            Tokenizer.train(TEXTS, kind=kind, vocab_size=300)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Tokenizer.train("one text"), r"texts='one text'.*a list of texts"),
        (lambda: Tokenizer.train(["a", None]), r"texts\[1\]=None: expected a text"),
        (lambda: Tokenizer.train(["a"], kind="word"), r"kind='word'.*did you mean 'words'"),
        (lambda: Tokenizer.train(["a"], kind="bpe", vocab_size=100), r"vocab_size=100: expected at least 261"),
        (lambda: Tokenizer.train(["a"]).encode(["a"], 0), r"max_length=0"),
        (lambda: Tokenizer.train(["a"]).decode([7]), r"token numbers from 0 to 5"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(ArgumentError, match=message):
        call()


@pytest.mark.parametrize("data", [b"", b"\xff", b"{}", b"[]", b'{"kind": "wrds", "vocabulary": []}'])
def test_damaged_bytes_are_refused(data):
    with pytest.raises(DataError, match="to_bytes"):
        Tokenizer.from_bytes(data)
