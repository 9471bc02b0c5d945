"""Unsupervised Learning of Foreground Object Detection (Croitoru, Bogolin & Leordeanu, 2018)."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tacit.applications._mask_networks import MaskQuality, drawn_anew, network
from tacit.applications._video_pca import VideoPCA, likely_regions
from tacit.catalogue import system
from tacit.claims import Bench, Comparison, Data, Part, Trial, Unseen, claim
from tacit.data import Dataset, as_dataset, clips
from tacit.embedding import evaluating
from tacit.errors import DataError, expect
from tacit.evaluate import mask_iou
from tacit.learner import Learner
from tacit.training import fit as train
from tacit.views import Compose, RandomHorizontalFlip, RandomResizedCrop, as_float

ROUND = 20
"""Steps of a round at most; a generation ends with a round."""
OTHERS = 4
"""One in so many items of a batch is drawn from all frames, for the net that judges masks."""


@system("foreground-generations", paper="arXiv:1808.04593", modality=("image", "video"))
class ForegroundStudent(Learner):
    """Students learn to see in one frame the object that a teacher found in the whole clip; then they are the teacher.

        loss = sum over students s of | s(frame) - teacher(frame) |^2, over frames whose mask was selected
               + | q(frame, s(frame)) - agreement of s(frame) with the others' masks |^2       (q alone moves by it)

        generation 1    the teacher is `VideoPCA`; the frames selected are the `keep_top` of them whose masks are the
                        most certain: the mean of what is above 0 in a mask                     (module C)
        generation 2... the teacher is the mean of the students' masks, cut at their borders as VideoPCA's are; selected
                        are the `keep_later` of all frames that q thinks best; students and q begin anew from random
                        weights                                                                 (algorithm 1)

    Agreement is the soft IoU, sum of minima over sum of maxima, with the mean mask of the other students; no label is
    read anywhere. Each generation has the same share of the steps. q is trained on frames that were not selected, too.

    Differs from the paper: two small students in place of five; they see colours alone, not gradients and hue beside
    them; their masks are averaged. More data in later generations is a larger share of the same frames. How the paper
    measures agreement and joins the students' masks could not be read: both are ours, and so is the cut, without which
    borders grow softer and wider from generation to generation.

    Args:
        image_size: side in pixels that is trained at; `predict_mask` takes any.
        in_channels: 1 for grey, 3 for colour.
        students: names with commas, or a sequence of them: `unet`, `fcn`. The first one is the encoder that is kept.
        generations: at least 1; from 2 on there have to be two students, whose agreement q learns.
        keep_top: share of the frames that the first generation learns from, in (0, 1].
        keep_later: the same for later generations.
        width: channels of the students' first layers.
        video_teacher: clip (t, c, h, w) -> masks (t, 1, h, w) in [0, 1]; `VideoPCA()` if None.
        views: image and mask as channels of one batch -> the same, moved; a crop and a flip if None.

    Attributes:
        generation: the one that is trained, from 1.

    Raises:
        ArgumentError: a setting that cannot be.
        DataError: no clip in which anything moves.

    >>> from tacit.data import clips
    >>> learner = ForegroundStudent(16, width=4).fit(clips(36, image_size=16), max_steps=2, batch_size=8)
    >>> learner.predict_mask(torch.zeros(3, 20, 30, dtype=torch.uint8)).shape
    torch.Size([20, 30])
    """

    settings: ClassVar = {
        "paper": {
            "optimizer": "adamw",
            "lr": 1e-3,
            "schedule": "constant",
            "warmup": 0.0,
            "weight_decay": 0.0,
            "batch_size": 32,
            "keep_top": 0.1,
            "keep_later": 0.1,
        },
        "small": {
            "optimizer": "adamw",
            "lr": 2e-3,
            "betas": (0.9, 0.99),  # of the squared gradients little is remembered when a generation begins anew
            "schedule": "constant",
            "warmup": 0.0,
            "weight_decay": 0.0,
            "batch_size": 32,
        },
    }

    targets: Tensor
    chosen: Tensor
    generation: Tensor

    def __init__(
        self,
        image_size: int = 32,
        in_channels: int = 3,
        *,
        students: str | Sequence[str] = "unet,fcn",
        generations: int = 2,
        keep_top: float = 0.2,
        keep_later: float = 0.5,
        width: int = 16,
        video_teacher: VideoPCA | None = None,
        views: nn.Module | None = None,
    ) -> None:
        super().__init__()
        names = [name.strip() for name in students.split(",")] if isinstance(students, str) else list(students)
        expect("students", students, len(names) >= 1, "at least one")
        expect("generations", generations, generations >= 1, "at least 1")
        enough, remedy = generations == 1 or len(names) >= 2, "a later generation is chosen by their agreement"
        expect("students", students, enough, "at least two", remedy)
        for name, share in (("keep_top", keep_top), ("keep_later", keep_later)):
            expect(name, share, 0 < share <= 1, "a share above 0 and at most 1")
        if not isinstance(students, str):  # as a run's config.json holds them
            self.__dict__["arguments"] = {**self.arguments, "students": ",".join(names)}
        self.generations, self.keep_top, self.keep_later = generations, keep_top, keep_later
        self.image_size, self.in_channels = image_size, in_channels
        self.encoder, *others = (network(name, image_size, in_channels, width) for name in names)
        self.others = nn.ModuleList(others)
        self.quality = MaskQuality(in_channels, width) if generations > 1 else None
        self.video_teacher = VideoPCA() if video_teacher is None else video_teacher
        self.views = _crop_and_flip(image_size) if views is None else views
        self.register_buffer("targets", torch.zeros(0, 1, image_size, image_size, dtype=torch.uint8))
        self.register_buffer("chosen", torch.zeros(0, dtype=torch.bool))
        self.register_buffer("generation", torch.ones((), dtype=torch.int64))

    @property
    def students(self) -> list[Any]:
        return [self.encoder, *self.others]

    def fit(self, clips: Any, **training: Any) -> Self:
        """Train by `tacit.fit`, 600 steps by the settings `small` unless others are given; returns the learner.

        Args:
            clips: a sequence of clips (t, c, h, w), uint8 or float in [0, 1]; or a mapping or Dataset of frames with
                the columns x (n, c, h, w) and clip (n,), such as `tacit.data.clips` draws and
                `tacit.data.open(folder, modality="video").dataset` reads.
        """
        preset = {name: value for name, value in self.settings["small"].items() if name not in self.arguments}
        length = {} if {"epochs", "max_steps"} & set(training) else {"max_steps": 600}
        train(self, _frames_of(clips), **{**preset, **length, **training})
        return self

    @torch.no_grad()
    def predict_mask(self, image: Tensor | np.ndarray) -> Tensor:
        """Soft mask of the object in one image (c, h, w) -> (h, w), or in many (n, c, h, w) -> (n, h, w).

        The students see images with a shorter side of `image_size` pixels and the masks come back at the size given.

        Args:
            image: uint8, or float in [0, 1].

        Returns:
            float in [0, 1], about the share of certainty; 0.5 is where `tacit segment` draws the border.
        """
        x = image if isinstance(image, Tensor) else torch.from_numpy(np.array(image))
        expect("image.shape", tuple(x.shape), x.ndim in (3, 4), "(c, h, w), or (n, c, h, w)")
        batch = self._readable(x if x.ndim == 4 else x[None])
        size = [max(1, round(side * self.image_size / min(x.shape[-2:]))) for side in x.shape[-2:]]
        small = F.interpolate(batch, size, mode="bilinear", antialias=True) if size != [*x.shape[-2:]] else batch
        with evaluating(self):
            masks = torch.cat([self._masks(part.clamp(0, 1)).mean(0) for part in small.split(256)])
        masks = F.interpolate(masks, x.shape[-2:], mode="bilinear") if masks.shape[2:] != x.shape[-2:] else masks
        masks = masks[:, 0].clamp(0, 1).float()
        return masks if x.ndim == 4 else masks[0]

    def before_fit(self, data: Dataset) -> None:
        """Generation 1: what the teacher sees in the clips, and its most certain masks."""
        clip = data["clip"][:]
        self.generation.fill_(1)
        self.targets = self.targets.new_zeros(len(data), *self.targets.shape[1:])
        done = 0
        for number in clip.unique():
            rows = (clip == number).nonzero()[:, 0]
            masks = self.video_teacher(as_float(data["x"][rows], self.image_size))
            self.targets[rows] = (255 * masks).round().to(self.targets)
            done += len(rows)
            if data.on_chunk is not None:
                data.on_chunk(done, len(data))
        certainty = mean_activation(self.targets)
        if not bool((certainty > 0).any()):
            raise DataError(f"{len(data):,} frames of {len(clip.unique()):,} clips: nothing moves in any of them")
        self.chosen = _best(certainty, self.keep_top, certainty > 0)

    def before_epoch(self, data: Dataset) -> None:
        due = min(1 + int(self.progress * self.generations), self.generations)
        if due > int(self.generation):
            self.teach(data)

    @torch.no_grad()
    def teach(self, data: Dataset) -> None:
        """A new generation: the students' mean masks teach it, the best by q are selected, and all begin anew."""
        assert self.quality is not None
        scores, start = [], 0
        with evaluating(self):
            for x in data.chunks("x", 256):
                frames = as_float(x.to(self.targets.device), self.image_size)
                masks = clean(self._masks(frames).mean(0))
                scores.append(self.quality(frames, masks).float())
                self.targets[start : start + len(x)] = (255 * masks).round().to(self.targets)
                start += len(x)
        self.chosen = _best(torch.cat(scores), self.keep_later, mean_activation(self.targets) > 0)
        for module in (*self.students, self.quality):
            drawn_anew(module)
        self.generation += 1

    def batches(self, data: Dataset, batch_size: int, generator: torch.Generator) -> Sequence[Tensor]:
        """Of the selected frames, and a few of all for q, again and again."""
        count = max(1, min(ROUND, len(data) // batch_size))
        others = batch_size // OTHERS if self.quality is not None else 0
        before = torch.ones(len(data), dtype=torch.bool)  # before anything was selected
        selected = (self.chosen.cpu() if len(self.chosen) else before).nonzero()[:, 0]
        parts = [(selected, batch_size - others), (torch.arange(len(data)), others)]
        return torch.cat([_rounds(items, count, each, generator) for items, each in parts], 1).unbind()

    def loss(self, x: Tensor, clip: Tensor, index: Tensor) -> Tensor:  # type: ignore[override]
        """`clip` is named for `before_fit`, which finds the clips by it."""
        frames = as_float(x, self.image_size)
        seen = self.views(torch.cat([frames, self.targets[index] / 255.0], 1))
        image, target = seen[:, :-1], seen[:, -1:]
        found = [student.masks(image).float() for student in self.students]
        taught = self.chosen[index].float()
        errors = torch.stack([(mask - target).square().mean((1, 2, 3)) for mask in found])
        loss = (errors * taught).sum() / taught.sum().clamp(min=1)
        if self.quality is None or int(self.generation) == self.generations:
            return loss
        return loss + self._judgement(image, torch.stack(found).detach().clamp(0, 1))

    def after_step(self, progress: float) -> None:
        if progress >= 1:  # a run does not keep what it learned from
            self.targets, self.chosen = self.targets[:0], self.chosen[:0]

    def _judgement(self, image: Tensor, masks: Tensor) -> Tensor:
        """The error of q on each student's masks (s, n, 1, h, w)."""
        assert self.quality is not None
        others = (masks.sum(0) - masks) / (len(masks) - 1)
        judged = self.quality(image.repeat(len(masks), 1, 1, 1), masks.flatten(0, 1))
        return (judged.float() - soft_iou(masks, others).flatten()).square().mean()

    def _masks(self, frames: Tensor) -> Tensor:
        """Of each student, in [0, 1]: (s, n, 1, h, w)."""
        return torch.stack([student.masks(frames).float().clamp(0, 1) for student in self.students])

    def _readable(self, x: Tensor) -> Tensor:
        """Float in [0, 1], of the students' channels, where they are."""
        x = x.to(self.targets.device)
        x = x.float() / 255 if x.dtype == torch.uint8 else x.float()
        if x.shape[1] == self.in_channels:
            return x
        remedy = "only grey and colour are converted"
        expect("channels", x.shape[1], {x.shape[1], self.in_channels} == {1, 3}, f"{self.in_channels}", remedy)
        weights = x.new_tensor([0.299, 0.587, 0.114])[:, None, None]
        return x.expand(-1, 3, -1, -1) if self.in_channels == 3 else (x * weights).sum(1, keepdim=True)


def clean(masks: Tensor, *, low: float = 0.5, high: float = 0.8) -> Tensor:
    """Soft masks (n, 1, h, w) within their likely regions, scaled to a maximum of 1, as `VideoPCA` leaves them."""
    maps = masks[:, 0].cpu().numpy()
    kept = torch.from_numpy(maps * likely_regions(maps, low, high))[:, None].to(masks)
    return kept / kept.amax((1, 2, 3), keepdim=True).clamp(min=1e-6)


def mean_activation(masks: Tensor) -> Tensor:
    """The mean of what is above 0 in each mask (n, 1, h, w), 0 where nothing is: float (n,)."""
    flat = masks.flatten(1).float()
    return flat.sum(1) / (flat > 0).sum(1).clamp(min=1)


def soft_iou(a: Tensor, b: Tensor) -> Tensor:
    """Sum of minima over sum of maxima of masks (..., 1, h, w) in [0, 1]: (...); 1 where both are empty."""
    both, either = torch.minimum(a, b).sum((-3, -2, -1)), torch.maximum(a, b).sum((-3, -2, -1))
    return torch.where(either > 0, both / either.clamp(min=1e-6), 1.0)


def _best(score: Tensor, share: float, usable: Tensor) -> Tensor:
    """Which frames have the highest scores, of those with a mask at all, one at least: bool (n,)."""
    count = max(1, min(round(share * len(score)), int(usable.sum())))
    best = score.masked_fill(~usable, -torch.inf).topk(count).indices
    return torch.zeros_like(usable).index_fill(0, best, True)


def _rounds(items: Tensor, count: int, each: int, generator: torch.Generator) -> Tensor:
    """`count` times `each` of the items, (count, each): all of them in a new order, then again."""
    orders = [items[torch.randperm(len(items), generator=generator)] for _ in range(-(-count * each // len(items)))]
    return torch.cat([*orders, items[:0]])[: count * each].view(count, each)


def _crop_and_flip(image_size: int) -> nn.Module:
    """A crop of 80 % of each side, as the authors' code has it, and up to all of it; and a mirror."""
    return Compose(RandomResizedCrop(image_size, scale=(0.64, 1.0), ratio=(1.0, 1.0)), RandomHorizontalFlip())


def _frames_of(clips: Any) -> Dataset:
    """Frames with the column clip, of whatever holds clips."""
    if isinstance(clips, Mapping):
        return Dataset({name: clips[name] for name in ("x", "clip") if name in clips}, modality="image")
    if isinstance(clips, Sequence) and not isinstance(clips, str):
        held = [torch.as_tensor(clip) for clip in clips]
        expect("clips", len(held), bool(held) and all(clip.ndim == 4 for clip in held), "clips (t, c, h, w)")
        numbers = torch.repeat_interleave(torch.arange(len(held)), torch.tensor([len(clip) for clip in held]))
        return Dataset({"x": torch.cat(held), "clip": numbers}, modality="image")
    return as_dataset(clips)


def drawn_clips(bench: Bench) -> Data:
    """300 drawn clips of 12 frames to learn from, and 50 others: shapes on their way over places that move."""
    n, n_test = bench.pick(smoke=120, small=3600), bench.pick(smoke=60, small=600)
    return bench.drawn(clips, n=n, n_test=n_test, modality="image", inputs=("clip",))


def held_out_iou(learner: ForegroundStudent, train: Part, unseen: Unseen) -> float:
    """Mean IoU of the masks of frames seen one by one, at a threshold of 1/2."""
    return unseen.score(learner.predict_mask(unseen.x), by=lambda y, masks: float(mask_iou(y, masks).mean()))


@claim(
    "students of a second generation, taught by the first, are better than the first",
    reported="each generation improves on the one before, by selection, several students and more data (abstract and "
    "experiments); the tables could not be read here",
    proxy="drawn clips of 32 pixels and students of 8 channels, in place of films and large networks; no more clips, "
    "but half of the frames in place of a fifth",
    steps={"small": 600, "full": 6000},
)
def second_generation_is_better(bench: Bench) -> Comparison:
    """IoU on frames of unseen clips, each generation trained for half of the steps, as the paper compares them."""
    return _second_against_first(bench, share=0.5)


@claim(
    "a second generation is worth its steps",
    reported="not compared at equal cost in what could be read of the paper",
    proxy="as above; what a reader would ask next: the first generation, trained for as long as both together",
    steps={"small": 600, "full": 6000},
)
def second_generation_is_worth_its_steps(bench: Bench) -> Comparison:
    """IoU on frames of unseen clips, equal steps in all."""
    return _second_against_first(bench, share=1.0)


def _second_against_first(bench: Bench, share: float) -> Comparison:
    """Against a first generation that is trained for a share of the steps."""
    data = drawn_clips(bench)

    def scores(trial: Trial) -> tuple[float, float]:
        train, unseen = trial.split(data)
        second = trial.pretrained(ForegroundStudent, train, width=8, generations=2)
        steps = max(1, round(share * trial.steps))
        first = trial.pretrained(ForegroundStudent, train, width=8, generations=1, max_steps=steps)
        return held_out_iou(second, train, unseen), held_out_iou(first, train, unseen)

    return bench.trials(
        scores,
        baseline="the first generation",
        better_by=0.0,
        setting="two students of 8 channels, 300 clips of 12 frames of 32 pixels",
    )


@claim(
    "a net that never saw a label tells good masks from bad ones",
    reported="selection by EvalSeg-Net keeps the good masks of the students; no number could be read here",
    proxy="drawn clips of 32 pixels; a small net, and the tenth of the masks that it thinks best",
    steps={"small": 200, "full": 2000},
)
def quality_is_seen_without_labels(bench: Bench) -> Comparison:
    """IoU of the students' masks of unseen frames: the tenth that q thinks best against all of them."""
    data = drawn_clips(bench)

    def selected(trial: Trial) -> tuple[float, float]:
        train, unseen = trial.split(data)
        learner = trial.fit(trial.build(_FirstGeneration, train, width=8, generations=2), train)
        masks, score = learner.judged(as_float(unseen.x, learner.image_size))
        best = score.topk(max(1, len(score) // 10)).indices

        def mean(rows: Tensor) -> float:
            return unseen.score(masks, by=lambda y, found: float(mask_iou(y, found)[rows].mean()))

        return mean(best), mean(torch.arange(len(score)))

    return bench.trials(selected, baseline="all masks", better_by=0.0, setting="two students of 8 channels, 32 pixels")


class _FirstGeneration(ForegroundStudent):
    """Stays in the first generation, with the q that was trained beside it."""

    system_id = "foreground-first-generation"

    def before_epoch(self, data: Dataset) -> None:
        pass

    @torch.no_grad()
    def judged(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """The students' mean masks of frames (n, c, h, w), and what q thinks of them (n,)."""
        assert self.quality is not None
        with evaluating(self):
            masks = self._masks(frames).mean(0)
            return masks, self.quality(frames, masks).float()
