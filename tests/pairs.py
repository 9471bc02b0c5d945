"""A tiny dual encoder and its pairs, for the tests of `multimodal`."""

import torch

from tacit.multimodal import CLIP
from tacit.nn import ResNet, TextEncoder

TEXTS = ["a red square", "a green square", "a blue square", "a white square"]


def images(n=4, size=8):
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def clip(**arguments):
    torch.manual_seed(0)
    text_encoder = TextEncoder("bag", tokenizer="words", dim=8, vocab_size=16, max_length=6, dropout=0.0)
    image_encoder = ResNet(8, width=4, image_size=8)
    return CLIP(image_encoder, text_encoder.fit_prepare(TEXTS), **{"embed_dim": 6, **arguments})
