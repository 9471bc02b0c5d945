"""ConceptExpress: Harnessing Diffusion Models for Single-image Unsupervised Concept Extraction (Hao et al., 2024)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tacit.catalogue import system
from tacit.claims import Bench, Comparison, Picture, Trial, claim, drawing
from tacit.data import compositions
from tacit.embedding import evaluating
from tacit.errors import ArgumentError, DataError, expect
from tacit.generate._concept_masks import Masks, concept_masks
from tacit.generate._token_ddpm import TokenDDPM, composed_scenes, painter
from tacit.nn import ConditionalUNet
from tacit.views import as_float

BLUR = 0.5
"""Weight of the entropy in the distance between attention maps, in places."""


class Concept(NamedTuple):
    """A part of the image that the model has a phrase for: where it is, bool (side, side), and the phrase (t, dim)."""

    mask: Tensor
    tokens: Tensor


@system("conceptexpress", paper="arXiv:2407.07077", modality="image", kind="function", level="mechanism")
class ConceptExpress:
    """The concepts in one image, without anybody saying how many or where, each with words that draw it again.

    Where (`concept_masks`): the rows of the model's self-attention on the image, given the empty prompt, are merged by
    first neighbours; clusters that words do not heed are dropped; the others merge once more.

    What: each concept gets `n_splits` phrases of learnable embeddings, begun as random words. While they are split,

        loss = | mask (target - denoiser(x_t, t, phrase)) |^2 + attention_weight W(A_phrase, F) + contrast_weight L_con

    with A_phrase the cross-attention to the phrase and F the concept's mean self-attention, both distributions over
    places, W the transport distance between them, and L_con the supervised contrastive loss, in which phrases of the
    same concept are positives. At `merge_at` of the steps each concept's phrases are averaged, and the average learns
    on without L_con; from there all concepts together, their masks united, are one more prompt.

    What differs from the authors' code, which tunes tokens of Stable Diffusion: pixels for latents; a phrase of
    `phrase_length` embeddings for a token, since a word of this vocabulary means one property only; all prompts of a
    step in one batch, not one after another; no mirrored images, since words may say left and right. The salience that
    they read off the attention to the empty prompt's end token is the attention to each word of the vocabulary against
    the padding beside it, a mean over words. One concept may be left, which their loop never gives.

    Args:
        diffusion: a trained `TokenDDPM`, which stays as it is.
        n_splits: phrases of a concept before they are merged; 1 is no split.
        merge_at: share of the steps at which they are.
        max_steps: of AdamW.
        lr: its rate. The code takes 5e-4, a thirtieth of the size of CLIP's embeddings.
        attention_weight, contrast_weight, temperature: of the loss, as in the code's script.
        at_least: clusters of the first round; see `concept_masks`.
        timestep: noise of the image whose attention is read; the least by default.
        random_state: of noise, times and first words; None: torch's global generator.

    Attributes:
        concepts_: list of `Concept`.
        masks_: bool (k, side, side).
        tokens_: (k, phrase_length, context_dim), embeddings that `diffusion.sample(tokens=...)` takes.
        losses_: of each step.

    Raises:
        ArgumentError: a model that is not told words, a number out of range.
        DataError: nothing in the image is salient.

    >>> model = TokenDDPM(ConditionalUNet(8, 3, width=8, multipliers=(1, 2), attention=(4,)), n_steps=20)
    >>> one = ConceptExpress(model, max_steps=2, n_splits=2, random_state=0).fit(torch.rand(3, 8, 8))
    >>> len(one.concepts_) == len(one.tokens_), one.generate(concept=0, num_steps=2).shape
    (True, torch.Size([1, 3, 8, 8]))
    """

    concepts_: list[Concept]
    masks_: Tensor
    tokens_: Tensor
    losses_: list[float]

    def __init__(
        self,
        diffusion: TokenDDPM,
        *,
        n_splits: int = 5,
        merge_at: float = 0.2,
        max_steps: int = 500,
        lr: float = 0.03,
        attention_weight: float = 1e-5,
        contrast_weight: float = 1e-3,
        temperature: float = 0.07,
        at_least: int = 10,
        timestep: int = 1,
        random_state: int | None = None,
    ) -> None:
        told = isinstance(getattr(diffusion, "encoder", None), ConditionalUNet)
        expect("diffusion", type(diffusion).__name__, told, "a model that is told words, such as TokenDDPM")
        expect("n_splits", n_splits, n_splits >= 1, "at least 1")
        expect("merge_at", merge_at, 0 <= merge_at <= 1, "a share in [0, 1]")
        expect("max_steps", max_steps, max_steps >= 1, "at least 1")
        self.diffusion, self.n_splits, self.merge_at, self.max_steps, self.lr = (
            diffusion, n_splits, merge_at, max_steps, lr,
        )  # fmt: skip
        self.attention_weight, self.contrast_weight, self.temperature = attention_weight, contrast_weight, temperature
        self.at_least, self.timestep, self.random_state = at_least, timestep, random_state

    def fit(self, image: Tensor, *, masks: Tensor | None = None) -> Self:
        """Find the concepts of one image and learn their phrases.

        Args:
            image: uint8 or float in [0, 1], (c, h, w) or (1, c, h, w).
            masks: bool (k, side, side), in place of those that are found; side of the finest map with attention.
        """
        with torch.random.fork_rng(enabled=self.random_state is not None, devices=[]), evaluating(self.diffusion):
            if self.random_state is not None:
                torch.manual_seed(self.random_state)
            x0 = 2 * as_float(_batch(image), self.diffusion.encoder.image_size).to(self._device) - 1
            found = self._find(x0) if masks is None else self._given(x0, masks)
            self.masks_, self.losses_ = found.masks, []
            self.tokens_ = self._learn(x0, found)
        self.concepts_ = [Concept(*each) for each in zip(self.masks_, self.tokens_, strict=True)]
        return self

    def sample(
        self,
        n: int = 1,
        *,
        concept: int | Sequence[int] = 0,
        num_steps: int = 50,
        guidance_scale: float = 0.0,
    ) -> Tensor:
        """New images of one concept, or of several together: float (n, c, h, w) in [0, 1].

        Raises:
            ArgumentError: before `fit`, or a number that no concept has.
        """
        if not hasattr(self, "tokens_"):
            raise ArgumentError("sample: no image has been seen yet: call fit(image) first")
        numbers = [concept] if isinstance(concept, int) else list(concept)
        known = all(0 <= number < len(self.tokens_) for number in numbers)
        expect("concept", concept, bool(numbers) and known, f"numbers from 0 to {len(self.tokens_) - 1}")
        prompt = self._prompts([self.tokens_[numbers]])
        words: Any = {"num_steps": num_steps, "guidance_scale": guidance_scale}
        return self.diffusion.sample(n, tokens=prompt.expand(n, -1, -1), **words)

    def generate(self, concept: int | Sequence[int] = 0, n: int = 1, **words: Any) -> Tensor:
        """`sample`, with the concept first."""
        return self.sample(n, concept=concept, **words)

    def count(self, image: Tensor) -> int:
        """How many concepts the image has, without learning phrases for them; 0 where nothing is salient."""
        x0 = 2 * as_float(_batch(image), self.diffusion.encoder.image_size).to(self._device) - 1
        with torch.random.fork_rng(enabled=self.random_state is not None, devices=[]), evaluating(self.diffusion):
            if self.random_state is not None:
                torch.manual_seed(self.random_state)
            try:
                return len(self._find(x0).masks)
            except DataError:
                return 0

    # where ------------------------------------------------------------------------------------------------------------

    def _find(self, x0: Tensor) -> Masks:
        rows, salience = self.attention(x0)
        return concept_masks(rows, salience, at_least=self.at_least)

    def _given(self, x0: Tensor, masks: Tensor) -> Masks:
        rows, _ = self.attention(x0)
        side = round(len(rows) ** 0.5)
        fits = masks.shape[1:] == (side, side) and len(masks) >= 1 and bool(masks.flatten(1).any(1).all())
        expect("masks", tuple(masks.shape), fits, f"bool (k, {side}, {side}), none of them empty")
        masks = masks.bool().to(rows.device)
        return Masks(masks, torch.stack([rows[mask.flatten()].mean(0) for mask in masks]))

    @torch.no_grad()
    def attention(self, x0: Tensor) -> tuple[Tensor, Tensor]:
        """Of one image (1, c, h, w) in [-1, 1]: where each place looks, (places, places), and how it heeds words.

        Maps of all blocks are averaged, weighted by their side; coarse ones are drawn larger first.
        """
        unet, process = self._unet, self.diffusion.diffusion
        x_t = process.noised(x0, self.timestep, torch.randn_like(x0))
        with unet.attention_maps() as maps:
            unet.denoise(x_t, self.timestep)
        own = [weights[0].mean(0) for weights in maps.own.values()]
        sides = [math.isqrt(len(weights)) for weights in own]
        side = max(sides)
        weighted = [_enlarged(weights, side) * each for weights, each in zip(own, sides, strict=True)]
        rows = torch.stack(weighted).sum(0) / sum(sides)
        length, words = unet.config["phrase_length"], torch.arange(1, unet.config["n_tokens"], device=x0.device)
        alone = F.pad(words[:, None], (0, max(length - 1, 1)))  # a word and padding
        with unet.attention_maps() as maps:
            unet.denoise(x_t.expand(len(words), -1, -1, -1), self.timestep, alone)
        heeds = [each[..., 0].mean((0, 1)) for each in maps.cross.values() if each.shape[2] == side**2]
        return rows, torch.stack(heeds).mean(0)

    # what -------------------------------------------------------------------------------------------------------------

    def _learn(self, x0: Tensor, found: Masks) -> Tensor:
        """The phrases (k, phrase_length, dim)."""
        splits, merge = self.n_splits, round(self.merge_at * self.max_steps)
        phrases = self._first(splits * len(found.masks)).requires_grad_()
        optimizer = torch.optim.AdamW([phrases], self.lr)
        for step in range(self.max_steps):
            if step == merge and splits > 1:
                phrases = phrases.detach().unflatten(0, (splits, -1)).mean(0).requires_grad_()
                optimizer, splits = torch.optim.AdamW([phrases], self.lr), 1
            split = step < merge
            loss = self.loss(
                x0, Masks(*(each.repeat(splits, *[1] * (each.ndim - 1)) for each in found)), phrases, split
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            self.losses_.append(loss.item())
        return phrases.detach().unflatten(0, (splits, -1)).mean(0)

    def loss(self, x0: Tensor, found: Masks, phrases: Tensor, split: bool) -> Tensor:
        """Of an image (1, c, h, w) in [-1, 1]; a mask and features for each phrase; noise and times are drawn.

        Phrases are told one at a time; once they are merged and there are several, also all together.
        """
        unet, process = self._unet, self.diffusion.diffusion
        told = [[number] for number in range(len(phrases))]
        if not split and len(phrases) > 1:
            told.append([*range(len(phrases))])
        x = x0.repeat(len(told), 1, 1, 1)
        noise, t = torch.randn_like(x), torch.randint(1, process.n_steps + 1, (len(told),), device=x.device)
        side = found.masks.shape[-1]
        with unet.attention_maps() as maps:
            given = unet.denoise(process.noised(x, t, noise), t, self._prompts([phrases[each] for each in told]))
        seen = torch.stack([found.masks[each].any(0) for each in told])[:, None].float()
        seen = F.interpolate(seen, x.shape[-2:], mode="nearest")
        error = (seen * (given - process.target(x, noise))).square().mean((1, 2, 3))
        cross = torch.stack([each.mean(1) for each in maps.cross.values() if each.shape[2] == side**2]).mean(0)
        length, where, wanted = phrases.shape[1], [], []
        for row, each in enumerate(told):
            heard = cross[row, :, : len(each) * length].unflatten(1, (len(each), length)).sum(2)
            where.append(heard.T)
            wanted.append(found.features[each])
        apart = transport_distances(torch.cat(where), torch.cat(wanted))
        loss = error.mean() + self.attention_weight * apart.sum() / len(told)
        if split and self.n_splits > 1:
            labels = torch.arange(len(phrases), device=x.device) % (len(phrases) // self.n_splits)
            loss = loss + self.contrast_weight * supervised_contrast(phrases.flatten(1), labels, self.temperature)
        return loss

    def _first(self, n: int) -> Tensor:
        """Random words of the vocabulary in each place of n phrases."""
        unet = self._unet
        shape = (n, unet.config["phrase_length"])
        return unet.embed(torch.randint(1, unet.config["n_tokens"], shape, device=self._device)).detach().clone()

    def _prompts(self, phrases: Sequence[Tensor]) -> Tensor:
        """Prompts (n, t, dim) of one or more phrases each, (k, phrase_length, dim), filled up with empty ones."""
        unet = self._unet
        most, length = max(map(len, phrases)), phrases[0].shape[1]
        empty = unet.embed(torch.zeros(1, length, dtype=torch.int64, device=self._device))
        return torch.stack(
            [torch.cat([each, empty.expand(most - len(each), -1, -1)]).flatten(0, 1) for each in phrases]
        )

    @property
    def _unet(self) -> ConditionalUNet:
        return self.diffusion.encoder  # type: ignore[return-value]

    @property
    def _device(self) -> torch.device:
        return self.diffusion.diffusion.alpha_bar.device


def transport_distances(a: Tensor, b: Tensor, *, epsilon: float = BLUR, n_iters: int = 30) -> Tensor:
    """How far mass has to be moved on a square grid, in places, from a_i to b_i, both (n, places) above 0: (n,).

    The dual of entropic transport (Cuturi, 2013), its potentials found by Sinkhorn's iterations without gradient: of a
    the gradient is its potential. Rows are scaled to sum to 1.

    >>> a = torch.tensor([[1.0, 0, 0, 0]]); b = torch.tensor([[0.0, 0, 0, 1]])
    >>> transport_distances(a, b, epsilon=0.01).round(decimals=2)  # the diagonal of a 2 x 2 grid
    tensor([1.4100])
    """
    side = math.isqrt(a.shape[1])
    a, b = (each / each.sum(1, keepdim=True) for each in (a.clamp_min(1e-12), b.clamp_min(1e-12)))
    places = torch.cartesian_prod(torch.arange(side), torch.arange(side)).to(a)
    cost = torch.cdist(places, places)
    f, g = torch.zeros_like(a), torch.zeros_like(b)
    with torch.no_grad():
        log_a, log_b = a.log(), b.log()
        for _ in range(n_iters):
            g = epsilon * (log_b - torch.logsumexp((f[:, :, None] - cost) / epsilon, 1))
            f = epsilon * (log_a - torch.logsumexp((g[:, None] - cost) / epsilon, 2))
        plan = ((f[:, :, None] + g[:, None] - cost) / epsilon).exp()
        excess = (plan * (f[:, :, None] + g[:, None] - cost)).sum((1, 2))  # of the dual over what the plan costs
    return (f * a).sum(1) + (g * b).sum(1) - excess


def supervised_contrast(embeddings: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Each against all others, those of its label as positives (Khosla et al., 2020, eq. 2): (n, d), (n,) -> scalar.

    >>> x = torch.tensor([[1.0, 0], [1.0, 0], [0, 1.0], [0, 1.0]])
    >>> bool(supervised_contrast(x, torch.tensor([0, 0, 1, 1]), 0.1) < 1e-3)
    True
    """
    z = F.normalize(embeddings, dim=1)
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    log_shares = F.log_softmax((z @ z.T / temperature).masked_fill(itself, -torch.inf), 1).masked_fill(itself, 0)
    same = ((labels[:, None] == labels) & ~itself).float()
    return -((same * log_shares).sum(1) / same.sum(1).clamp_min(1)).mean()


def _enlarged(weights: Tensor, side: int) -> Tensor:
    """Attention between the places of a coarse grid, as between those of a fine one; rows stay distributions."""
    own = math.isqrt(len(weights))
    if own != side:
        weights = F.interpolate(weights.view(-1, 1, own, own), size=side, mode="bilinear").view(own, own, -1)
        weights = F.interpolate(weights.permute(2, 0, 1)[None], size=side, mode="nearest")[0].flatten(1).T
    return weights / weights.sum(1, keepdim=True)


def _batch(image: Tensor) -> Tensor:
    image = torch.as_tensor(image)
    image = image[None] if image.ndim == 3 else image
    expect("image", tuple(image.shape), image.ndim == 4 and len(image) == 1, "one image (c, h, w)")
    return image


# Claims ---------------------------------------------------------------------------------------------------------------


@claim(
    "how many concepts an image has is found by itself",
    reported="salient concepts are located and told apart automatically, by self-attention (abstract)",
    proxy="one to three drawn objects at 16 pixels, attention of 8 x 8 places of a U-Net of 0.24 million weights",
    steps={"small": 1000, "full": 10_000},
)
def concepts_are_counted(bench: Bench) -> Comparison:
    """Share of 200 unseen scenes whose number of concepts is the number of objects, against that of scenes which have
    two: the best that a constant does is about a third. One to three objects are equally frequent."""
    scenes, most = composed_scenes(bench), bench.pick(smoke=4, small=200)

    def both(trial: Trial) -> tuple[float, float]:
        part, unseen = trial.split(scenes)
        test = unseen.reveal().select(torch.arange(most))
        finder = ConceptExpress(painter(trial, part), random_state=trial.seed)
        counts = torch.tensor([finder.count(image) for image in test.x])
        true = test.columns["count"]
        return (counts == true).float().mean().item(), (true == 2).float().mean().item()

    return bench.trials(both, baseline="always two", better_by=0.0)


@claim(
    "concepts are drawn again better where their masks were found than where masks are random",
    reported="each token recreates one concept of the image, without any annotation (abstract)",
    proxy="the same phrases learned in random discs of the same number and size; 6 drawn scenes of two objects a seed, "
    "a DDPM of 1,000 steps and 100 steps of learning phrases",
    steps={"small": 1000, "full": 10_000},
)
def masks_make_concepts(bench: Bench) -> Comparison:
    """How often a picture of a concept shows its object's shape, and its colour: the mean of both, chance is 1/4.

    An object's concept is the one whose mask covers most of it. Four pictures of each are judged by ridge regression on
    pixels that has learned from 2,000 drawn pictures of one object; it is right on 85 % of drawn shapes and 95 % of
    colours.
    """
    scenes, pairs = composed_scenes(bench), bench.pick(smoke=1, small=6)
    steps = bench.pick(smoke=2, small=100)

    def both(trial: Trial) -> tuple[float, float]:
        part, _ = trial.split(scenes)
        model, judge = painter(trial, part), _Judge(trial.seed)
        drawn = compositions(pairs, seed=60_000 + trial.seed, n_objects=2)
        ours, theirs = [], []
        for number in range(pairs):
            one = ConceptExpress(model, max_steps=steps, random_state=trial.seed)
            truth = {name: torch.from_numpy(rows[number : number + 1])[0] for name, rows in drawn.items()}
            try:
                found = one.fit(truth["x"]).masks_
            except DataError:  # nothing stands out
                ours.append(0.0)
                theirs.append(0.25)
                continue
            ours.append(judge(one, truth))
            theirs.append(judge(one.fit(truth["x"], masks=_discs(found, trial.generator)), truth))
        return float(np.mean(ours)), float(np.mean(theirs))

    return bench.trials(both, baseline="random masks", better_by=0.0, setting="scenes of two objects")


@drawing(
    "Drawn scenes of two objects, the masks that were found in them (what is outside is darkened), and two pictures "
    "that each concept's phrase draws again.",
    steps={"small": 1000},
)
def concepts_drawn_again(bench: Bench, trial: Trial) -> Picture:
    part, _ = trial.split(composed_scenes(bench))
    one = ConceptExpress(painter(trial, part), max_steps=100, random_state=trial.seed)
    rows: list[list[Tensor]] = []
    for scene in torch.from_numpy(compositions(6, seed=80_000, n_objects=2)["x"]):
        row, image = [scene / 255], scene / 255
        for number, concept in enumerate(one.fit(scene).concepts_[:3]):
            shown = F.interpolate(concept.mask[None, None].float(), image.shape[-2:])[0]
            row += [image * (0.2 + 0.8 * shown), *one.generate(number, 2)]
        rows.append(row)
    longest = max(len(row) for row in rows)
    padded = [row + [torch.ones_like(row[0])] * (longest - len(row)) for row in rows]
    titles = [f"{word} {number}" for number in (1, 2, 3) for word in ("concept", "again", "again")]
    return trial.sheet(padded, titles=["scene", *titles][:longest])


class _Judge:
    """Shape and colour of pictures of one object, by ridge regression on pixels."""

    def __init__(self, seed: int) -> None:
        from sklearn.linear_model import RidgeClassifierCV

        drawn = compositions(2000, seed=70_000 + seed, n_objects=1)
        pixels = drawn["x"].reshape(2000, -1) / 255
        fitted = {name: RidgeClassifierCV(np.logspace(-1, 4, 11)) for name in ("shape", "colour")}
        self._fitted = {name: one.fit(pixels, drawn[name][:, 0]) for name, one in fitted.items()}

    def __call__(self, one: ConceptExpress, truth: dict[str, Tensor]) -> float:
        """The share of right answers over objects, their pictures, shapes and colours."""
        masks, right = one.masks_.float().cpu(), []
        for number in range(int(truth["count"])):
            here = (truth["instance"] == number + 1).float()[None, None]
            share = F.interpolate(here, masks.shape[-2:], mode="area")[0, 0]
            pictures = one.generate(int((masks * share).sum((1, 2)).argmax()), 4, num_steps=20).cpu()
            for name, judge in self._fitted.items():
                right.append(float((judge.predict(pictures.flatten(1).numpy()) == int(truth[name][number])).mean()))
        return float(np.mean(right))


def _discs(masks: Tensor, generator: torch.Generator) -> Tensor:
    """Discs around random places, each with as many places as the mask in its stead."""
    side = masks.shape[-1]
    places = torch.cartesian_prod(torch.arange(side), torch.arange(side)).float()
    centres = torch.rand(len(masks), 2, generator=generator) * (side - 1)
    nearest = torch.cdist(centres, places).argsort(1).argsort(1)
    return (nearest < masks.flatten(1).sum(1, keepdim=True).cpu()).view(-1, side, side)
