"""Words of a text in any script, with nothing installed."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import cache
from itertools import islice

LONGEST = 100
"""Characters of the longest word that enters a vocabulary; longer ones are addresses, keys and garbage."""

ALONE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff\U0001f300-\U0001faff\u2600-\u27bf"
"""Signs that are words by themselves: Japanese kana, Chinese ideographs (written without spaces), emoji."""


def split_words(text: str, most: int | None = None) -> list[str]:
    """The words of a text in lower case, in their order: letters, digits and marks; punctuation is dropped.

    An ideograph, a kana or an emoji is a word by itself. Compatibility forms are folded (NFKC): ｆｕｌｌ becomes full.

    Args:
        text: any text.
        most: stop after this many words, or None for all.

    >>> split_words("It's 3 o'clock: Grüße, हिन्दी 東京!")
    ['it', 's', '3', 'o', 'clock', 'grüße', 'हिन्दी', '東', '京']
    """
    if text.isascii():
        pattern, text = _ascii(), text.lower()
    else:
        pattern, text = _unicode(), unicodedata.normalize("NFKC", text).lower()
    if most is None or len(text) <= 8 * most:
        return pattern.findall(text)[:most]
    return [match.group() for match in islice(pattern.finditer(text), most)]


def count_words(texts: Iterable[str]) -> Counter[str]:
    """How often each word occurs in all texts together; words longer than `LONGEST` are left out.

    >>> count_words(["a b", "B c"]).most_common(1)
    [('b', 2)]
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(split_words(text))
    return Counter({word: count for word, count in counts.items() if len(word) <= LONGEST})


def most_frequent(counts: Counter[str], size: int) -> list[str]:
    """The `size` most frequent keys; equally frequent ones in alphabetical order, whatever order they came in.

    >>> most_frequent(Counter("banana"), 2)
    ['a', 'n']
    """
    return sorted(counts, key=lambda key: (-counts[key], key))[: max(size, 0)]


@cache
def _ascii() -> re.Pattern[str]:
    return re.compile("[a-z0-9]+")


@cache
def _unicode() -> re.Pattern[str]:
    r"""Python's \w misses the marks that Hindi, Thai or Arabic put on letters, and takes the underscore."""
    alone = re.compile(f"[{ALONE}]")
    characters = [char for char in map(chr, range(0x10000)) if not alone.match(char)]
    letters = [char for char in characters if char.isalnum()]
    marks = [char for char in characters if unicodedata.category(char) in ("Mn", "Mc")]
    joiners = ["\u200c", "\u200d"]
    rare = "\U00010000-\U0001efff"  # whole, since many ranges beyond 0xffff make the search slow
    return re.compile(f"[{ALONE}]|[{_ranges(letters)}{rare}][{_ranges(letters + marks + joiners)}{rare}]*")


def _ranges(characters: list[str]) -> str:
    """Characters as the inside of a regular expression's class, neighbours as ranges."""
    points = {ord(character) for character in characters}
    starts = sorted(point for point in points if point - 1 not in points)
    ends = sorted(point for point in points if point + 1 not in points)
    return "".join(f"{chr(a)}-{chr(b)}" for a, b in zip(starts, ends, strict=True))
