"""A dual encoder whose texts are prompts of phrases: what claims compare diffusion models with."""

from typing import Any

import torch
from torch import Tensor, nn

from tacit.claims import Part, Trial
from tacit.data import COMPOSITION_WORDS
from tacit.generate._token_ddpm import hide_words
from tacit.multimodal._clip import CLIP
from tacit.nn import ResNet, mlp


class PhraseEncoder(nn.Module):
    """Prompts (n, phrases * phrase_length) -> (n, dim): the phrases' features, each from all its words, averaged.

    As in `tacit.nn.ConditionalUNet` a word knows of the others of its phrase, so that what is bound to what can be
    told; phrases of zeros alone say nothing. While it is trained, words are hidden as `TokenDDPM` hides them.
    """

    def __init__(
        self,
        n_tokens: int = len(COMPOSITION_WORDS),
        dim: int = 64,
        phrase_length: int = 4,
        word_dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.dim, self.phrase_length, self.word_dropout = dim, phrase_length, word_dropout
        self.words = nn.Embedding(n_tokens, dim)
        self.phrase = mlp(phrase_length * dim, 2 * dim, dim, norm=None)

    def forward(self, tokens: Tensor) -> Tensor:
        if self.training:
            tokens = hide_words(tokens, self.word_dropout, self.phrase_length)
        phrases = tokens.unflatten(1, (-1, self.phrase_length))
        said = (phrases > 0).any(2).to(self.words.weight.dtype)[..., None]
        features = self.phrase(self.words(phrases).flatten(2))
        return (features * said).sum(1) / said.sum(1).clamp_min(1)

    def prepare(self, tokens: Any) -> Tensor:
        return torch.as_tensor(tokens, device=self.words.weight.device)


def token_clip(trial: Trial, part: Part, **resnet: Any) -> CLIP:
    """CLIP trained on the scenes of a part (columns x, tokens) and their prompts, its weights drawn by the seed.

    Args:
        resnet: words of the image encoder, a `ResNet` of depth 8.
    """
    shape = {"image_size": part.description["image_size"], "in_channels": part.description["channels"]}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(trial.seed)
        dual = CLIP(ResNet(8, **{"width": 16, **shape, **resnet}), PhraseEncoder(), embed_dim=64)
    pairs = Part({"image": part.x, "text": part.columns["tokens"]}, "image", None, part.seed)
    trial.fit(dual, pairs, batch_size=64)
    return dual.eval()
