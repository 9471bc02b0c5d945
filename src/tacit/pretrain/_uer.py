"""UER: An Open-Source Toolkit for Pre-training Models (Zhao et al., 2019)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import Bench, Comparison, Part, Trial, Unseen, claim
from tacit.errors import expect, unknown
from tacit.fewlabels._supervised import Supervised
from tacit.learner import Learner
from tacit.nn import Classifier
from tacit.nn import encoder as make_encoder
from tacit.pretrain._targets import TARGETS, Target, check_encoder


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
    (transformer, bilstm, gated-cnn, bag, ssm). `assemble` makes all of it from one mapping. Several targets each run
    the encoder on what they made of the batch. A new target is a `Target` in `TARGETS`; nothing else knows of it.

    Args:
        encoder: a `tacit.nn.TextEncoder`; what the user keeps, by `save_pretrained` or `tacit export`.
        targets: names of the table joined by +, such as `"mlm+nsp"`.
        mask: share of the words that mlm hides, in (0, 1].
        n_classes: of `y`, where cls is among the targets.

    Batches hold at least 2 texts for nsp, 1 else.

    Raises:
        ArgumentError: an unknown target, lm on an encoder that sees later tokens, cls without a number of classes.

    >>> from tacit.nn import TextEncoder
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
        check_encoder(encoder)
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


# claims ---------------------------------------------------------------------------------------------------------------

CELLS = [(body, targets) for body in ("bilstm", "gated-cnn", "transformer") for targets in ("lm", "mlm", "mlm+cls")]
"""The assemblies that are compared: every encoder with every target."""

SIZES = {"dim": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 2000, "max_length": 32}
TUNING = {"max_steps": 60, "batch_size": 32, "lr": 2e-3}


def _network(cell: tuple[str, str]) -> dict[str, Any]:
    body, targets = cell
    return {"name": f"text-{body}", "causal": needs_causal(targets), **SIZES}


def _labels_hidden(part: Part, labelled: int) -> Part:
    """The part with the labels of its first items alone; all others are unknown."""
    y = part.y.clone()
    y[labelled:] = -1
    return replace(part, columns={**part.columns, "y": y})


def _fine_tuned(trial: Trial, encoder: nn.Module, labelled: Part) -> Classifier:
    """A copy of the encoder under a new layer, trained whole."""
    with torch.random.fork_rng():
        torch.manual_seed(trial.seed)
        classifier = Classifier(copy.deepcopy(encoder), labelled.n_classes)
    trial.fit(Supervised(classifier), labelled, **TUNING)
    return classifier


@claim(
    "the assembly that suits the data, chosen from loosely coupled parts, makes a better start than none",
    reported="models assembled on demand reach the state of the art on several downstream sets (section 4)",
    proxy="three encoders of 64 features x three targets on 3,000 texts of AG News, fine-tuned on 200 labels",
    steps={"small": 60, "full": 5_000},
)
def best_assembly_beats_its_unpretrained_encoder(bench: Bench) -> Comparison:
    """Accuracy on unseen texts after fine-tuning. The assembly is chosen on a fifth of the labelled texts.

    Nine are trained from their configurations alone; cls sees no label but the 200, that fifth's among them, which
    favours its assemblies in the choice, not in the score. The baseline is the chosen one's encoder, fine-tuned alike
    from random weights.
    """
    news = bench.data("ag_news", n=bench.pick(smoke=None, small=3000))

    def sides(trial: Trial) -> tuple[float, float]:
        train, unseen = trial.split(news)
        count = min(200, len(train) // 2)
        labelled, texts = train.select(range(count)), _labels_hidden(train, count)
        cells = bench.pick(smoke=CELLS[::4], small=CELLS)

        def pretrained(cell: tuple[str, str]) -> nn.Module:
            words = {"encoder": _network(cell), "targets": cell[1], "n_classes": labelled.n_classes}
            return trial.fit(trial.build(TextPretrainer, texts, **words), texts, batch_size=64).encoder

        encoders = {cell: pretrained(cell) for cell in cells}

        def validated(cell: tuple[str, str], part: Part, held_out: Unseen) -> float:
            return held_out.score(trial.predict(_fine_tuned(trial, encoders[cell], part), held_out.x))

        best = trial.select(labelled, cells, validated)
        starts = encoders[best], trial.encoder(_network(best), texts)
        ours, theirs = (unseen.score(trial.predict(_fine_tuned(trial, start, labelled), unseen.x)) for start in starts)
        return ours, theirs

    said = "AG News, 32 word pieces; 9 assemblies of 2 layers; batches of 64, then 60 steps of 32 on 200 labels"
    return bench.trials(sides, baseline="the same encoder without pre-training", better_by=0.0, setting=said)
