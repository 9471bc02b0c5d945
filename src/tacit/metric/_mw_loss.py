"""Optimizing What Matters: AUC-Driven Learning for Robust Neural Retrieval (Sheikholeslami et al., 2025)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tacit.catalogue import system
from tacit.claims import Bench, Comparison, Part, Trial, Unseen, claim
from tacit.errors import expect, unknown
from tacit.evaluate._retrieval import mrr
from tacit.losses import InfoNCE, pair_similarity
from tacit.losses._similarity import unit
from tacit.metric._dual_encoder import DualEncoder, word_halves
from tacit.nn import gather, rank

NEGATIVES = ("pooled", "row")
BLOCK = 1 << 22
"""Pairs of a positive and a negative at a time: 16 MiB in float32."""


@system("mw-loss", paper="arXiv:2510.00137", modality="text")
class MannWhitneyRetriever(DualEncoder):
    """A dual encoder whose scores separate matches from the rest over all queries at once: one threshold serves all.

    `MannWhitneyLoss` is the loss; see `DualEncoder` for the columns.

    Args:
        encoder: token numbers (n, t) -> (n, encoder.dim); what the user keeps.
        temperature: divides the cosines; above 0.
        negatives: pooled (the paper's) or row.
        paired: whether documents have a column of their own, or are the second halves of the texts.

    >>> from tacit.nn import TextEncoder
    >>> texts = ["a cat sat", "a dog ran"]
    >>> encoder = TextEncoder("bag", tokenizer="words", max_length=4, dim=8).fit_prepare(texts)
    >>> learner = MannWhitneyRetriever(encoder)
    >>> bool(learner.loss(encoder.prepare(texts)) > 0)        # halves of the same text match
    True
    """

    settings: ClassVar = {
        "small": {"optimizer": "adamw", "lr": 3e-3, "batch_size": 64, "weight_decay": 1e-4, "warmup": 0.05},
        "search": {"temperature": [0.1, 0.3, 1.0, 3.0]},
    }

    def __init__(
        self, encoder: nn.Module, *, temperature: float = 1.0, negatives: str = "pooled", paired: bool = False
    ) -> None:
        super().__init__(encoder, MannWhitneyLoss(temperature, negatives), paired=paired)


@system("mw-loss", paper="arXiv:2510.00137", modality="any", kind="loss")
class MannWhitneyLoss(nn.Module):
    """Binary cross-entropy on the differences between scores of matches and of the rest, which bounds 1 - AUC.

        loss = mean over matches i and mismatches (j, l)  of  log(1 + exp(s_jl - s_ii)),   s = cosine / temperature

    InfoNCE compares a match with mismatches of its own query only, so that adding a number to all scores of a query
    changes nothing, and scores of different queries need not be comparable. Here the mismatches of *all* queries
    stand against each match (`pooled`): n^2 (n - 1) comparisons of n^2 scores. With `row`, j = i: those of its own
    query only, as many as InfoNCE makes. The paper is read as the first ("more pairwise comparisons without increasing
    the similarity computation cost", Fig. 2); its code is not public.

    1 - AUC counts the comparisons that are lost, and log(1 + e^z) is at least log 2 where z >= 0, so that
    1 - AUC <= loss / log 2, at any temperature.

    Args:
        temperature: above 0; three to ten times InfoNCE's, where many mismatches still count.
        negatives: pooled or row.

    On several devices the mismatches come from all of them. Memory does not grow with n^3.

    Raises:
        ArgumentError: temperature not above 0, another word for negatives; fewer than 2 pairs.

    >>> MannWhitneyLoss(temperature=1.0)(torch.eye(2), torch.eye(2))        # log(1 + e^-1)
    tensor(0.3133)
    """

    def __init__(self, temperature: float = 1.0, negatives: str = "pooled") -> None:
        super().__init__()
        expect("temperature", temperature, temperature > 0, "a number above 0")
        if negatives not in NEGATIVES:
            raise unknown("negatives", negatives, NEGATIVES)
        self.temperature, self.negatives = temperature, negatives

    def forward(self, query: Tensor, document: Tensor) -> Tensor:
        """Embeddings of matched pairs, (n, d) each, of any norm -> scalar."""
        return mann_whitney_loss(query, document, self.temperature, self.negatives)


def mann_whitney_loss(query: Tensor, document: Tensor, temperature: float = 1.0, negatives: str = "pooled") -> Tensor:
    """The function of `MannWhitneyLoss`, which says it all. Differentiable once.

    >>> mann_whitney_loss(torch.eye(2), torch.eye(2), temperature=1.0, negatives="row")
    tensor(0.3133)
    """
    ok = query.ndim == 2 and query.shape == document.shape
    expect("query and document", (tuple(query.shape), tuple(document.shape)), ok, "two batches of one shape (n, d)")
    positives = pair_similarity(query, document, temperature)
    documents = gather(document)
    expect("document", tuple(documents.shape), len(documents) > 1, "at least 2 rows", "or there is no negative")
    if negatives == "row":
        scores = _similarities(query, documents, temperature)
        own = torch.arange(len(query), device=query.device) + rank() * len(query)
        itself = own[:, None] == torch.arange(len(documents), device=query.device)
        return F.softplus(scores - positives[:, None])[~itself].mean()
    scores = _similarities(gather(query), documents, temperature)
    itself = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    mean: Tensor = _MeanSoftplus.apply(scores[~itself], positives)
    return mean


def _similarities(queries: Tensor, documents: Tensor, temperature: float) -> Tensor:
    """Cosines over temperature, (n, d) and (m, d) -> (n, m), in float32 or float64."""
    with torch.autocast(queries.device.type, enabled=False):
        return unit(queries) @ unit(documents).T / temperature


class _MeanSoftplus(torch.autograd.Function):
    """Mean over all pairs of log(1 + exp(negative_j - positive_i)), block by block: (m,) and (n,) -> scalar.

    Its derivatives are means of sigmoids of the same differences, so that both are had in one pass.
    """

    @staticmethod
    def forward(ctx: Any, negatives: Tensor, positives: Tensor) -> Tensor:
        total, down = negatives.new_zeros(()), []
        up = torch.zeros_like(negatives)
        for block in positives.split(max(1, BLOCK // len(negatives))):
            differences = negatives - block[:, None]
            total += F.softplus(differences).sum()
            shares = differences.sigmoid_()
            up += shares.sum(0)
            down.append(-shares.sum(1))
        pairs = len(negatives) * len(positives)
        ctx.save_for_backward(up / pairs, torch.cat(down) / pairs)
        return total / pairs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        up, down = ctx.saved_tensors
        return grad * up, grad * down


# claims ---------------------------------------------------------------------------------------------------------------


def pooled_auc(scores: NDArray[np.floating[Any]]) -> float:
    """Share of comparisons of a match (the diagonal) with any mismatch that the match wins: (n, n) -> number."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(np.eye(len(scores)).ravel(), scores.ravel()))


def mrr_at_10(scores: NDArray[np.floating[Any]]) -> float:
    """Of queries whose own document is on the diagonal: (n, n) -> number."""
    return mrr(scores, np.eye(len(scores)), k=10)


def _against_info_nce(measure: Callable[[NDArray[Any]], float], bench: Bench) -> Callable[[Trial], list[float]]:
    """Both losses with a bag of words, each at the best of four temperatures on a validation part."""
    texts = bench.data("ag_news", n=6000, n_test=1000)
    words = {"lr": 3e-3, "batch_size": 64, "weight_decay": 1e-4, "warmup": 0.05}

    def scored(trial: Trial, criterion: nn.Module, part: Part, unseen: Unseen) -> float:
        learner = DualEncoder(trial.encoder({"name": "text-bag", "dim": 64}, part), criterion, paired=True)
        trial.fit(learner, learner.pairs(*word_halves(part.x)), **words)
        halves = [trial.predict(learner.encoder, half) for half in word_halves(unseen.x)]
        queries, documents = (F.normalize(half, dim=1) for half in halves)
        return measure((queries @ documents.T).numpy())

    def trial_of(trial: Trial) -> list[float]:
        train, unseen = trial.split(texts)
        scores = []
        for loss in (MannWhitneyLoss, InfoNCE):

            def at(temperature: float, part: Part, held_out: Unseen, loss: type[nn.Module] = loss) -> float:
                return scored(trial, loss(temperature), part, held_out)

            best = trial.select(train, (0.1, 0.3, 1.0, 3.0), at)
            scores.append(scored(trial, loss(best), train, unseen))
        return scores

    return trial_of


@claim(
    "separates matches from mismatches better than InfoNCE, over all queries",
    reported="'consistently outperform contrastive counterparts in AUC' (abstract)",
    proxy="a bag of words that finds the second half of a text of AG News by the first, in place of a language model",
    steps={"small": 400, "full": 4000},
)
def auc_against_info_nce(bench: Bench) -> Comparison:
    """AUC of 1,000 matches against 999,000 mismatches of unseen texts.

    Equal steps, batches and rates; four temperatures are tried for either loss on a validation part, by AUC.
    """
    return bench.trials(_against_info_nce(pooled_auc, bench), baseline="InfoNCE", better_by=0.0)


@claim(
    "finds as well as InfoNCE",
    reported="'consistently outperform contrastive counterparts in AUC and standard retrieval metrics' (abstract)",
    proxy="a bag of words that finds the second half of a text of AG News by the first, in place of a language model",
    steps={"small": 400, "full": 4000},
)
def mrr_against_info_nce(bench: Bench) -> Comparison:
    """MRR@10 among 1,000 unseen texts, at most 0.01 less; temperatures are tried as for AUC, by MRR@10."""
    return bench.trials(_against_info_nce(mrr_at_10, bench), baseline="InfoNCE", not_worse_by=0.01)


@claim("bounds 1 - AUC", reported="a theorem: 'MW loss directly upper-bounds the AoC' (abstract)")
def bound_on_the_area_over_the_curve(bench: Bench) -> Comparison:
    """1 - AUC against loss / log 2, for 200 pairs of embeddings that agree more or less, at five temperatures."""

    def trial_of(trial: Trial) -> tuple[list[float], list[float]]:
        lost, bounds = [], []
        for temperature in (0.02, 0.1, 0.5, 2.0, 10.0):
            for noise in (0.1, 1.0, 10.0):
                a = torch.randn(200, 16, generator=trial.generator)
                b = a + noise * torch.randn(200, 16, generator=trial.generator)
                scores = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T
                lost.append(1 - pooled_auc(scores.numpy()))
                bounds.append(mann_whitney_loss(a, b, temperature).item() / math.log(2))
        return lost, bounds

    return bench.bound(trial_of, tolerance=1e-6, setting="200 drawn pairs in 16 dimensions")
