"""ConditionalUNet: a U-Net that is told words by cross-attention (Rombach et al., 2022, section 3.3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.errors import ArgumentError, expect
from tacit.nn._decoder import CrossAttention
from tacit.nn._diffusion import Time
from tacit.nn._heads import mlp
from tacit.nn._unet import HEAD_DIM, Residual, UNet, _norm, _sinusoids
from tacit.nn._vit import Attention, sincos_positions


class Given(NamedTuple):
    """What the blocks are told: the time, (n, time_dim), and the words, (n, t, context_dim)."""

    time: Tensor
    context: Tensor


@dataclass
class AttentionMaps:
    """What `ConditionalUNet.attention_maps` collects: weights of the latest pass, each row a distribution.

    Attributes:
        own: block -> self-attention, (n, heads, places, places); places row by row.
        cross: block -> cross-attention, (n, heads, places, tokens).
    """

    own: dict[str, Tensor] = field(default_factory=dict)
    cross: dict[str, Tensor] = field(default_factory=dict)


class TokenAttention(nn.Module):
    """x + attention of all places of a map (n, c, h, w) to the words (n, t, context_dim).

    Places are told apart by fixed sines and cosines of row and column, which are added to the queries: words such as
    "left" mean a place, and the network is too shallow to find out where a place is from the map's border. The last
    layer does not start near 0 as the other blocks' do: words are heard from the first step on.
    """

    def __init__(self, channels: int, context_dim: int) -> None:
        super().__init__()
        heads = channels // HEAD_DIM if channels % HEAD_DIM == 0 else 1
        self.norm, self.norm_context = _norm(channels), nn.LayerNorm(context_dim)
        self.position = nn.Linear(context_dim, channels, bias=False)
        self.context = nn.Linear(context_dim, channels)
        self.attention = CrossAttention(channels, heads)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        places = sincos_positions(x.shape[2], x.shape[3], self.position.in_features).to(x)
        queries = self.norm(x).flatten(2).transpose(1, 2) + self.position(places)
        found = self.attention(queries, self.context(self.norm_context(context)))
        return x + found.transpose(1, 2).reshape(x.shape)


class ConditionalResidual(nn.Module):
    """A block of the U-Net, then cross-attention to the words where the block has self-attention."""

    def __init__(self, block: Residual, context_dim: int) -> None:
        super().__init__()
        channels = block.conv2.out_channels
        self.block = block
        attends = not isinstance(block.attention, nn.Identity)
        self.words = TokenAttention(channels, context_dim) if attends else None

    def forward(self, x: Tensor, given: Given) -> Tensor:
        h = self.block(x, given.time)
        return h if self.words is None else self.words(h, given.context)


class ConditionalUNet(UNet):
    """A `UNet` that is told words: `denoise(x_t, t, tokens)`.

    A prompt is a set of phrases of `phrase_length` words each, (n, phrases * phrase_length) token numbers. Token 0 says
    nothing: it fills a phrase up, and a prompt of zeros is the empty one, for classifier-free guidance. A word is told
    of the others of its phrase, by their mean, so that "a red ring and a blue square" is not "a blue ring and a red
    square"; the order of phrases means nothing, nor that of words within one:

        c_i = e_i + MLP([e_i, mean of e over the phrase of i]),    e_i the learned embedding of word i

    After each block with self-attention the places of the map attend to all c_i. In place of token numbers `denoise`
    takes embeddings e (n, t, context_dim) of the caller's own, through which gradients flow (textual inversion);
    `embed` makes those of known words.

    Args:
        n_tokens: words of the vocabulary, token 0 among them; None: `tell_tokens` says it later.
        context_dim: features of a word, a multiple of 4.
        phrase_length: words of a phrase; 1: every word is alone.
        others: as `UNet`. `attention` may not be empty.

    Attributes:
        words: the embeddings, (n_tokens, context_dim).

    Raises:
        ArgumentError: as `UNet`; or no side with attention, a prompt that is no whole number of phrases.

    >>> network = ConditionalUNet(16, 3, width=8, n_tokens=15, phrase_length=4)
    >>> x_t, tokens = torch.randn(2, 3, 16, 16), torch.randint(15, (2, 12))
    >>> with network.attention_maps() as maps:
    ...     network.denoise(x_t, torch.tensor([1, 900]), tokens).shape
    torch.Size([2, 3, 16, 16])
    >>> {block: tuple(weights.shape) for block, weights in maps.cross.items()}
    {'down2': (2, 1, 64, 12), 'middle': (2, 1, 16, 12), 'up2': (2, 1, 64, 12)}
    """

    words: nn.Embedding | None

    def __init__(
        self,
        image_size: int = 16,
        in_channels: int = 3,
        width: int = 32,
        multipliers: Sequence[int] = (1, 2, 2),
        num_res_blocks: int = 1,
        attention: Sequence[int] = (8,),
        n_tokens: int | None = None,
        context_dim: int = 64,
        phrase_length: int = 4,
        layer: str | None = None,
        timestep: int | None = None,
        pool: int = 1,
        n_steps: int = 1000,
        schedule: str = "linear",
    ) -> None:
        expect("attention", attention, len(attention) >= 1, "at least one side", "words reach the maps by attention")
        expect("context_dim", context_dim, context_dim >= 4 and context_dim % 4 == 0, "a multiple of 4")
        expect("phrase_length", phrase_length, phrase_length >= 1, "at least 1 word")
        shape = (image_size, in_channels, width, multipliers, num_res_blocks, attention)
        reads: dict[str, Any] = {"layer": layer, "timestep": timestep, "pool": pool}
        super().__init__(*shape, **reads, n_steps=n_steps, schedule=schedule)
        own = {"n_tokens": None, "context_dim": context_dim, "phrase_length": phrase_length}
        without = {name: value for name, value in self.config.items() if name != "n_classes"}
        self.config = {**without, "name": "unet-tokens", **own}
        self.downs = nn.ModuleList(ConditionalResidual(block, context_dim) for block in self.downs)  # type: ignore[arg-type]
        self.middle = ConditionalResidual(self.middle, context_dim)  # type: ignore[assignment]
        self.ups = nn.ModuleList(ConditionalResidual(block, context_dim) for block in self.ups)  # type: ignore[arg-type]
        self.words = None
        self.phrase = mlp(2 * context_dim, context_dim, context_dim, norm=None)
        if n_tokens is not None:
            self.tell_tokens(n_tokens)

    def tell_tokens(self, n_tokens: int) -> Self:
        """Make room for a vocabulary in a network without. In place.

        Raises:
            ArgumentError: no word, or it has another number of them already.
        """
        expect("n_tokens", n_tokens, n_tokens >= 1, "at least 1")
        now = self.config["n_tokens"]
        expect("n_tokens", n_tokens, now in (None, n_tokens), f"{now}, as the network was built")
        if self.words is None:
            self.words = nn.Embedding(n_tokens, self.config["context_dim"])
            self.config = {**self.config, "n_tokens": n_tokens}
        return self

    def tell_classes(self, n_classes: int) -> Self:
        raise ArgumentError("encoder: ConditionalUNet is told words, not classes; take UNet, or a word for each class")

    def embed(self, tokens: Tensor) -> Tensor:
        """The learned embeddings e of token numbers (n, t), before they are told of their phrases: (n, t, dim).

        Raises:
            ArgumentError: the network has no vocabulary, or not these words.
        """
        expect("tokens", "words", self.words is not None, "none: this network has no vocabulary", "tell_tokens(n)")
        if not torch.compiler.is_compiling() and tokens.numel():
            low, high, known = int(tokens.min()), int(tokens.max()), self.config["n_tokens"]
            expect("tokens", f"{low} to {high}", low >= 0 and high < known, f"numbers from 0 to {known - 1}")
        return self.words(tokens)  # type: ignore[misc]

    @contextmanager
    def attention_maps(self, layers: Sequence[str] | None = None) -> Iterator[AttentionMaps]:
        """Within this, every pass leaves its attention weights in what is yielded; gradients flow through them.

        Args:
            layers: blocks that are read, of those in `attended`; None: all of them.

        Raises:
            ArgumentError: a block without attention.
        """
        layers = self.attended if layers is None else layers
        strange = [layer for layer in layers if layer not in self.attended]
        expect("layers", strange, not strange, f"blocks with attention: {', '.join(self.attended)}")
        maps, hooks = AttentionMaps(), []
        for layer in layers:
            own = self._block(layer).block.attention.attention
            cross = self._block(layer).words.attention
            hooks.append(own.register_forward_hook(_keeps(maps.own, layer, _own_weights)))
            hooks.append(cross.register_forward_hook(_keeps(maps.cross, layer, _cross_weights)))
        try:
            yield maps
        finally:
            for hook in hooks:
                hook.remove()

    @property
    def attended(self) -> tuple[str, ...]:
        """The blocks with self- and cross-attention, in the order of computation."""
        return tuple(layer for layer in self.layers if self._block(layer).words is not None)

    def _block(self, layer: str) -> Any:
        if layer == "middle":
            return self.middle
        return (self.downs if layer.startswith("down") else self.ups)[int(layer.lstrip("downup")) - 1]

    def _time(self, x: Tensor, t: Time, y: Tensor | None) -> Any:
        """`Given` in place of the time alone; y are tokens, int64 (n, t), or embeddings (n, t, context_dim)."""
        times = torch.as_tensor(t, device=x.device).expand(x.shape[0])
        time = self.time(_sinusoids(times, self.config["width"]).to(x.dtype))
        return Given(time, self._context(x, y))

    def _context(self, x: Tensor, y: Tensor | None) -> Tensor:
        length = self.config["phrase_length"]
        if y is None:
            y = torch.zeros(x.shape[0], length, dtype=torch.int64, device=x.device)
        words = y if y.is_floating_point() else self.embed(y)
        n, t = words.shape[:2]
        whole = words.ndim == 3 and t >= 1 and t % length == 0 and n == x.shape[0]
        wanted = f"({x.shape[0]}, a multiple of {length} words)"
        expect("tokens", tuple(y.shape), whole, wanted, "fill phrases up with token 0")
        phrase = words.unflatten(1, (-1, length)).mean(2).repeat_interleave(length, 1)
        return words + self.phrase(torch.cat([words, phrase], 2))


def _keeps(place: dict[str, Tensor], layer: str, weights: Any) -> Any:
    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        place[layer] = weights(module, *inputs)

    return keep


def _own_weights(module: Attention, x: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) of an `Attention`, which does not hand it out: (n, heads, t, t)."""
    q, k, _ = module.qkv(x).unflatten(2, (3, module.num_heads, -1)).permute(2, 0, 3, 1, 4)
    return _softmax(q, k)


def _cross_weights(module: CrossAttention, x: Tensor, context: Tensor) -> Tensor:
    """The same of a `CrossAttention`: (n, heads, t, u)."""
    q = module.q(x).unflatten(2, (module.num_heads, -1)).transpose(1, 2)
    k = module.kv(context).unflatten(2, (2, module.num_heads, -1))[:, :, 0].transpose(1, 2)
    return _softmax(q, k)


def _softmax(q: Tensor, k: Tensor) -> Tensor:
    return F.softmax((q @ k.transpose(2, 3) * q.shape[-1] ** -0.5).float(), 3)
