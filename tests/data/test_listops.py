"""ListOps: values against an evaluator that reads the text alone, and what is said of depth, length and shares."""

import ast
import re
import statistics

import numpy as np
import pytest

from tacit.data import listops
from tacit.errors import ArgumentError

SMALL = {"max_depth": 4, "max_args": 5, "min_length": 4, "max_length": 80}


def value_of(text):
    """Python's own parser and functions evaluate the text, rewritten as nested calls."""
    code = re.sub(r"\[(\w+)", r"\1([", text).replace(" ]", " ])")
    code = re.sub(r"(?<=[\d)])\s+(?=[\dMS])", ", ", code)
    names = {
        "MAX": lambda v: sorted(v)[-1],
        "MIN": lambda v: sorted(v)[0],
        "MED": lambda v: int(statistics.median(v)),
        "SM": lambda v: int(str(sum(v))[-1]),
    }
    return eval(compile(ast.parse(code, mode="eval"), "listops", "eval"), {"__builtins__": {}}, names)


def depth_of(text):
    level = deepest = 0
    for token in text.split():
        level += token.startswith("[")
        level -= token == "]"
        deepest = max(deepest, level)
    assert level == 0
    return deepest


def test_the_evaluator_itself():
    assert value_of("[MAX 2 9 [MIN 4 7 ] 0 ]") == 9
    assert value_of("[SM 5 [MED 1 4 ] 9 ]") == (5 + 2 + 9) % 10


def test_values_are_those_of_the_text():
    data = listops(300, seed=1, **SMALL)
    assert [value_of(text) for text in data["text"]] == data["y"].tolist()
    assert set(data["y"].tolist()) == set(range(10))


def test_compact_is_the_same_expression_in_characters():
    words, characters = (listops(50, seed=2, **SMALL, compact=compact) for compact in (False, True))
    assert np.array_equal(words["y"], characters["y"])
    for text, short in zip(words["text"], characters["text"], strict=True):
        for name, symbol in {"MAX": "^", "MIN": "v", "MED": "=", "SM": "+"}.items():
            text = text.replace(f"[{name}", f"({symbol}")
        assert text.replace(" ", "").replace("]", ")") == short


def test_lengths_depths_and_arguments_stay_in_range():
    data = listops(100, seed=3, max_depth=3, max_args=4, min_length=10, max_length=40)
    lengths = [len(text.split()) for text in data["text"]]
    assert min(lengths) >= 10
    assert max(lengths) <= 40
    assert max(map(depth_of, data["text"])) == 3
    flat = listops(200, max_depth=1, max_args=4, min_length=4, max_length=9)["text"]
    assert {len(text.split()) for text in flat} == {4, 5, 6}  # brackets and 2 to 4 digits


def test_a_quarter_of_the_arguments_are_operations():
    """Of two levels, where no length is refused: the share below the root is binomial with p = 1/4."""
    texts = listops(2000, seed=4, max_depth=2, max_args=3, min_length=4, max_length=100)["text"]
    below = sum(text.count("[") - 1 for text in texts)
    arguments = 0
    for text in texts:
        level = 0
        for token in text.split():
            arguments += level == 1 and token != "]"
            level += token.startswith("[") - (token == "]")
    share = below / arguments
    assert abs(share - 0.25) < 4 * np.sqrt(0.25 * 0.75 / arguments)


def test_seeds_draw_anew_and_the_same_again():
    first, again, other = (listops(5, seed=seed, **SMALL)["text"] for seed in (0, 0, 1))
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    "wrong", [{"n": 0}, {"seed": -1}, {"max_depth": 0}, {"max_args": 1}, {"min_length": 9, "max_length": 8}]
)
def test_what_cannot_be_is_refused(wrong):
    with pytest.raises(ArgumentError, match=f"{list(wrong)[-1]}="):
        listops(**({"n": 3} | wrong))


def test_lengths_out_of_reach_are_refused(monkeypatch):
    monkeypatch.setattr("tacit.data._listops.TRIES", 50)
    with pytest.raises(ArgumentError, match="min_length=50"):
        listops(1, max_depth=1, max_args=3, min_length=50, max_length=60)
