"""TokenDDPM: a small text-to-image diffusion model (Rombach et al., 2022; Ho & Salimans, 2022)."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from tacit.catalogue import system
from tacit.claims import Bench, Data, Part, Trial, checked
from tacit.data import COMPOSITION_WORDS, compositions
from tacit.embedding import evaluating
from tacit.errors import expect
from tacit.generate._ddpm import BATCH, DDPM
from tacit.nn import ConditionalUNet


@system("token-ddpm", paper="arXiv:2112.10752", modality="image", level="baseline")
class TokenDDPM(DDPM):
    """DDPM that is told what to draw in words, by cross-attention, and sometimes in fewer words or in none.

        loss = that of DDPM, given the words, some of them hidden                  (latent diffusion, eq. 3)

    From a share `prompt_dropout` of the images all words are hidden (classifier-free guidance, algorithm 1); from the
    others some kinds of words, as captions leave things out (`hide_words`).

    So one network draws from a whole description, from "a ring", which then has any colour, and from nothing. It works
    on pixels: there is no latent space.

    Args:
        encoder: a `ConditionalUNet`; it is given room for the words.
        n_tokens: words of the vocabulary, token 0, which says nothing, among them; by default those of
            `tacit.data.compositions`.
        word_dropout: largest share of the kinds of words that are hidden from an image.
        prompt_dropout: share of the prompts that are hidden as a whole.
        others: as `DDPM`, but `flip`: words may speak of left and right.

    Data has the columns `x` and `tokens`, int64 (n, t).

    >>> learner = TokenDDPM(ConditionalUNet(8, 3, width=8, multipliers=(1, 2), attention=(4,)), n_steps=20)
    >>> from tacit.data import composition_prompt
    >>> learner.sample(2, tokens=composition_prompt("red ring"), num_steps=3, guidance_scale=1.0).shape
    torch.Size([2, 3, 8, 8])
    """

    settings: ClassVar = {
        "paper": {
            "optimizer": "adamw",
            "lr": 1e-4,
            "weight_decay": 0.01,
            "batch_size": 680,
            "max_steps": 390_000,
            "n_steps": 1000,
            "ema": 0.9999,
        },
        "small": {
            "model": "unet-tokens",
            "optimizer": "adamw",
            "lr": 3e-3,
            "weight_decay": 0.0,
            "batch_size": 32,
            "betas": (0.9, 0.99),
            "warmup": 0.05,
            "clip": 1.0,
            "n_steps": 1000,
            "schedule": "cosine",
            "prediction": "x0",
            "ema": 0.99,
        },
    }

    def __init__(
        self,
        encoder: ConditionalUNet,
        *,
        n_tokens: int = len(COMPOSITION_WORDS),
        word_dropout: float = 0.5,
        prompt_dropout: float = 0.1,
        n_steps: int = 1000,
        schedule: str = "linear",
        prediction: str = "epsilon",
        ema: float = 0.9999,
    ) -> None:
        named = type(encoder).__name__
        takes_words = isinstance(encoder, ConditionalUNet)
        expect("encoder", named, takes_words, "tacit.nn.ConditionalUNet", "--model unet-tokens")
        for name, share in (("word_dropout", word_dropout), ("prompt_dropout", prompt_dropout)):
            expect(name, share, 0 <= share <= 1, "a share in [0, 1]")
        encoder.tell_tokens(n_tokens)
        super().__init__(encoder, n_steps=n_steps, schedule=schedule, prediction=prediction, ema=ema, flip=False)
        self.word_dropout, self.prompt_dropout = word_dropout, prompt_dropout

    def loss(self, x: Tensor, tokens: Tensor) -> Tensor:  # type: ignore[override]
        said = hide_words(tokens, self.word_dropout, self.encoder.config["phrase_length"])
        hidden = torch.rand(len(tokens), 1, device=tokens.device) < self.prompt_dropout
        return self.denoising_loss(x, said.masked_fill(hidden, 0))

    @torch.no_grad()
    def sample(  # type: ignore[override]
        self,
        n: int,
        *,
        tokens: Tensor | None = None,
        num_steps: int = 50,
        eta: float = 0.0,
        guidance_scale: float = 0.0,
    ) -> Tensor:
        """New images, float (n, in_channels, image_size, image_size) in [0, 1]; chance is torch's global generator.

        Args:
            n: how many.
            tokens: the prompt of all, int64 (t,), or one for each, (n, t); or their embeddings, (n, t, context_dim);
                None: the empty prompt.
            num_steps, eta, guidance_scale: as `DDPM.sample`; guidance is away from the empty prompt.

        Raises:
            ArgumentError: n or num_steps under 1, or words that the network has not.
        """
        expect("n", n, n >= 1, "at least 1")
        times, device = self.diffusion.times(num_steps), self.diffusion.alpha_bar.device
        given = None if tokens is None else torch.as_tensor(tokens, device=device)
        if given is not None and given.ndim == 1:
            given = given.expand(n, -1)
        shape = (self.encoder.in_channels, self.encoder.image_size, self.encoder.image_size)

        def paint(start: int) -> Tensor:
            rows = slice(start, min(start + BATCH, n))
            words = None if given is None else given[rows]

            def step(x: Tensor, t: int, s: int) -> Tensor:
                x0 = self.estimate(x, t, words, guidance_scale=guidance_scale)[0].clamp(-1, 1)
                return self.diffusion.step(x0, self.diffusion.epsilon_of(x, t, x0), t, s, eta)

            noise = torch.randn(rows.stop - start, *shape, device=device)
            return self.diffusion.reverse(step, noise, times)

        with evaluating(self.encoder):
            images = torch.cat([paint(start) for start in range(0, n, BATCH)])
        return (images / 2 + 0.5).clamp(0, 1)


def hide_words(tokens: Tensor, largest: float, phrase_length: int) -> Tensor:
    """Prompts (n, phrases * phrase_length) with some kinds of words left out of all their phrases, as token 0.

    A kind is a place in the phrase, such as colour. Of each prompt a share of the kinds is hidden that is itself drawn
    from 0 to `largest`, so that full descriptions and single words are both seen often.
    """
    share = largest * torch.rand(len(tokens), 1, device=tokens.device)
    hidden = torch.rand(len(tokens), phrase_length, device=tokens.device) < share
    return tokens.masked_fill(hidden.repeat(1, tokens.shape[1] // phrase_length), 0)


@checked("a set of phrases has no order, but which word stands in which phrase matters", tolerance=1e-3)
def phrases_bind() -> tuple[float, float]:
    """How far what the network makes of "red ring, blue cross" lies from what it makes of "cross blue, ring red".

    As a share of how far it lies from what it makes of "blue ring, red cross".
    """
    from tacit.data import composition_prompt

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = ConditionalUNet(8, 3, width=8, attention=(8, 4), multipliers=(1, 2), n_tokens=len(COMPOSITION_WORDS))
        for parameter in network.out.parameters():  # which start near 0
            torch.nn.init.normal_(parameter, std=0.3)
        x = torch.randn(1, 3, 8, 8)
    prompts = [("red ring", "blue cross"), ("cross blue", "ring red"), ("blue ring", "red cross")]
    with torch.no_grad():
        one, same, other = (
            network.eval().denoise(x, 500, torch.from_numpy(composition_prompt(*prompt))[None]) for prompt in prompts
        )
    return ((one - same).abs().max() / (one - other).abs().max()).item(), 0.0


# What claims share ----------------------------------------------------------------------------------------------------


def composed_scenes(bench: Bench) -> Data:
    """4,000 described scenes of one to three shapes at 16 pixels, and 500 to score on.

    All claims that need a text-to-image model ask for these and for the same number of steps, so that each seed trains
    one for all of them (`painter`).
    """
    return bench.drawn(compositions, n=4000, n_test=500, modality="image", n_objects=(1, 3))


def painter(trial: Trial, part: Part) -> Any:
    """The seed's `TokenDDPM`, trained on `composed_scenes` once for all claims.

    In float32: so narrow a network gains nothing by bfloat16.
    """
    return trial.pretrained("token-ddpm", part, precision="32-true", channels_last=False)
