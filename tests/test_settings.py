import inspect
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tacit import catalogue
from tacit.errors import ArgumentError
from tacit.settings import ALIASES, GROUPS, MODELS, LearnSettings, extra_of, learn_signature, seconds

SOURCE = '''
class Pull(Learner):
    """Pulls."""

    def __init__(self, encoder, *, views=None, temperature: float = 0.1, hidden_dim: int = 512):
        pass


class Anything(Learner):
    def __init__(self, encoder, **arguments):
        pass
'''


@pytest.fixture
def methods(tmp_path, monkeypatch):
    """A catalogue of two learners and a loss."""
    source = tmp_path / "_pull.py"
    source.write_text(SOURCE)

    def entry(id, name, kind):
        return catalogue.Entry(
            id, "arXiv:1", ("image",), "method", kind, "pretrain", name, "tacit.pretrain._pull", "", source
        )

    entries = (
        entry("pull", "Pull", "learner"),
        entry("anything", "Anything", "learner"),
        entry("push", "Push", "loss"),
    )
    monkeypatch.setattr(catalogue, "systems", lambda: entries)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"epochs": 0}, "epochs=0: expected a whole number, at least 1; leave it out for the default length"),
        ({"epochs": "many"}, "epochs='many': expected a whole number"),
        ({"epochs": 1.5}, "epochs=1.5: expected a whole number"),
        ({"epochs": True}, "epochs=True: expected a whole number"),
        ({"max_steps": -1}, "max_steps=-1: expected a whole number"),
        ({"minutes": 0}, "minutes=0: expected a number above 0"),
        ({"minutes": math.inf}, "minutes=inf: expected a number above 0"),
        ({"lr": -0.1}, "lr=-0.1: expected a number above 0; leave it out for the recipe's"),
        ({"lr": 0}, "lr=0: expected a number above 0"),
        ({"lr": math.nan}, "lr=nan: expected a number above 0"),
        ({"weight_decay": -1}, "weight_decay=-1: expected a number, at least 0"),
        ({"batch_size": 0}, "batch_size=0: expected a whole number, at least 1"),
        ({"optimizer": "adam"}, "optimizer='adam': expected adamw, sgd or lars"),
        ({"precision": "16"}, "precision='16': expected auto, 32-true or bf16-mixed"),
        ({"devices": 0}, "devices=0: expected auto, cpu or a whole number"),
        ({"devices": "tpu"}, "devices='tpu': expected auto, cpu or a whole number"),
        ({"num_nodes": 0}, "num_nodes=0: expected a whole number"),
        ({"num_workers": -1}, "num_workers=-1: expected a whole number, at least 0"),
        ({"threads": 0}, "threads=0: expected a whole number"),
        ({"seed": -1}, "seed=-1: expected a whole number from 0"),
        ({"seed": 2**32}, "seed=4294967296: expected a whole number from 0 to 4294967295"),
        ({"image_size": 7}, "image_size=7: expected a whole number of pixels, at least 8"),
        ({"modality": "smell"}, "modality='smell': expected one of image, text"),
        ({"on_error": "ignore"}, "on_error='ignore': expected skip or raise"),
        ({"checkpoint_every": "soon"}, "checkpoint_every='soon': expected a time such as 30s, 3min or 1h"),
        ({"checkpoint_every": 0}, "checkpoint_every=0: expected a time"),
        ({"checkpoint_every": "0s"}, "checkpoint_every='0s': expected a time"),
        ({"out": ""}, "out='': expected the name of a folder"),
        ({"init": 3}, "init=3: expected a run folder"),
        ({"model": "resnet19"}, "unet, timm:NAME or hf:NAME; did you mean 'resnet18'?"),
        ({"model": "timm:"}, "model='timm:': expected one of auto"),
        ({"epochs": 3, "minutes": 2}, "epochs=3, minutes=2: expected at most one of epochs, max_steps, minutes"),
        ({"lr": 0.1, "learning_rate": 0.1}, "expected learning_rate or lr, not both"),
        ({"epoch": 3}, "there is no setting 'epoch'; did you mean 'epochs'?"),
        ({"learnin_rate": 3}, "there is no setting 'learnin_rate'; did you mean 'lr'?"),
        ({"data": None}, "data=None: expected a folder, a zip, a glob"),
        ({"method": {"temperature": 0.1}}, "expected a name among the entries"),
        ({"arguments": {"temperature": 0.1}}, "expected a named method with them"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value_and_what_was_expected(wrong, says):
    with pytest.raises(ArgumentError) as caught:
        LearnSettings(**{"data": "photos/", **wrong})
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (
            {"method": "pul"},
            "method='pul': expected auto or a learner that `tacit systems` lists; did you mean 'pull'?",
        ),
        (
            {"method": "push"},
            "expected a method that learn can train; this one is a loss: use tacit.pretrain.Push in Python",
        ),
        (
            {"method": {"name": "pull", "temprature": 1}},
            "argument of pull='temprature': expected one of temperature, hidden_dim; did you mean 'temperature'?",
        ),
        ({"method": "pull", "arguments": {"encoder": "x"}}, "expected one of temperature, hidden_dim"),
        ({"method": "pull", "arguments": {"temperature": {}}}, "method.temperature={}: expected a number, a word"),
    ],
)
def test_methods_and_their_arguments_are_checked_against_the_source(methods, wrong, says):
    with pytest.raises(ArgumentError) as caught:
        LearnSettings(data="photos/", **wrong)
    assert says in str(caught.value)


def test_a_method_with_arguments_in_one_mapping_or_apart(methods):
    one = LearnSettings(data="x", method={"name": "pull", "temperature": 0.2, "hidden_dim": 8})
    apart = LearnSettings(data="x", method="pull", arguments={"temperature": 0.2, "hidden_dim": 8})
    assert one == apart
    assert LearnSettings(data="x", method="anything", arguments={"any": [1, 2]}).arguments == {"any": [1, 2]}


def test_aliases_are_taken_and_said():
    settings = LearnSettings(data="x", learning_rate=0.1, output_dir=Path("there"), max_epochs=3)
    assert (settings.lr, settings.out, settings.epochs) == (0.1, "there", 3)
    assert settings.notes == [f"{alias} is called {name} here" for alias, name in ALIASES.items()]
    assert settings.model_fields_set == {"data", "lr", "out", "epochs"}


def test_what_the_user_did_not_say_is_known():
    assert LearnSettings(data="x", seed=0).model_fields_set == {"data", "seed"}


def test_the_signature_is_that_of_the_settings():
    signature = learn_signature()
    assert list(signature.parameters) == list(LearnSettings.model_fields)
    settings = LearnSettings(data="x")
    for name, parameter in signature.parameters.items():
        if name != "data":
            assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
            assert parameter.default == getattr(settings, name)
    with pytest.raises(TypeError, match="modle"):
        signature.bind("x", modle="y")


def test_every_setting_has_help_a_panel_and_an_expectation():
    for name, field in LearnSettings.model_fields.items():
        extra = extra_of(field)
        assert field.description, name
        assert extra["expected"], name
        assert extra["group"] in GROUPS, name


@pytest.mark.parametrize("write", [yaml.safe_dump, json.dumps])
def test_a_file_gives_the_same_settings_back(tmp_path, write):
    settings = LearnSettings(data="photos/", minutes=2.5, labels="none", checkpoint_every="1h", seed=3)
    path = tmp_path / "config"
    path.write_text(write(settings.as_dict()))
    assert LearnSettings.from_file(path).as_dict() == settings.as_dict()


@given(
    lr=st.floats(1e-12, 1e6),
    minutes=st.floats(1e-6, 1e6),
    seed=st.integers(0, 2**32 - 1),
    out=st.text(st.characters(codec="utf-8"), min_size=1),
)
def test_settings_survive_yaml(lr, minutes, seed, out):
    settings = LearnSettings(data="x", lr=lr, minutes=minutes, seed=seed, out=out)
    assert LearnSettings(**yaml.safe_load(yaml.safe_dump(settings.as_dict()))) == settings


def test_numbers_that_yaml_reads_as_text_are_numbers(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("data: photos\nlr: 1e-3\n")
    assert yaml.safe_load(path.read_text())["lr"] == "1e-3"
    assert LearnSettings.from_file(path).lr == 0.001


def test_what_is_given_goes_before_the_file(tmp_path, methods):
    path = tmp_path / "config.yaml"
    path.write_text("data: photos\nmax_epochs: 100\nlr: 0.1\nmethod: {name: pull, temperature: 0.2, hidden_dim: 8}\n")
    read = LearnSettings.from_file
    assert read(path, minutes=3).minutes == 3
    assert read(path, minutes=3).epochs is None
    assert read(path, learning_rate=0.5).lr == 0.5
    assert read(path, learning_rate=0.5).notes == [
        "max_epochs is called epochs here",
        "learning_rate is called lr here",
    ]
    assert read(path, arguments={"temperature": 0.3}).arguments == {"temperature": 0.3, "hidden_dim": 8}
    assert read(path, method="anything").arguments == {}
    assert read(path, data="others").model_fields_set == {"data", "epochs", "lr", "method", "arguments"}


def test_the_config_of_a_run_repeats_it(tmp_path):
    settings = LearnSettings(data="photos/", minutes=2, seed=5)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"format": 1, "steps": 777, "settings": settings.as_dict()}))
    again = LearnSettings.from_file(path, out="again")
    assert (again.max_steps, again.minutes, again.seed, again.out) == (777, None, 5, "again")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("modle: x", "config.yaml: there is no setting 'modle'; did you mean 'model'?"),
        ("[1, 2]", "expected names and values"),
        ("", "expected names and values"),
        ("a: b: c", "expected yaml or json; mapping values are not allowed here"),
        ("data: !!python/object/apply:os.getcwd []", "expected yaml or json; could not determine a constructor"),
        (None, "expected a yaml or json file; see: tacit learn DATA --dry-run > config.yaml"),
    ],
)
def test_a_wrong_file_is_said(tmp_path, text, says):
    path = tmp_path / "config.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ArgumentError) as caught:
        LearnSettings.from_file(path)
    assert says in str(caught.value)


@pytest.mark.parametrize(("text", "expected"), [("30s", 30), ("3min", 180), ("2 m", 120), ("1h", 3600), ("0.5h", 1800)])
def test_times(text, expected):
    assert seconds(text) == expected
    settings = LearnSettings(data="x", checkpoint_every=text)
    assert (settings.checkpoint_seconds, settings.checkpoint_steps) == (expected, None)


def test_checkpoints_by_steps():
    settings = LearnSettings(data="x", checkpoint_every=50)
    assert (settings.checkpoint_seconds, settings.checkpoint_steps) == (None, 50)


def test_data_in_memory_is_described():
    numpy = pytest.importorskip("numpy")
    settings = LearnSettings(data=numpy.zeros((5, 3, 8, 8)))
    assert json.loads(json.dumps(settings.as_dict()))["data"] == "ndarray [5, 3, 8, 8]"


def test_every_model_that_is_offered_can_be_built():
    from tacit.nn import encoder

    for name in MODELS:
        if name != "auto":
            assert encoder(name, image_size=32).dim > 0


def test_settings_do_not_import_torch():
    script = "import sys; from tacit.settings import *; LearnSettings(data='x'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0
