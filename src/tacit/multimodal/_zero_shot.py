"""Classifiers made of words: class names and templates -> weights in the space that images and texts share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.errors import expect

TEMPLATES = ("a photo of a {}",)
"""What a name is put into, if nothing else is said (Radford et al., 2021, section 3.1.4)."""


def zero_shot_weights(
    encode_text: Callable[[list[str]], Tensor], class_names: Sequence[str], templates: Sequence[str] = TEMPLATES
) -> Tensor:
    """The zero-shot classifier of CLIP: a unit vector a class, the mean over templates of the prompts' embeddings.

        w_k = m / |m|,   m = mean over templates t of  e_t / |e_t|,   e_t = encode_text(t with name k in it)

    (Radford et al., 2021, section 3.1.4). An image is of the class whose w_k is nearest by cosine.

    Args:
        encode_text: texts -> (n, d), such as `CLIP.encode_text`.
        class_names: k names.
        templates: texts with `{}` where the name goes.

    Returns:
        (k, d), detached.

    Raises:
        ArgumentError: no name or no template, or a template without `{}`.

    >>> def encode(texts):
    ...     return torch.tensor([[float(len(text)), 1.0] for text in texts])
    >>> zero_shot_weights(encode, ["cat", "elephant"]).shape
    torch.Size([2, 2])
    """
    prompts = fill_templates(class_names, templates)
    with torch.no_grad():
        embedded = F.normalize(encode_text(prompts).float(), dim=1)
    return F.normalize(embedded.reshape(len(class_names), len(templates), -1).mean(1), dim=1)


def fill_templates(class_names: Sequence[str], templates: Sequence[str] = TEMPLATES) -> list[str]:
    """Every name in every template, the templates of a name one after another.

    >>> fill_templates(["cat", "owl"], ["a {}", "an old {}"])
    ['a cat', 'an old cat', 'a owl', 'an old owl']
    """
    names_ok = not isinstance(class_names, str) and len(class_names) > 0
    expect("class_names", class_names, names_ok, "at least one name, in a list")
    ok = not isinstance(templates, str) and len(templates) > 0 and all("{}" in template for template in templates)
    expect("templates", templates, ok, "texts with {} where the name goes, in a list", 'such as ["a photo of a {}"]')
    return [template.replace("{}", name) for name in class_names for template in templates]


def zero_shot_logits(features: Tensor, weights: Tensor, scale: float = 100.0) -> Tensor:
    """scale times the cosine of each row (n, d) and each class (k, d): (n, k); softmax makes probabilities of them.

    >>> zero_shot_logits(torch.tensor([[0.0, 2.0]]), torch.eye(2))
    tensor([[  0., 100.]])
    """
    return scale * F.normalize(features.float(), dim=1) @ F.normalize(weights.float(), dim=1).T


def embed(function: Callable[[Any], Tensor], items: Any, batch_size: int = 256) -> Tensor:
    """function(items) a batch at a time, without gradient: (n, d) on the CPU; items are sliced."""
    with torch.no_grad():
        found = [
            function(items[start : start + batch_size]).float().cpu() for start in range(0, len(items), batch_size)
        ]
    return torch.cat(found)


class Tower(nn.Module):
    """An encoder and the projection behind it as one encoder into the shared space: raw items -> (n, dim).

    Args:
        encoder: with `prepare`, and `dim` features.
        projection: a linear layer behind it.
    """

    def __init__(self, encoder: nn.Module, projection: nn.Linear) -> None:
        super().__init__()
        self.encoder, self.projection = encoder, projection
        self.dim = projection.out_features

    def prepare(self, items: Any) -> Tensor:
        return self.encoder.prepare(items)

    def forward(self, x: Tensor) -> Tensor:
        return self.projection(self.encoder(x))
