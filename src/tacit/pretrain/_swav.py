"""SwAV: Unsupervised Learning of Visual Features by Contrasting Cluster Assignments (Caron et al., 2020)."""

import warnings
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from tacit.catalogue import system
from tacit.claims import Bench, Comparison, claim
from tacit.data import Dataset
from tacit.errors import expect
from tacit.learner import Learner
from tacit.nn import Prototypes, Queue, encode_crops, mlp, sinkhorn, world_size
from tacit.views import multi_crop


@system("swav", paper="arXiv:2006.09882", modality="image")
class SwAV(Learner):
    """Each crop of an image predicts to which prototypes the two large crops were assigned, evenly over the batch.

        p_v = softmax over the prototypes of  z_v C^T / t                                              (eq. 2)
        Q   = the plan with equal marginals that maximises  <Q, Z C^T> + epsilon H(Q)                  (eqs. 3 to 5)
        loss = mean over the large crops i and all crops v != i of  -sum over k of q_ik log p_vk       (eqs. 1 and 6)

    with z and the rows of C of length 1, and q the rows of Q scaled to sum to 1, without gradient. (Eq. 6 sums over the
    pairs of crops; the mean is the authors' code's.) Three iterations of Sinkhorn end on the samples: each q is a
    distribution exactly, the prototypes are used evenly up to what three iterations leave.

    A batch smaller than the number of prototypes cannot use them evenly. Then take fewer, or a queue: the embeddings of
    earlier batches are assigned along with the batch, and only the batch's q is kept. It starts at `queue_start` and is
    used once it is full.

    Args:
        encoder: images (n, c, h, w) of several sizes -> (n, encoder.dim); what the user keeps.
        views: batch -> [large crop, large crop, any others...]; by default the paper's multi-crop, and for
            `local_crops=0` two crops of 8 to 100 % of the area, as in the authors' runs without.
        embed_dim: width of z.
        hidden_dim: width of the projector's hidden layer.
        n_prototypes: K.
        local_crops: how many small crops.
        scale_split: share of the area below which the small crops lie (from 5 %) and above which the large.
        temperature: t, above 0.
        epsilon: weight of the entropy, above 0.
        queue_size: earlier embeddings kept for each of the large crops; 0 is none.
        queue_start: share of the training after which the queue fills.
        freeze_prototypes: share of the training in which C stays as it was drawn; one epoch in the paper.

    Batches hold at least 2 images.

    Raises:
        ArgumentError: a value out of range.

    Warns:
        UserWarning: batch and queue together are fewer than the prototypes, or the queue is larger than the data.

    >>> from tacit.nn import ResNet
    >>> learner = SwAV(ResNet(8, width=8, image_size=16), hidden_dim=32, n_prototypes=4, local_crops=2)
    >>> bool(learner.loss(torch.rand(4, 3, 16, 16)) > 0)
    True
    """

    no_gradient: ClassVar = {"prototypes.weight": "frozen in the first share of the training"}

    settings: ClassVar = {
        "paper": {
            "optimizer": "lars",
            "lr": 4.8,
            "batch_size": 4096,
            "epochs": 800,
            "weight_decay": 1e-6,
            "warmup": 0.0125,
            "freeze_prototypes": 0.00125,
        },
        "small": {
            "optimizer": "adamw",
            "lr": 3e-3,
            "batch_size": 128,
            "weight_decay": 1e-4,
            "warmup": 0.05,
            "hidden_dim": 512,
            "n_prototypes": 64,
            "local_crops": 4,
            "scale_split": 0.3,
            "temperature": 0.2,
            "freeze_prototypes": 0.05,
        },
        "search": {"scale_split": [0.14, 0.3, 0.5], "temperature": [0.1, 0.2], "epsilon": [0.03, 0.05, 0.1]},
    }

    def __init__(
        self,
        encoder: nn.Module,
        *,
        views: nn.Module | None = None,
        embed_dim: int = 128,
        hidden_dim: int = 2048,
        n_prototypes: int = 3000,
        local_crops: int = 6,
        scale_split: float = 0.14,
        temperature: float = 0.1,
        epsilon: float = 0.05,
        queue_size: int = 0,
        queue_start: float = 0.0375,
        freeze_prototypes: float = 0.0025,
    ) -> None:
        super().__init__()
        expect("temperature", temperature, temperature > 0, "a number above 0")
        expect("epsilon", epsilon, epsilon > 0, "a number above 0")
        expect("queue_size", queue_size, queue_size >= 0, "a number of embeddings, or 0 for no queue")
        expect("scale_split", scale_split, 0.05 < scale_split < 1, "a share of the area above 0.05 and below 1")
        self.encoder = encoder
        self.views = _crops(encoder, local_crops, scale_split) if views is None else views
        self.projector = mlp(encoder.dim, hidden_dim, embed_dim)
        self.prototypes = Prototypes(embed_dim, n_prototypes)
        self.queues = nn.ModuleList(Queue(queue_size, embed_dim) for _ in range(2 if queue_size else 0))
        self.register_buffer("queued", torch.zeros((), dtype=torch.int64))
        self.temperature, self.epsilon, self.queue_size = temperature, epsilon, queue_size
        self.queue_start, self.freeze_prototypes = queue_start, freeze_prototypes
        self._warned = False

    def before_fit(self, data: Dataset) -> None:
        if self.queue_size > len(data):
            warnings.warn(
                f"queue_size={self.queue_size}: more than the {len(data)} images, which it then holds several times; "
                "take a small share of the data",
                stacklevel=2,
            )

    def loss(self, x: Tensor) -> Tensor:
        embeddings = self._project(self.views(x))
        scores = [self._score(z) for z in embeddings]
        self._large = [z.detach() for z in embeddings[:2]]
        codes = [self._codes(number, scores[number]) for number in range(2)]
        return swapped_prediction(scores, codes, self.temperature)

    def after_step(self, progress: float) -> None:
        if progress < self.queue_start:
            return
        for queue, embeddings in zip(self.queues, self._large, strict=False):
            queue.push(embeddings)
        self.queued += len(self._large[0]) * world_size()

    def _project(self, crops: Sequence[Tensor]) -> Sequence[Tensor]:
        """The projector sees all crops at once, as in the authors' code: its batch statistics are common."""
        encoded = encode_crops(self.encoder, crops)
        return self.projector(torch.cat(encoded)).split([len(z) for z in encoded])

    def _score(self, z: Tensor) -> Tensor:
        if self.progress >= self.freeze_prototypes:
            return self.prototypes(z)
        return functional_call(self.prototypes, {"weight": self.prototypes.weight.detach()}, (z,))

    @torch.no_grad()
    def _codes(self, number: int, scores: Tensor) -> Tensor:
        """q of one large crop, (n, n_prototypes): with the queue's embeddings, once it is full."""
        n, n_prototypes = scores.shape
        self._warn_if_few(n, n_prototypes)
        if not self.queue_size or self.queued < self.queue_size:
            return assign(scores, self.epsilon)
        earlier = self.prototypes(self.queues[number].items)
        # each process brings the same queue: it counts once
        weights = torch.cat([earlier.new_full((len(earlier),), 1 / world_size()), earlier.new_ones(n)])
        return assign(torch.cat([earlier, scores.to(earlier.dtype)]), self.epsilon, weights)[-n:]

    def _warn_if_few(self, n: int, n_prototypes: int) -> None:
        assigned = n * world_size() + self.queue_size
        if assigned < n_prototypes and not self._warned:
            self._warned = True
            warnings.warn(
                f"n_prototypes={n_prototypes}: more than the {assigned} embeddings assigned at a time, so that they "
                "cannot be used evenly; take fewer, a larger batch, or a queue (queue_size)",
                stacklevel=4,
            )


def assign(scores: Tensor, epsilon: float = 0.05, weights: Tensor | None = None) -> Tensor:
    """Codes: soft assignments that use the prototypes evenly, (n, k) -> (n, k), each row of sum 1 (eqs. 3 to 5).

    >>> assign(torch.tensor([[0.9, 0.8], [0.9, 0.1]])).argmax(1).tolist()  # both prefer the first
    [1, 0]
    """
    if weights is not None:
        scores = scores + epsilon * weights.log()[:, None]  # so that the first iteration knows them, too
    plan = sinkhorn(scores, epsilon=epsilon, rows=weights)
    return plan / plan.sum(1, keepdim=True)


def swapped_prediction(scores: Sequence[Tensor], codes: Sequence[Tensor], temperature: float = 0.1) -> Tensor:
    """Mean cross-entropy of each code with the predictions of every other crop (eqs. 1, 2 and 6).

    Args:
        scores: cosines of each crop with the prototypes, (n, k) each.
        codes: assignments of the first crops, (n, k) each of sum 1, without gradient.
        temperature: divides the scores; above 0.

    >>> even = [torch.zeros(3, 4)] * 3
    >>> round(swapped_prediction(even, [torch.eye(4)[:3]] * 2).exp().item(), 4)  # log k at chance
    4.0
    """
    log_p = F.log_softmax(torch.stack(list(scores)).float() / temperature, dim=2)
    others = log_p.sum(0) - log_p[: len(codes)]  # of all crops but the code's own
    return -(torch.stack(list(codes)) * others).sum(2).mean() / (len(scores) - 1)


def _crops(encoder: nn.Module, local_crops: int, split: float) -> nn.Module:
    large = (split, 1.0) if local_crops else (0.08, 1.0)
    return multi_crop(
        encoder.image_size,
        channels=encoder.in_channels,
        local_crops=local_crops,
        scale=large,
        local_scale=(0.05, split),
    )


@claim(
    "learns better than SimCLR where batches are small, for the same computation",
    reported="72.7 % ImageNet top-1 at batch 256 after 200 epochs (the authors' model zoo), against SimCLR's 61.9 %",
    proxy="a ResNet-8 on 5,000 images of CIFAR-10 at 16 pixels, at batch 64, in place of ImageNet",
    steps={"small": 500, "full": 50_000},
)
def small_batches(bench: Bench) -> Comparison:
    """Linear probe on unseen images. Two crops of 16 and four of 8 pixels are the pixels of three: SimCLR, with two
    crops a step, takes half as many steps again. The prototypes are as many as the images in a batch, so there is no
    queue. Eight trials on each side, on a validation part, found SimCLR's rate and SwAV's preset."""
    return bench.compare(
        SwAV,
        baseline="simclr",
        data=bench.images("cifar10", size=16, n=5000, n_test=5000),
        by="linear_probe",
        better_by=0.0,
        batch_size=64,
        baseline_settings={"lr": 4e-3, "max_steps": bench.pick(smoke=3, small=750, full=75_000)},
    )


@claim(
    "small crops beside the two large ones improve what is learned in as many epochs",
    reported="74.6 % ImageNet top-1 after 400 epochs, against 70.1 % with two crops alone (the authors' model zoo)",
    proxy="a ResNet-8 on 5,000 images of CIFAR-10 at 16 pixels, at batch 64, in place of ImageNet",
    steps={"small": 500, "full": 50_000},
)
def multi_crop_helps(bench: Bench) -> Comparison:
    """Linear probe on unseen images, at equal steps as in the paper: the four small crops cost half as much again."""
    return bench.compare(
        SwAV,
        baseline="swav",
        data=bench.images("cifar10", size=16, n=5000, n_test=5000),
        by="linear_probe",
        better_by=0.0,
        baseline_settings={"local_crops": 0},
        batch_size=64,
    )
