"""The encoder that tacit brings along."""

import hashlib

import torch

from tacit.runs import WEIGHTS, load_encoder, shipped


def test_the_weights_are_those_that_the_card_names():
    found = hashlib.sha256((WEIGHTS / "small.safetensors").read_bytes()).hexdigest()
    assert found == shipped("tacit:small")["sha256"]
    assert found in (WEIGHTS / "README.md").read_text()
    assert (WEIGHTS / "small.safetensors").stat().st_size <= 5_000_000


def test_grey_pictures_give_what_they_give_in_three_channels():
    colour = load_encoder("tacit:small")
    grey = load_encoder("tacit:small", config=shipped("tacit:small")["encoder"] | {"in_channels": 1})
    x = torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(grey(x), colour(x.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4)


def test_pictures_of_different_things_are_told_apart_better_than_by_random_weights():
    from tacit.data import draw_scenes
    from tacit.embedding import embed
    from tacit.evaluate import knn_accuracy
    from tacit.nn import encoder

    drawn = draw_scenes(600, size=32, seed=12345)
    keep = [i for i, place in enumerate(drawn.labels["place"]) if place]
    y = torch.tensor([sorted(set(filter(None, drawn.labels["place"]))).index(drawn.labels["place"][i]) for i in keep])
    torch.manual_seed(0)
    scores = []
    for network in (load_encoder("tacit:small"), encoder(**shipped("tacit:small")["encoder"])):
        z = torch.from_numpy(embed(network, {"x": drawn.images[keep]}))
        scores.append(knn_accuracy(z[:400], y[:400], z[400:], y[400:]).value)
    assert scores[0] > scores[1] + 0.05, scores
