"""UER: An Open-Source Toolkit for Pre-training Models (Zhao et al., 2019)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.errors import expect, unknown
from tacit.learner import Learner
from tacit.nn import TextEncoder
from tacit.nn import encoder as make_encoder
from tacit.pretrain._targets import TARGETS, Target


@system("uer", paper="arXiv:1909.05658", modality="text")
class TextPretrainer(Learner):
    """A pre-trained model assembled on demand: any embedding x any encoder x any targets, from one configuration.

        loss = sum over the targets of  target(encoder, batch)                                          (section 3)

    | target | the encoder is to tell | of |
    |---|---|---|
    | mlm | which words were hidden | BERT |
    | lm | which word comes next; needs a causal encoder | GPT; ELMo's forward half |
    | cls | the class `y` of a text, -1 where it is unknown | ULMFiT, InferSent |
    | nsp | whether the second part of a text is its own | BERT |
    | sop | whether two parts stand in their order | ALBERT |

    Embedding and encoder are the `TextEncoder`'s words: tokenizer (words, wordpiece, bpe, characters) and body
    (transformer, bilstm, gated-cnn, bag, ssm). `assemble` makes all of it from one mapping. Several targets each run the
    encoder on what they made of the batch. A new target is a `Target` in `TARGETS`; nothing else knows of it.

    Args:
        encoder: a `tacit.nn.TextEncoder`; what the user keeps, by `save_pretrained` or `tacit export`.
        targets: names of the table joined by +, such as `"mlm+nsp"`.
        mask: share of the words that mlm hides, in (0, 1].
        n_classes: of `y`, where cls is among the targets.

    Batches hold at least 2 texts for nsp, 1 else.

    Raises:
        ArgumentError: an unknown target, lm on an encoder that sees later tokens, cls without a number of classes.

    >>> encoder = TextEncoder("gated-cnn", tokenizer="words", vocab_size=50, max_length=8, dim=16, num_layers=1)
    >>> learner = TextPretrainer(encoder.fit_prepare(["cats purr", "dogs bark"]), targets="mlm+sop")
    >>> bool(learner.loss(encoder.prepare(["cats bark", "dogs purr"])) > 0)
    True
    """

    settings: ClassVar = {
        "paper": {
            "optimizer": "adamw",
            "lr": 2e-5,
            "batch_size": 256,
            "max_steps": 500_000,
            "weight_decay": 0.01,
            "warmup": 0.1,
        },
        "small": {"optimizer": "adamw", "lr": 2e-3, "batch_size": 128, "weight_decay": 0.01, "warmup": 0.1},
    }

    def __init__(
        self, encoder: nn.Module, *, targets: str = "mlm", mask: float = 0.15, n_classes: int | None = None
    ) -> None:
        super().__init__()
        kinds = target_kinds(targets)
        ok = encoder.causal or not any(kind.causal for kind in kinds.values())
        expect("targets", targets, bool(ok), "targets whose answer the encoder does not see", "give it causal=True")
        self.encoder = encoder
        self.targets = nn.ModuleDict(
            {name: kind(encoder, mask=mask, n_classes=n_classes) for name, kind in kinds.items()}
        )

    @classmethod
    def assemble(cls, texts: Sequence[str], config: Mapping[str, Any], *, seed: int = 0) -> TextPretrainer:
        """The learner that a configuration describes, its vocabulary made from the texts.

        Args:
            texts: what it is going to learn from.
            config: `encoder`, a mapping of `tacit.nn.encoder`'s words with its name, and this class's other
                arguments. Whether the encoder is causal follows from the targets, unless it is said.
            seed: of the weights.

        Raises:
            ArgumentError: as the class, and as `tacit.nn.encoder`.

        >>> config = {"encoder": {"name": "text-bilstm", "tokenizer": "characters", "dim": 16}, "targets": "lm"}
        >>> TextPretrainer.assemble(["cats purr", "dogs bark"], config).encoder.causal
        True
        """
        words = dict(config)
        described = dict(words.pop("encoder", {"name": "text-transformer"}))
        described.setdefault("causal", needs_causal(words.get("targets", "mlm")))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder: Any = make_encoder(**described)
            return cls(encoder.fit_prepare(texts), **words)

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for target in self._targets() for name in target.columns))

    def loss(self, x: Tensor, **others: Tensor) -> Tensor:
        batch = {"x": x, **others}
        costs = [
            target.loss(self.encoder, **{name: batch[name] for name in target.columns}) for target in self._targets()
        ]
        return torch.stack(costs).sum()

    def _targets(self) -> list[Target]:
        return list(self.targets.values())  # type: ignore[arg-type]


def target_kinds(targets: str) -> dict[str, type[Target]]:
    """`"mlm+nsp"` -> the classes by name, in order.

    Raises:
        ArgumentError: an unknown name.
    """
    names = [name.strip() for name in targets.split("+")]
    for name in names:
        if name not in TARGETS:
            raise unknown("targets", name, TARGETS)
    return {name: TARGETS[name] for name in names}


def needs_causal(targets: str) -> bool:
    """Whether one of the targets needs an encoder that sees no later token."""
    return any(kind.causal for kind in target_kinds(targets).values())
