"""Scores of predictions by name, higher is better; and of an encoder, by what can be read off its features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from tacit.errors import DataError, unknown

OF_FEATURES = ("knn", "linear_probe")
OF_CLUSTERS = ("ari", "nmi", "clustering_accuracy")
OF_PREDICTIONS = ("accuracy", "auroc", *OF_CLUSTERS)


def score(y: Any, predictions: Any, by: str | Callable[[Any, Any], float]) -> float:
    """`by` of the predictions against what is true."""
    if y is None:
        raise DataError("the data has no labels to score with; give labels, such as --labels folder")
    y, predictions = np.asarray(y), np.asarray(torch.as_tensor(predictions).detach().cpu())
    if callable(by):
        return float(by(y, predictions))
    if by not in OF_PREDICTIONS:
        raise unknown("by", by, (*OF_PREDICTIONS, *OF_FEATURES))
    if by == "accuracy":
        classes = predictions.argmax(axis=1) if predictions.ndim == 2 else predictions
        return float((classes == y).mean())
    if by == "auroc":
        from sklearn.metrics import roc_auc_score

        return float(roc_auc_score(y, predictions))
    from tacit import evaluate

    return float(getattr(evaluate, by)(y, predictions))


def score_features(encoder: nn.Module, train: Any, unseen: Any, by: str) -> float:
    """k-NN or linear-probe accuracy of the encoder's features, the classifier fitted on `train`."""
    from tacit.embedding import embed, prepared
    from tacit.evaluate import knn_accuracy, linear_probe

    measure: Any = {"knn": knn_accuracy, "linear_probe": linear_probe}[by]
    encoder.eval()
    rows = [part.x if isinstance(part.x, torch.Tensor) else prepared(encoder, part.x) for part in (train, unseen)]
    seen, new = (torch.from_numpy(embed(encoder, {"x": x})) for x in rows)
    return unseen.score(np.zeros(len(unseen)), by=lambda y, _: float(measure(seen, train.y, new, torch.from_numpy(y))))
