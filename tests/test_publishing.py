"""An encoder in a folder of its own is found again, of every kind, and its card says what it is."""

import hashlib

import numpy as np
import pytest
import torch

from tacit.errors import ArgumentError, DataError, RunError
from tacit.nn import ItemEncoder, encoder
from tacit.publishing import write_folder
from tacit.runs import load_encoder, network_of

TEXTS = ["a cat sat on a mat", "the dog ran home", "rain falls on hills", "snow in the north"] * 3


def test_an_encoder_of_texts_comes_back_with_its_vocabulary(tmp_path):
    made = encoder("text-bag", dim=8, vocab_size=64, tokenizer="words", max_length=8).fit_prepare(TEXTS).eval()
    place = write_folder(made, tmp_path / "it", {"method": "simcse"})
    for again in (load_encoder(place), ItemEncoder.from_pretrained(place)):
        torch.testing.assert_close(again(again.prepare(TEXTS)), made(made.prepare(TEXTS)))
    card = (place / "README.md").read_text()
    assert hashlib.sha256((place / "model.safetensors").read_bytes()).hexdigest() in card
    assert "| method | simcse |" in card
    assert 'prepare(["a text"' in card


def test_an_encoder_of_images_comes_back(tmp_path):
    made = encoder("resnet8", width=4, image_size=16).eval()
    again = load_encoder(write_folder(made, tmp_path / "it", {}))
    x = np.zeros((2, 3, 16, 16), np.uint8)
    torch.testing.assert_close(again(again.prepare(x)), made(made.prepare(x)))


def test_what_is_on_the_hub_comes_back(tmp_path, monkeypatch):
    import huggingface_hub

    made = encoder("resnet8", width=4, image_size=16).eval()
    place = write_folder(made, tmp_path / "it", {})
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repo, name: {"me/it": place / name}[repo])
    assert network_of("hub:me/it") == made.config
    found = load_encoder("hub:me/it").state_dict()
    assert all(torch.equal(value, found[name]) for name, value in made.state_dict().items())


def test_nothing_is_overwritten_and_nothing_foreign_is_written(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="exists"):
        write_folder(encoder("resnet8", width=4, image_size=16), tmp_path, {})
    with pytest.raises(ArgumentError, match=r"one of tacit\.nn"):
        write_folder(torch.nn.Linear(2, 2), tmp_path / "new", {})


def test_what_is_damaged_says_so(tmp_path):
    place = write_folder(encoder("resnet8", width=4, image_size=16), tmp_path / "it", {})
    (place / "model.safetensors").write_bytes(b"no")
    with pytest.raises(DataError, match="damaged"):
        load_encoder(place)


@pytest.mark.parametrize("config", ['{"format": 1', "[]", '"tacit"'])
def test_a_folder_whose_config_is_broken_says_so(tmp_path, config):
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(RunError, match=r"config\.json"):
        load_encoder(tmp_path)


def test_the_hub_gets_the_same_folder(tmp_path, monkeypatch):
    import huggingface_hub

    seen = {}

    class Api:
        def __init__(self, token=None):
            seen["token"] = token

        def create_repo(self, name, **options):
            seen["repo"] = name, options

        def upload_folder(self, repo_id, folder_path, **options):
            seen["files"] = sorted(path.name for path in folder_path.iterdir())
            return f"https://hub/{repo_id}/commit/1"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    from tacit.publishing import push

    made = encoder("resnet8", width=4, image_size=16)
    assert push(made, "me/it", {}, private=True).endswith("me/it/commit/1")
    assert seen["repo"] == ("me/it", {"private": True, "exist_ok": True})
    assert seen["files"] == ["README.md", "config.json", "model.safetensors"]
