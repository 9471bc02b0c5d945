"""Tokenizer: texts to token numbers and back, with a vocabulary trained on the user's own texts."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, Self

import numpy as np

from tacit.errors import DataError, MissingExtra, expect, unknown
from tacit.nn._words import LONGEST, count_words, most_frequent, split_words

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PAD, UNK, CLS, SEP, MASK = range(5)
"""Numbers of the special tokens: padding, unknown, start of a text, separator of two, masked."""

KINDS = ("words", "wordpiece", "bpe", "characters")
SHIFT = "▁"
"""Marks the start of a word while pieces are learned."""


class Tokenizer:
    """Texts <-> token numbers (n, max_length): 0 [PAD], 1 [UNK], 2 [CLS], 3 [SEP], 4 [MASK], then the vocabulary.

    | kind | a token is | unknown | needs |
    |---|---|---|---|
    | words | a word in lower case (`split_words`), of the most frequent | rare words | |
    | wordpiece | a lower-case piece of a word, the longest that fits (Wu et al., 2016) | rare characters | tokenizers |
    | bpe | merged bytes (Sennrich et al., 2016; Radford et al., 2019); case is kept | nothing | tokenizers |
    | characters | a Unicode code point, of the most frequent | rare characters | |

    The same texts give the same vocabulary, to the byte. Words are for bags and counts; pieces for transformers;
    characters for languages that are written without spaces. (The trainer of WordPiece in tokenizers breaks ties by
    chance, so pieces are learned by its byte-pair trainer on characters, and only cut by longest match.)

    Made by `Tokenizer.train` or `Tokenizer.from_bytes`.

    Attributes:
        kind: words, wordpiece, bpe or characters.
        tokens: every token by its number.

    >>> tokenizer = Tokenizer.train(["a cat sat", "a dog sat"], kind="words", vocab_size=8)
    >>> tokenizer.tokens[5:], tokenizer.encode(["A dog, a cat!"], 5).tolist()
    (['a', 'sat', 'cat'], [[5, 1, 5, 7, 0]])
    >>> tokenizer.decode([5, 7, 6, 0])
    'a cat sat'
    """

    def __init__(self, kind: str, vocabulary: Sequence[str] | dict[str, Any]) -> None:
        if kind not in KINDS:
            raise unknown("kind", kind, KINDS)
        self.kind = kind
        self._vocabulary = vocabulary
        self._model = _MODELS[kind](vocabulary)
        self.tokens: list[str] = self._model.tokens

    @classmethod
    def train(cls, texts: Iterable[str], *, kind: str = "words", vocab_size: int = 8000) -> Self:
        """A tokenizer with the vocabulary of these texts.

        Args:
            texts: all that it sees; a list, or anything that can be gone through twice.
            kind: words, wordpiece, bpe or characters.
            vocab_size: most tokens that it has, the 5 special ones included; fewer where the texts hold fewer. At
                least 6; 64 for wordpiece; 261 for bpe (every byte).

        Raises:
            ArgumentError: an unknown kind, too small a vocabulary, or texts that are no texts.
            MissingExtra: tokenizers is needed and not installed.
        """
        if kind not in KINDS:
            raise unknown("kind", kind, KINDS)
        least = {"wordpiece": 64, "bpe": len(SPECIALS) + 256}.get(kind, len(SPECIALS) + 1)
        expect("vocab_size", vocab_size, vocab_size >= least, f"at least {least} for kind={kind!r}")
        return cls(kind, _MODELS[kind].train(check_texts(texts), vocab_size))

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, texts: Iterable[str], max_length: int, *, start: bool = False) -> np.ndarray:
        """Token numbers, int32 (n, max_length): each text cut or padded at its end.

        Of a very long text no more is read than `max_length` tokens can be expected to need (pieces: 32 characters
        each, runs of spaces counted as one).

        Args:
            texts: a list of n texts of any language and length; empty ones become padding.
            max_length: tokens of a row, at least 1.
            start: put [CLS] first; it counts.

        Raises:
            ArgumentError: texts that are no list of texts, or max_length below 1.
        """
        texts = check_texts(texts)
        expect("max_length", max_length, max_length >= 1, "at least 1")
        ids = np.zeros((len(texts), max_length), np.int32)
        ids[:, :1] = CLS if start else PAD
        self._fill(ids[:, int(start) :], texts)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of one row of numbers; padding, [CLS] and [SEP] are left out.

        What encoding drops stays lost: case and punctuation of words, rare characters, spacing.

        Raises:
            ArgumentError: a number that no token has.
        """
        numbers = [int(i) for i in ids]
        expect("ids", numbers, all(0 <= i < len(self) for i in numbers), f"token numbers from 0 to {len(self) - 1}")
        return self._model.decode([i for i in numbers if i not in (PAD, CLS, SEP)])

    def to_bytes(self) -> bytes:
        """The whole tokenizer as JSON, which `from_bytes` reads."""
        return json.dumps({"kind": self.kind, "vocabulary": self._vocabulary}, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """A tokenizer that `to_bytes` wrote.

        Raises:
            DataError: it did not write this.
            MissingExtra: tokenizers is needed and not installed.
        """
        try:
            read = json.loads(data)
            return cls(read["kind"], read["vocabulary"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"no vocabulary ({error!r}): expected what Tokenizer.to_bytes wrote") from error

    def _fill(self, ids: np.ndarray, texts: list[str]) -> None:
        """Write each text's numbers into its row, which is all padding."""
        width, part = ids.shape[1], 10_000
        if not width:
            return
        for begin in range(0, len(texts), part):  # lists of numbers are large: a part at a time
            rows = self._model.encode(texts[begin : begin + part], width)
            lengths = np.fromiter(map(len, rows), np.int64, len(rows))
            flat = np.fromiter((i for row in rows for i in row), np.int32, int(lengths.sum()))
            ids[begin : begin + part][np.arange(width) < lengths[:, None]] = flat


def check_texts(texts: Iterable[str]) -> list[str]:
    """The texts as a list.

    Raises:
        ArgumentError: one text instead of a list, or an item that is no text.
    """
    if isinstance(texts, str | bytes):
        expect("texts", texts[:40], False, "a list of texts", "put it into a list")
    listed = list(texts)
    wrong = next((i for i, text in enumerate(listed) if not isinstance(text, str)), None)
    if wrong is not None:
        expect(f"texts[{wrong}]", listed[wrong], False, "a text (str)", "leave out items without text, or take ''")
    return listed


class _Model(Protocol):
    tokens: list[str]

    def encode(self, texts: list[str], most: int) -> list[list[int]]: ...

    def decode(self, ids: list[int]) -> str: ...


class _Words:
    """The most frequent words."""

    def __init__(self, vocabulary: Any) -> None:
        self.tokens = [*SPECIALS, *vocabulary]
        self._numbers = {token: i for i, token in enumerate(self.tokens) if i >= len(SPECIALS)}

    @staticmethod
    def train(texts: list[str], vocab_size: int) -> Any:
        return most_frequent(count_words(texts), vocab_size - len(SPECIALS))

    def encode(self, texts: list[str], most: int) -> list[list[int]]:
        number = self._numbers.get
        return [[number(word, UNK) for word in split_words(text, most)] for text in texts]

    def decode(self, ids: list[int]) -> str:
        return " ".join(self.tokens[i] for i in ids)


class _Characters(_Words):
    """The most frequent code points."""

    @staticmethod
    def train(texts: list[str], vocab_size: int) -> Any:
        return most_frequent(count_characters(texts), vocab_size - len(SPECIALS))

    def encode(self, texts: list[str], most: int) -> list[list[int]]:
        number = self._numbers.get
        return [[number(character, UNK) for character in text[:most]] for text in texts]

    def decode(self, ids: list[int]) -> str:
        return "".join(self.tokens[i] for i in ids)


class _Pieces:
    """A tokenizer of Hugging Face's library, from its JSON."""

    def __init__(self, vocabulary: Any) -> None:
        library = _tokenizers()
        self._tokenizer = library.Tokenizer.from_str(json.dumps(vocabulary))
        self._tokenizer.encode_special_tokens = True  # "[MASK]" in a user's text is a text
        numbers = self._tokenizer.get_vocab()
        self.tokens = sorted(numbers, key=numbers.__getitem__)

    def encode(self, texts: list[str], most: int) -> list[list[int]]:
        shortened = [_printable(_beginning(text, 32 * most)) for text in texts]
        return [coded.ids[:most] for coded in self._tokenizer.encode_batch_fast(shortened, add_special_tokens=False)]

    def decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False).strip()


class _WordPiece(_Pieces):
    """Pieces of words, cut by longest match first."""

    @staticmethod
    def train(texts: list[str], vocab_size: int) -> Any:
        library = _tokenizers()
        normalizer = library.normalizers.Sequence(
            [library.normalizers.NFKC(), library.normalizers.BertNormalizer(strip_accents=False)]
        )
        words = library.pre_tokenizers.BertPreTokenizer()
        learner = library.Tokenizer(library.models.BPE())
        learner.normalizer = normalizer
        learner.pre_tokenizer = library.pre_tokenizers.Sequence(
            [words, library.pre_tokenizers.Metaspace(replacement=SHIFT, prepend_scheme="always")]
        )
        counts = count_characters(normalizer.normalize_str(_printable(text)) for text in texts)
        del counts[" "], counts[SHIFT]
        alphabet = most_frequent(counts, (vocab_size - len(SPECIALS)) // 3)
        trainer = library.trainers.BpeTrainer(
            vocab_size=vocab_size - len(SPECIALS) - len(alphabet) + 1,  # each character is a piece in two places
            initial_alphabet=[SHIFT, *alphabet],
            limit_alphabet=len(alphabet) + 1,
            show_progress=False,
        )
        learner.train_from_iterator(map(_trainable, texts), trainer)
        numbers = learner.get_vocab()
        learned = [_as_wordpiece(piece) for piece in sorted(numbers, key=numbers.__getitem__) if piece != SHIFT]
        pieces = dict.fromkeys([*SPECIALS, *alphabet, *("##" + character for character in alphabet), *learned])
        vocabulary = {piece: i for i, piece in enumerate(pieces)}
        cut = library.models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=LONGEST)
        tokenizer = library.Tokenizer(cut)
        tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, words
        tokenizer.decoder = library.decoders.WordPiece(prefix="##", cleanup=False)
        return json.loads(tokenizer.to_str())


class _BPE(_Pieces):
    """Byte pairs, so that nothing is unknown."""

    @staticmethod
    def train(texts: list[str], vocab_size: int) -> Any:
        library = _tokenizers()
        tokenizer = library.Tokenizer(library.models.BPE())
        tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = library.decoders.ByteLevel()
        trainer = library.trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(SPECIALS),
            initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(map(_trainable, texts), trainer)
        return json.loads(tokenizer.to_str())


_MODELS: dict[str, Any] = {"words": _Words, "wordpiece": _WordPiece, "bpe": _BPE, "characters": _Characters}


def count_characters(texts: Iterable[str]) -> Counter[str]:
    """How often each code point occurs in all texts together."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    return counts


def has_tokenizers() -> bool:
    """Whether Hugging Face's tokenizers is installed."""
    import importlib.util

    return importlib.util.find_spec("tokenizers") is not None


def _tokenizers() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise MissingExtra("tokenizers", "text", "a vocabulary of pieces (wordpiece, bpe)") from error
    return tokenizers


def _as_wordpiece(piece: str) -> str:
    return piece[1:] if piece.startswith(SHIFT) else "##" + piece


def _printable(text: str) -> str:
    """Half a surrogate pair, which no encoding knows, becomes a question mark."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _beginning(text: str, most: int) -> str:
    return text if len(text) <= most else " ".join(text[: 8 * most].split())[:most]


_LONG = re.compile(rf"(\S{{{LONGEST}}})")


def _trainable(text: str) -> str:
    """Words are broken every `LONGEST` characters: merging inside one of a million would take a day."""
    return _printable(text if len(text) <= LONGEST else _LONG.sub(r"\1 ", text))
