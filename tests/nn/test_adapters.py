import json
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from tacit.errors import ArgumentError, DataError, MissingExtra
from tacit.nn import ImageEncoder, TimmEncoder, TransformersEncoder, encoder

transformers = pytest.importorskip("transformers")


# timm, of which only the interface is here ----------------------------------------------------------------------------


class PatchNet(nn.Module):
    """As timm's vision transformers: a class token first, patches of half the side."""

    num_features = 6
    num_prefix_tokens = 1

    def __init__(self, in_chans, img_size):
        super().__init__()
        self.img_size = img_size
        self.patches = nn.Conv2d(in_chans, 6, img_size // 2, stride=img_size // 2)
        self.token = nn.Parameter(torch.randn(1, 1, 6))

    def forward_features(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        return torch.cat([self.token.expand(len(x), -1, -1), tokens], 1)

    def forward(self, x):
        return self.forward_features(x)[:, 1:].mean(1)


class ConvNet(nn.Module):
    """As timm's convolutional networks."""

    num_features = 4
    head_hidden_size = 8

    def __init__(self, in_chans):
        super().__init__()
        self.conv, self.head = nn.Conv2d(in_chans, 4, 3), nn.Linear(4, 8)

    def forward_features(self, x):
        return self.conv(x)

    def forward(self, x):
        return self.head(self.forward_features(x).mean((2, 3)))


@pytest.fixture
def timm(monkeypatch):
    fake = ModuleType("timm")
    settings = {"mean": (0.4, 0.5, 0.6), "std": (0.1, 0.2, 0.3), "input_size": (3, 16, 16)}
    fixed = {"patchnet": True, "convnet": False}
    fake.is_model = fixed.__contains__
    fake.list_models = lambda: list(fixed)
    fake.get_pretrained_cfg = lambda name: SimpleNamespace(fixed_input_size=fixed[name], hf_hub_id=f"timm/{name}")
    fake.asked = []

    def create_model(name, pretrained, num_classes, in_chans, img_size=None, pretrained_cfg_overlay=None):
        assert num_classes == 0
        assert img_size is None or fixed[name]
        fake.asked.append(pretrained_cfg_overlay)
        model = PatchNet(in_chans, img_size or 16) if fixed[name] else ConvNet(in_chans)
        model.pretrained_cfg = settings
        return model

    fake.create_model = create_model
    monkeypatch.setitem(sys.modules, "timm", fake)
    return fake


@pytest.mark.parametrize(
    ("name", "size", "dim", "places"), [("patchnet", None, 6, 4), ("patchnet", 8, 6, 4), ("convnet", 10, 8, 64)]
)
def test_timm_networks_in_our_form(timm, name, size, dim, places):
    ours = encoder(f"timm:{name}", pretrained=False, image_size=size)
    x = torch.rand(2, 3, ours.image_size, ours.image_size)
    normalized = (x - torch.tensor([0.4, 0.5, 0.6])[:, None, None]) / torch.tensor([0.1, 0.2, 0.3])[:, None, None]
    assert ours.dim == dim
    assert ours.image_size == (size or 16)
    torch.testing.assert_close(ours(x), ours.model(normalized))
    tokens = ours.tokens(x)
    assert tokens.shape[:2] == (2, places)
    expected = ours.model.patches(normalized) if name == "patchnet" else ours.model.conv(normalized)
    torch.testing.assert_close(tokens, expected.flatten(2).transpose(1, 2))
    again = encoder(**json.loads(json.dumps(ours.config)))
    again.load_state_dict(ours.state_dict())
    assert torch.equal(again(x), ours(x))
    assert timm.asked == [None, None]  # no weights were asked for


def test_timm_for_grey_images_averages_the_statistics(timm):
    ours = TimmEncoder("convnet", pretrained=False, in_channels=1)
    torch.testing.assert_close(ours.mean, torch.tensor([0.5]))
    torch.testing.assert_close(ours.std, torch.tensor([0.2]))


def test_timm_weights_are_safetensors_or_nothing(timm, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    offered = {"model.safetensors": "cache/model.safetensors"}

    def download(repository, name):
        if name not in offered:
            raise EntryNotFoundError(name)
        return offered[name]

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    TimmEncoder("convnet")
    assert timm.asked == [{"file": "cache/model.safetensors", "custom_load": False}]
    offered.clear()
    with pytest.raises(DataError, match="timm:convnet has no weights as safetensors"):
        TimmEncoder("convnet")


def test_timm_names_are_checked(timm, monkeypatch):
    with pytest.raises(ArgumentError, match="did you mean 'convnet'"):
        TimmEncoder("covnet")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        MissingExtra, match=r"timm:convnet needs timm, which is not installed: pip install 'tacit\[timm\]'"
    ):
        encoder("timm:convnet")


# transformers, with tiny networks in local folders --------------------------------------------------------------------

TINY = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def vit_config(**arguments):
    return transformers.ViTConfig(**TINY, image_size=16, patch_size=8, **arguments)


def save(folder, model, **statistics):
    model.save_pretrained(folder)
    if statistics:
        (folder / "preprocessor_config.json").write_text(json.dumps(statistics))
    return str(folder)


def test_transformers_folder_in_our_form(tmp_path):
    theirs = transformers.ViTModel(vit_config()).eval()
    folder = save(
        tmp_path, theirs, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6], size={"height": 16, "width": 16}
    )
    ours = encoder(f"hf:{folder}").eval()
    x = torch.rand(2, 3, 16, 16)
    normalized = (x - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) / torch.tensor([0.4, 0.5, 0.6])[:, None, None]
    expected = theirs(pixel_values=normalized)
    assert (ours.dim, ours.image_size, ours.in_channels) == (8, 16, 3)
    torch.testing.assert_close(ours(x), expected.pooler_output)
    torch.testing.assert_close(ours.tokens(x), expected.last_hidden_state)
    mean = TransformersEncoder(folder, pool="mean").eval()
    torch.testing.assert_close(mean(x), expected.last_hidden_state.mean(1))
    assert "pooler" not in "".join(dict(mean.named_parameters()))


def test_a_pooler_without_weights_is_not_used(tmp_path):
    theirs = transformers.ViTModel(vit_config(), add_pooling_layer=False).eval()
    ours = TransformersEncoder(save(tmp_path, theirs)).eval()
    x = torch.rand(2, 3, 16, 16)
    assert ours.config["pool"] == "mean"
    torch.testing.assert_close(ours(x), theirs(pixel_values=(x - 0.5) / 0.25).last_hidden_state.mean(1))


def test_convolutional_networks_and_the_image_tower_of_two(tmp_path):
    x = torch.rand(2, 3, 32, 32)
    resnet = transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic")
    ours = TransformersEncoder(resnet, image_size=32).eval()
    assert ours(x).shape == (2, ours.dim) == (2, 8)
    torch.testing.assert_close(ours(x), ours.tokens(x).mean(1))  # their pooler averages over space
    tower = {**TINY, "image_size": 32, "patch_size": 8}
    text = {**TINY, "vocab_size": 50, "max_position_embeddings": 8}
    both = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=tower)).eval()
    ours = TransformersEncoder(save(tmp_path, both)).eval()
    expected = both.vision_model(pixel_values=(x - 0.5) / 0.25).pooler_output
    torch.testing.assert_close(ours(x), expected)
    assert "text" not in "".join(dict(ours.named_parameters()))


@pytest.mark.parametrize("size", [None, 24])
@pytest.mark.parametrize("pool", ["auto", "mean"])
def test_transformers_config_rebuilds_without_the_source(tmp_path, size, pool):
    folder = save(tmp_path / "source", transformers.ViTModel(vit_config()), image_mean=[0.1] * 3, image_std=[0.4] * 3)
    ours = TransformersEncoder(folder, image_size=size, pool=pool).eval()
    assert folder not in json.dumps(ours.config)
    ours.save_pretrained(tmp_path / "saved")
    (tmp_path / "source").rename(tmp_path / "gone")
    again = ImageEncoder.from_pretrained(tmp_path / "saved")
    x = torch.rand(2, 3, size or 16, size or 16)
    assert torch.equal(again(x), ours(x))
    assert again.config == ours.config
    assert torch.equal(again.mean, torch.full((3,), 0.1))


def test_remote_code_and_pickles_are_refused(tmp_path):
    folder = save(tmp_path, transformers.ViTModel(vit_config()))
    config = json.loads((tmp_path / "config.json").read_text())
    for name in ("AutoConfig", "AutoModel"):
        (tmp_path / "config.json").write_text(
            json.dumps({**config, "model_type": "theirs", "auto_map": {name: f"evil.{name}"}})
        )
        (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
        with pytest.raises(DataError, match="cannot be loaded"):
            TransformersEncoder(folder)
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.save(transformers.ViTModel(vit_config()).state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(DataError, match="weights must be safetensors"):
        TransformersEncoder(folder)


def test_networks_that_do_not_see_images_are_refused(tmp_path):
    with pytest.raises(ArgumentError, match="expected a network of images"):
        TransformersEncoder(transformers.BertConfig(**TINY, vocab_size=20))
    with pytest.raises(DataError, match="cannot be loaded"):
        TransformersEncoder(str(tmp_path))
