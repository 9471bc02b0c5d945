import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from tacit.errors import ArgumentError, DataError
from tacit.nn import ImageEncoder, ResNet, ViT, encoder


def network(**arguments):
    return ResNet(8, **{"width": 2, "image_size": 8, **arguments})


def test_uint8_becomes_exact_fractions():
    pixels = np.arange(2 * 3 * 64, dtype=np.uint8).reshape(2, 3, 8, 8)
    expected = torch.tensor(pixels.astype(np.float32) / np.float32(255))
    assert torch.equal(network().prepare(pixels), expected)
    assert torch.equal(network().prepare(torch.tensor(pixels)), expected)
    assert torch.equal(network().prepare(expected), expected)


def test_grey_and_colour():
    grey = torch.rand(2, 1, 8, 8)
    colour = torch.rand(2, 3, 8, 8)
    assert torch.equal(network().prepare(grey), grey.expand(-1, 3, -1, -1))
    luma = 0.299 * colour[:, :1] + 0.587 * colour[:, 1:2] + 0.114 * colour[:, 2:]
    torch.testing.assert_close(network(in_channels=1).prepare(colour), luma)
    torch.testing.assert_close(network(in_channels=1).prepare(network().prepare(grey)), grey)


def test_the_centre_square_is_kept_and_averaged():
    x = torch.rand(1, 3, 16, 22)
    middle = x[..., 3:19]
    # A triangle of four pixels' width, 1 3 3 1, cut off at the border.
    weights = torch.zeros(8, 16)
    for i in range(8):
        for j in range(16):
            weights[i, j] = max(0.0, 1 - abs((j + 0.5) / 2 - (i + 0.5)))
    weights /= weights.sum(1, keepdim=True)
    torch.testing.assert_close(network().prepare(x), weights @ middle @ weights.T)


@pytest.mark.parametrize("size", [(20, 30), (31, 16), (5, 9)])
def test_resizing_agrees_with_pillow(size):
    rng = np.random.default_rng(0)
    drawn = Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    side = min(drawn.size)
    left, top = (drawn.width - side) // 2, (drawn.height - side) // 2
    expected = drawn.crop((left, top, left + side, top + side)).resize((8, 8), Image.Resampling.BILINEAR)
    ours = network().prepare([drawn])[0].permute(1, 2, 0) * 255
    assert np.abs(ours.numpy() - np.asarray(expected, np.float32)).max() <= 1  # theirs is rounded after each direction


def test_modes_of_pillow():
    colour = Image.new("RGB", (8, 8), (255, 0, 51))
    expected = torch.tensor([1, 0, 0.2])
    clear = Image.new("RGBA", (8, 8), (255, 0, 51, 0))
    deep = Image.fromarray(np.full((8, 8), 13107, np.uint16))
    images = [colour, colour.convert("RGBA"), clear, deep, Image.new("1", (8, 8), 1), colour.convert("P")]
    prepared = network().prepare(images)[:, :, 0, 0]
    torch.testing.assert_close(prepared[0], expected)
    torch.testing.assert_close(prepared[1], expected)
    torch.testing.assert_close(prepared[2], torch.ones(3))
    torch.testing.assert_close(prepared[3], torch.full((3,), 0.2))
    torch.testing.assert_close(prepared[4], torch.ones(3))
    assert prepared[5, 0] > 0.9
    assert network().prepare([]).shape == network().prepare(np.zeros((0, 3, 20, 20), np.uint8)).shape == (0, 3, 8, 8)


def test_rotation_tags_are_followed(tmp_path):
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[0] = 255  # bright above
    tagged = Image.Exif()
    tagged[0x0112] = 3  # upside down
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=tagged)
    x = network().prepare([Image.open(tmp_path / "x.png")])
    assert x[0, 0, 7, 0] == 1
    assert x[0, 0, 0, 0] == 0


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (
            np.zeros((3, 8, 8), np.uint8),
            r"items.shape=\(3, 8, 8\): expected images \(n, c, h, w\); give a single image as x",
        ),
        (np.zeros((1, 4, 8, 8), np.uint8), "channels of items=4: expected 3; .*in_channels=4"),
        (np.full((1, 3, 8, 8), 200.0), "items='200 to 200': expected floats in"),
        (np.full((1, 3, 8, 8), np.nan), "expected floats in"),
        (np.zeros((1, 3, 8, 8), np.int64), "torch.int64: expected uint8"),
    ],
)
def test_what_cannot_be_prepared_is_said(items, message):
    with pytest.raises(ArgumentError, match=message):
        network().prepare(items)


def test_forward_refuses_what_is_not_prepared():
    with pytest.raises(ArgumentError, match=r"expected \(n, 3, h, w\); encoder.prepare"):
        network()(torch.rand(2, 1, 8, 8))
    with pytest.raises(ArgumentError, match=r"torch\.uint8: expected floats"):
        network()(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))


BUILT = [
    ("resnet8", {}),
    ("resnet8", {"width": 4, "layer": "stage1", "in_channels": 1}),
    ("resnet18", {"width": 4, "image_size": 96, "zero_init_residual": True}),
    ("resnet50", {"width": 4, "stem": "imagenet"}),
    ("vit-micro", {"positions": "sincos", "pool": "class"}),
    ("vit", {"embed_dim": 12, "num_heads": 2, "num_layers": 1, "layer": "block1", "image_size": 28}),
]


@pytest.mark.parametrize(("name", "arguments"), BUILT)
def test_config_rebuilds_the_network(name, arguments):
    first = encoder(name, **arguments).eval()
    second = encoder(**json.loads(json.dumps(first.config))).eval()
    assert second.config == first.config
    assert first.config["name"] == name
    second.load_state_dict(first.state_dict())
    x = torch.rand(2, first.in_channels, first.image_size, first.image_size)
    assert torch.equal(first(x), second(x))
    assert first(x).shape == (2, first.dim)


def test_unknown_names_and_arguments():
    with pytest.raises(ArgumentError, match="did you mean 'resnet18'"):
        encoder("resnet-18x")
    with pytest.raises(ArgumentError, match=r"argument of resnet8='widht': .* did you mean 'width'"):
        encoder("resnet8", widht=3)


@pytest.mark.parametrize(("name", "arguments"), BUILT)
def test_saved_and_loaded(name, arguments, tmp_path):
    first = encoder(name, **arguments)
    first.mean.fill_(0.4)
    first.save_pretrained(tmp_path / "new" / "folder")
    second = ImageEncoder.from_pretrained(tmp_path / "new" / "folder")
    assert type(second) is type(first)
    assert not second.training
    x = torch.rand(2, first.in_channels, first.image_size, first.image_size)
    assert torch.equal(first.eval()(x), second(x))
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]


def test_loading_refuses_what_it_did_not_write(tmp_path):
    with pytest.raises(DataError, match=r"holds no config.json"):
        ResNet.from_pretrained(tmp_path)
    network().save_pretrained(tmp_path)
    with pytest.raises(ArgumentError, match="expected a ViT; it holds a ResNet"):
        ViT.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"holds no model\.safetensors"):
        ResNet.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((tmp_path / "pytorch_model.bin").read_bytes()[:-10])
    with pytest.raises(DataError, match="damaged"):
        ResNet.from_pretrained(tmp_path)
    network(width=3).save_pretrained(tmp_path / "other")
    (tmp_path / "other" / "model.safetensors").replace(tmp_path / "model.safetensors")
    with pytest.raises(DataError, match=r"not of its config\.json"):
        ResNet.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"library": "tacit", "format": 99, "encoder": {}}')
    with pytest.raises(DataError, match="format 99"):
        ResNet.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"library": "tac')
    with pytest.raises(DataError, match="is not JSON"):
        ResNet.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(DataError, match="hf:NAME"):
        ResNet.from_pretrained(tmp_path)


def test_pushing_uploads_what_loading_reads(tmp_path, monkeypatch):
    import shutil

    from huggingface_hub import HfApi

    def upload(self, *, repo_id, folder_path, **_):
        shutil.copytree(folder_path, tmp_path / repo_id)
        return f"hub/{repo_id}"

    class Created:
        repo_id = "someone/digits"

    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo_id, private, exist_ok: Created)
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    first = network().eval()
    assert first.push_to_hub("digits") == "hub/someone/digits"
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(ResNet.from_pretrained(tmp_path / "someone" / "digits")(x), first(x))


def test_importing_leaves_the_heavy_libraries_alone():
    heavy = ("huggingface_hub", "transformers", "timm", "sklearn", "lightning", "lancedb", "matplotlib")
    code = f"import tacit.nn, tacit.losses, sys; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("resnet8", {"width": 2}), ("vit", {"embed_dim": 8, "num_heads": 2, "num_layers": 1, "pool": "class"})],
)
def test_exported_for_any_number_of_images(name, arguments):
    ours = encoder(name, image_size=16, **arguments).eval()
    exported = torch.export.export(ours, (torch.rand(2, 3, 16, 16),), dynamic_shapes=({0: torch.export.Dim("n")},))
    x = torch.rand(5, 3, 16, 16)
    torch.testing.assert_close(exported.module()(x), ours(x))
