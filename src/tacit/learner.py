"""Learner: what a method that trains networks has to say, and no more."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from tacit.data import Dataset

Update = Callable[..., None]
"""`update(loss, *modules)` moves the parameters of `modules` (of the whole learner if none is named) down `loss`."""

PLAIN = (bool, int, float, str)


class Learner(nn.Module):
    """A method: its networks, its loss, and the upkeep between steps.

    It holds the algorithm's own hyper-parameters and nothing of the training (length, learning rate, devices), which
    belong to `tacit.fit` or to the user's own loop. Every method has a default; most systems write `loss` and
    perhaps `after_step`. What must survive a kill is a buffer or a parameter; a buffer whose size depends on the data
    is sized in `before_fit`, and takes its saved size when loaded. Randomness is torch's global generator only.

    Attributes:
        progress: share of the training done, in [0, 1]; kept up by `fit` and readable inside `loss`.
        arguments: the constructor's plain values (numbers, texts, truth values), given or by default, by name.
        settings: recipes by name, such as `{"paper": {"lr": 0.2, ...}}`: optimizer, lr, batch_size, epochs or
            max_steps, weight_decay, warmup, and constructor arguments. Data beside the algorithm, which never reads it.
        loss_falls: False where the loss of one repeated batch need not fall (GANs), with the reason in a comment.
        no_gradient: parameters that truly get no gradient, name -> reason.
        smallest_batch: items that a batch has to hold at least.
    """

    progress: float = 0.0
    arguments: Mapping[str, bool | int | float | str]
    settings: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    loss_falls: ClassVar[bool] = True
    no_gradient: ClassVar[Mapping[str, str]] = {}
    smallest_batch: ClassVar[int] = 2

    def __new__(cls, *args: Any, **kwargs: Any) -> Learner:
        """Note the constructor's plain arguments, from which a saved run is built again."""
        learner = super().__new__(cls)
        given = inspect.signature(cls.__init__).bind_partial(learner, *args, **kwargs)
        given.apply_defaults()  # a default may change in a later version
        plain = {name: value for name, value in given.arguments.items() if isinstance(value, PLAIN)}
        learner.__dict__["arguments"] = plain
        return learner

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that a batch must hold: those which `step`, or else `loss`, names."""
        return _named_columns(self.step) or _named_columns(self.loss)

    def loss(self, x: Tensor) -> Tensor:
        """The scalar to be made small, from the columns it names: x, index (item number), y, image, text, mask..."""
        raise NotImplementedError(f"{type(self).__name__} defines neither loss nor step")

    def step(self, update: Update, **batch: Tensor) -> None:
        """One step; overridden where one loss and one optimiser do not do (GANs, bilevel, alternating parts)."""
        update(self.loss(**batch))

    def before_fit(self, data: Dataset) -> None:
        """Size banks, fix targets, whiten; a method without gradients does all its work here. Not run on resume."""

    def before_epoch(self, data: Dataset) -> None:
        """Work over all items before each epoch, such as relabelling them."""

    def batches(self, data: Dataset, batch_size: int, generator: torch.Generator) -> Iterable[Tensor]:
        """Lists of item numbers, one a step: int64 (b,). Drawn anew each epoch, with all chance from `generator`."""
        order = torch.randperm(len(data), generator=generator)
        size = min(batch_size, len(order))
        return order[: len(order) // size * size].split(size)

    def after_step(self, progress: float) -> None:
        """Upkeep after the optimiser has moved: momentum networks, banks, queues. `progress` ends at 1."""


def _named_columns(method: Callable[..., Any]) -> tuple[str, ...]:
    parameters = inspect.signature(method).parameters.values()
    return tuple(p.name for p in parameters if p.name != "update" and p.kind is not p.VAR_KEYWORD)


HOLDERS = ("student", "classifier")
"""Parts that hold the encoder where a learner has none of its own."""


def encoder_of(learner: nn.Module) -> nn.Module:
    """What the user keeps: the learner's encoder, that of its student or classifier, or its encoder of images.

    Raises:
        AttributeError: it has neither.
    """
    for name in HOLDERS:
        if not hasattr(learner, "encoder") and hasattr(learner, name):
            return encoder_of(getattr(learner, name))
    if not hasattr(learner, "encoder") and hasattr(learner, "image_encoder"):
        return learner.image_encoder  # type: ignore[return-value]
    return learner.encoder  # type: ignore[return-value]


def load_state(learner: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a saved state, giving buffers that are sized by the data (banks, queues) their saved shapes first.

    Raises:
        RuntimeError: names or parameter shapes differ, as `load_state_dict` raises it.
    """
    for prefix, module in learner.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            saved = state.get(f"{prefix}.{name}" if prefix else name)
            if saved is not None and saved.shape != buffer.shape:
                module.register_buffer(name, torch.empty_like(saved, device=buffer.device))
    learner.load_state_dict(state)
