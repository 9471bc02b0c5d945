"""What the transductive classifiers share: how they read labels, and the features that their claims are run on."""

from typing import Any

import numpy as np
import torch.nn.functional as F
from sklearn.base import BaseEstimator
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from tacit.claims import Data, Part, Trial
from tacit.errors import DataError
from tacit.fewlabels._matching_networks import quarter_turns
from tacit.learner import encoder_of


def labelled_and_not(estimator: BaseEstimator, X: Any, y: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Checked rows (n, d), the class number of each or -1 for a row without label (n,), and the classes in order.

    Raises:
        DataError: no row has a label.
        ValueError: as scikit-learn's estimators raise it.
    """
    X, y = validate_data(estimator, X, y, dtype=(np.float64, np.float32))
    check_classification_targets(y)
    known = y != -1 if y.dtype.kind in "if" else np.ones(len(y), dtype=bool)
    if not known.any():
        raise DataError("y: all rows are -1, without label; expected at least one labelled row of each class")
    classes, codes = np.unique(y[known], return_inverse=True)
    numbers = np.full(len(y), -1)
    numbers[known] = codes
    return X, numbers, classes


def unseen_characters(trial: Trial, data: Data) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Features and labels of characters to choose by, and of those that score, from a classifier of neither.

    A quarter of the training characters is held out to choose by. The encoder is trained as a classifier of the others
    (base training), each quarter turn a class of its own; features are centred by their mean and scaled to length 1.
    """
    train, unseen = trial.split(data)
    base, held_out = divided_by_class(train, 0.75)
    encoder = encoder_of(trial.pretrained("supervised", turned(base), batch_size=120, lr=5e-3))
    mean = trial.predict(encoder, base.x).mean(dim=0)
    scored = unseen.reveal()
    told = [F.normalize(trial.predict(encoder, part.x) - mean, dim=1).numpy() for part in (held_out, scored)]
    return (told[0], held_out.y.numpy()), (told[1], scored.y.numpy())


def divided_by_class(part: Part, share: float) -> tuple[Part, Part]:
    """The items of a share of the classes, drawn by the seed, and those of the others."""
    classes = np.random.default_rng(part.seed).permutation(part.y.unique().numpy())
    first = np.isin(part.y.numpy(), classes[: round(share * len(classes))])
    return part.select(np.flatnonzero(first)), part.select(np.flatnonzero(~first))


def turned(part: Part) -> Part:
    """Each image in its four quarter turns, each turn of a class a class of its own."""
    data, n_classes = quarter_turns(part.x, part.y)
    return Part({name: data[name][:] for name in ("x", "y")}, part.modality, n_classes, part.seed)
