"""The split that learns is not the split that scores, and a seed draws both."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from tacit.claims._data import Data, Unseen
from tacit.claims._trial import Trial
from tacit.errors import ArgumentError, DataError

COLUMNS = {
    "factor": np.arange(100) % 4,
    "x": np.arange(100.0)[:, None],
    "y": np.arange(100) % 4,
    "text": [f"text {i}" for i in range(100)],
}
NONE = np.arange(0)


def data(train=None, test=NONE, **sizes):
    return Data("toy", lambda seed: (COLUMNS, "points", np.arange(100) if train is None else train, test), **sizes)


def test_without_official_parts_the_seed_splits_and_no_item_is_on_both_sides():
    train, unseen = data().split(0)
    seen, new = set(train.x[:, 0].tolist()), set(unseen.x[:, 0].tolist())
    assert (len(seen), len(new)) == (80, 20)
    assert not seen & new
    assert set(data().split(1)[0].x[:, 0].tolist()) != seen
    again, _ = data().split(0)
    assert torch.equal(again.x, train.x)


def test_official_parts_are_kept_and_columns_stay_together():
    train, unseen = data(np.arange(60), np.arange(60, 100), n=30, n_test=10).split(3)
    assert (len(train), len(unseen)) == (30, 10)
    assert train.x.max() < 60 <= unseen.x.min()
    assert train.n_classes == 4
    for row, text, y in zip(train.x[:, 0].int().tolist(), train.columns["text"], train.y.tolist(), strict=True):
        assert (text, y) == (f"text {row}", row % 4)


def test_labels_of_the_unseen_are_out_of_reach_until_revealed():
    _, unseen = data().split(0)
    assert set(unseen.columns) == {"x", "text"}
    assert not unseen.revealed
    revealed = unseen.reveal()
    assert unseen.revealed
    assert revealed.y.tolist() == [int(x) % 4 for x in unseen.x[:, 0]]


def test_scores_are_those_of_their_definition():
    _, unseen = data().split(0)
    y = unseen.reveal().y.numpy()
    guesses = np.random.default_rng(0).integers(0, 4, len(y))
    assert unseen.score(guesses) == np.mean(guesses == y)
    logits = torch.nn.functional.one_hot(torch.from_numpy(guesses), 4).float()
    assert unseen.score(logits) == np.mean(guesses == y)
    assert unseen.score((y + 1) % 4, "ari") == pytest.approx(1.0)
    assert unseen.score(y, lambda true, said: -abs(true - said).max()) == 0
    with pytest.raises(ArgumentError, match="acuracy"):
        unseen.score(y, "acuracy")
    two = Unseen(unseen.reveal().select(np.flatnonzero(y < 2)))
    scores = np.random.default_rng(1).normal(size=len(two))
    assert two.score(scores, "auroc") == pytest.approx(roc_auc_score(two.reveal().y, scores))


def test_data_without_labels_says_what_to_do():
    unlabelled = Data("toy", lambda seed: ({"x": np.zeros((10, 2))}, "points", np.arange(10), NONE))
    _, unseen = unlabelled.split(0)
    with pytest.raises(DataError, match="--labels"):
        unseen.score(np.zeros(2))


def test_a_trial_refuses_more_looks_at_the_test_labels_than_results():
    trial = Trial(0, "small", 5)
    train, unseen = trial.split(data())
    for _ in range(3):
        unseen.score(np.zeros(len(unseen)))
    trial.check(3)
    with pytest.raises(ArgumentError, match="scored 3 times for 2 results"):
        trial.check(2)
    part, validation = train.divide(0.75)
    assert (len(part), len(validation)) == (60, 20)
    assert not set(part.x[:, 0].tolist()) & set(validation.x[:, 0].tolist())
    for _ in range(10):
        validation.score(np.zeros(20))
    trial.check(3)


def test_selection_sees_training_items_only_and_every_side_tries_as_many():
    trial = Trial(0, "small", 5)
    train, unseen = trial.split(data())
    seen, new = set(train.x[:, 0].tolist()), set(unseen.x[:, 0].tolist())

    def judge(candidate, part, validation):
        items = set(part.x[:, 0].tolist()) | set(validation.x[:, 0].tolist())
        assert items <= seen
        assert not items & new
        return -abs(candidate - 2)

    assert trial.select(train, [1, 2, 3], judge) == 2
    trial.check(0)
    trial.select(train, [1, 2], judge)
    with pytest.raises(ArgumentError, match="as many on every side"):
        trial.check(0)


def test_while_tuning_the_test_split_is_not_there():
    tuning = Trial(0, "small", 5, tuning=True)
    _, validation = tuning.split(data(np.arange(60), np.arange(60, 100)))
    assert validation.x.max() < 60


def test_sizes_that_cannot_be_are_refused():
    with pytest.raises(ArgumentError, match="n of toy=101"):
        data(n=101).split(0)
