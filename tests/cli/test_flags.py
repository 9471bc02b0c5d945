import pytest

from tacit.cli._flags import METHOD, normalise
from tacit.cli._options import settings_given
from tacit.errors import ArgumentError

COMMANDS = {
    "learn": {"--batch-size": True, "--lr": True, "--out": True, "-o": True, METHOD: True, "--overwrite": False},
    "search": {"-k": True, "--duplicates": False},
}


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("learn demo --batch_size 8", "learn demo --batch-size 8"),
        ("learn --batch_size=8 demo", "learn --batch-size=8 demo"),
        ("learn demo --lr -1", "learn demo --lr -1"),
        ("learn demo --out --batch_size", "learn demo --out --batch_size"),
        ("learn demo -o --odd", "learn demo -o --odd"),
        ("learn demo --overwrite --batch_size 8", "learn demo --overwrite --batch-size 8"),
        ("learn -- --batch_size", "learn -- --batch_size"),
        ("learn demo --method.temperature 0.2", f"learn demo {METHOD} temperature=0.2"),
        ("learn demo --method.temperature=0.2 --method.a --b", f"learn demo {METHOD} temperature=0.2 {METHOD} a=--b"),
        ("search run my_file.jpg -k -3", "search run my_file.jpg -k -3"),
        ("--version", "--version"),
        ("", ""),
    ],
)
def test_words_become_those_that_typer_knows(typed, meant):
    assert normalise(typed.split(), COMMANDS) == (meant.split(), [])


def test_names_of_other_libraries_are_taken_and_said():
    words, notes = normalise(["learn", "demo", "--learning-rate", "0.1", "--output_dir=x"], COMMANDS)
    assert words == ["learn", "demo", "--lr", "0.1", "--out=x"]
    assert notes == ["--learning-rate is called --lr here", "--output_dir is called --out here"]


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("lern demo", "there is no command 'lern'; did you mean 'learn'?"),
        ("xyzzy demo", "there is no command 'xyzzy'; expected one of learn, search"),
        ("learn demo --batchsize 8", "learn has no flag --batchsize; did you mean --batch-size?"),
        ("learn demo --zzz 8", "learn has no flag --zzz; see: tacit learn --help"),
        ("search run --method.temperature 8", "search has no flag --method.temperature"),
        ("search run --learning-rate 8", "search has no flag --learning-rate"),
        ("learn demo --method.temperature", "--method.temperature: expected a value after it"),
    ],
)
def test_the_nearest_name_is_suggested(typed, says):
    with pytest.raises(ArgumentError) as caught:
        normalise(typed.split(), COMMANDS)
    assert says in str(caught.value)


def test_a_folder_in_the_place_of_a_command(tmp_path):
    with pytest.raises(ArgumentError, match="did you mean: tacit learn "):
        normalise([str(tmp_path)], COMMANDS)


def test_a_value_is_read_as_a_number_only_where_one_is_expected():
    given = {
        "out": "1",
        "threads": "2",
        "lr": "x",
        "overwrite": None,
        "arguments": ["a=1", "b=true", "c=x=y", "d=none"],
    }
    assert settings_given(given) == {
        "out": "1",
        "threads": 2,
        "lr": "x",
        "arguments": {"a": 1, "b": True, "c": "x=y", "d": None},
    }


@pytest.mark.parametrize("text", ["temperature", "=3"])
def test_an_argument_needs_a_name_and_a_value(text):
    with pytest.raises(ArgumentError, match=r"--method\.temperature 0\.2"):
        settings_given({"arguments": [text]})
