"""What each comparison measures, on functions whose answer is known."""

import json
import time

import numpy as np
import pytest
import torch
from toy_system import Still, Toy, blobs

from tacit.claims import Bench
from tacit.errors import ArgumentError
from tacit.pretrain import SimCLR, WhitenedPCA


def bench(n=5, **more):
    return Bench(range(n), "small", **{"steps": 12, **more})


def test_trials_pairs_both_sides_seed_by_seed():
    noise = np.random.default_rng(0).normal(size=5)
    found = bench().trials(lambda t: (noise[t.seed] + 1, noise[t.seed]), baseline="less", better_by=0.5)
    assert found.effects == pytest.approx([1] * 5)
    assert (found.verdict, found.kind, found.margin, found.baseline) == ("holds", "better", 0.5, "less")
    assert bench().trials(lambda t: (0.0, 0.01), baseline="more", not_worse_by=0.02).verdict == "holds"
    assert bench().trials(lambda t: 1.0 + t.seed, above=0.0).values == [1, 2, 3, 4, 5]


def test_correlation_and_its_comparison():
    def scores(trial):
        truth = trial.rng.normal(size=8)
        return np.exp(truth), trial.rng.normal(size=8), truth

    found = bench().correlation(scores, baseline="chance", better_by=0.0)
    assert found.values == pytest.approx([1.0] * 5)
    assert max(found.baseline_values) < 0.99
    alone = bench().correlation(lambda t: ([1, 2, 3], [-1, -2, -3]), above=0.0)
    assert (alone.effect, alone.verdict, alone.kind) == (-1, "fails", "correlation")


def test_curve_keeps_every_point_and_smoke_only_the_ends():
    found = bench().curve(lambda t, p: p * 2.0, over=[1, 2, 4], shape="rises")
    assert found.values == [[2, 4, 8]] * 5
    assert (found.verdict, found.details["over"]) == ("holds", ["1", "2", "4"])
    gap = bench().curve(lambda t, p: (1.0, p / 4), over=[1, 2, 4], shape="gap_shrinks", baseline="theirs")
    assert gap.effects == pytest.approx([0.75] * 5)
    assert gap.baseline_values == [[0.25, 0.5, 1.0]] * 5
    assert Bench(budget="smoke").curve(lambda t, p: p, over=[1, 2, 4], shape="rises").values == [[1, 4]] * 2


def test_theorems_are_judged_by_their_worst_case():
    assert bench().equal(lambda t: (torch.ones(3), np.ones(3)), tolerance=0.0).verdict == "holds"
    off = bench().equal(lambda t: ([1.0, 2.0], [1.0, 2.0 + 0.1 * t.seed]), tolerance=0.3)
    assert off.effect == pytest.approx(0.4)
    assert off.verdict == "fails"
    assert bench().bound(lambda t: (np.array([1.0, -5]), np.array([1.0, 0]))).verdict == "holds"


def test_speed_is_a_ratio_of_paired_times():
    found = bench().speed(
        lambda t: lambda: time.sleep(0.001), lambda t: lambda: time.sleep(0.004), at_least=1.5, baseline="slow"
    )
    assert len(found.effects) == 15
    assert found.verdict == "holds"
    assert found.effect < 4.5
    with pytest.raises(ArgumentError, match="nothing else runs"):
        bench(alone=False).speed(lambda t: int, lambda t: int, baseline="itself")


def test_compare_trains_both_sides_on_the_same_items_with_equal_steps():
    """On the digits, against the same by hand: the arguments, the seed and the steps that `compare` promises."""
    asked = bench(2, steps=4)
    data = asked.images("digits", size=16, n=80, n_test=60)
    found = asked.compare(SimCLR, baseline="untrained", data=data, by="knn", better_by=0.0, batch_size=16)

    from tacit.building import build
    from tacit.claims._trial import _pace
    from tacit.embedding import embed
    from tacit.evaluate import knn_accuracy
    from tacit.training import fit

    train, unseen = data.split(1)
    learner = build("simclr", train.description, "small", seed=1)
    before = embed(learner.encoder, {"x": train.x}), embed(learner.encoder, {"x": unseen.x})
    words = {"optimizer": "adamw", "lr": 2e-3, "weight_decay": 1e-4, "warmup": 0.05} | _pace(learner, "cpu")
    fit(learner, {"x": train.x}, max_steps=4, batch_size=16, seed=1, **words)
    after = embed(learner.encoder, {"x": train.x}), embed(learner.encoder, {"x": unseen.x})
    y = unseen.reveal().y
    expected = [float(knn_accuracy(a, train.y, b, y)) for a, b in (after, before)]
    assert [found.values[1], found.baseline_values[1]] == pytest.approx(expected)
    assert found.details["passes"] == {"simclr": 2.0}


def test_compare_takes_closed_forms_estimators_and_pixels():
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier

    asked = bench(2)
    data = asked.images("digits", n=150, n_test=100)
    found = asked.compare(WhitenedPCA, baseline="pixels", data=data, by="knn", not_worse_by=0.9, n_components=20)
    assert min(found.values) > 0.6
    points = asked.drawn(blobs, n=60, n_test=40)
    found = asked.compare(
        KNeighborsClassifier(5), baseline=LogisticRegression(), data=points, by="accuracy", not_worse_by=0.1
    )
    train, unseen = points.split(0)
    by_hand = LogisticRegression().fit(train.x, train.y).score(unseen.x, unseen.reveal().y)
    assert found.baseline_values[0] == pytest.approx(by_hand)


def test_words_that_nobody_knows_are_refused():
    asked = bench(2)
    data = asked.images("digits", size=16)
    with pytest.raises(ArgumentError, match="learning_rate"):
        asked.compare(SimCLR, baseline="untrained", data=data, by="knn", better_by=0.0, learning_rate=1)
    with pytest.raises(ArgumentError, match="one of the two"):
        asked.compare(SimCLR, baseline="untrained", data=data, by="knn")
    with pytest.raises(ArgumentError, match="the same on both sides"):
        asked.compare(SimCLR, baseline="rotnet", data=data, by="knn", better_by=0.0)
    with pytest.raises(ArgumentError, match="rise"):
        asked.curve(lambda t, p: p, over=[1, 2], shape="rise")


def test_a_trained_side_is_trained_once_and_for_its_settings_only(tmp_path, monkeypatch):
    from tacit.claims import _trial

    fits = []
    real = _trial.Trial.fit
    monkeypatch.setattr(_trial.Trial, "fit", lambda self, *a, **k: (fits.append(self.seed), real(self, *a, **k))[1])

    def run(lr, size=16):
        asked = bench(2, steps=2, cache=tmp_path)
        data = asked.images("digits", size=size, n=40, n_test=40)
        return asked.compare(SimCLR, baseline="untrained", data=data, by="knn", better_by=0.0, lr=lr, batch_size=16)

    first = run(0.01)
    assert fits == [0, 1]
    again = run(0.01)
    assert fits == [0, 1]
    assert (again.values, again.details) == (first.values, first.details)
    run(0.02)
    run(0.01, size=12)
    assert fits == [0, 1] * 3


def test_a_finished_trial_is_not_run_again(tmp_path):
    ran = []

    def trial(one):
        ran.append(one.seed)
        if len(ran) == 3:
            raise KeyboardInterrupt
        return 1.0 * one.seed, 0.0

    def run():
        return bench(cache=tmp_path, key="claim and code").trials(trial, baseline="nothing", better_by=0.0)

    with pytest.raises(KeyboardInterrupt):
        run()
    found = run()
    assert ran == [0, 1, 2, 2, 3, 4]
    assert found.values == [0, 1, 2, 3, 4]
    assert not list(tmp_path.rglob("*.writing"))
    assert all(json.loads(path.read_text())["values"] for path in (tmp_path / "trials").iterdir())


def test_more_looks_than_results_are_refused_by_the_bench():
    asked = bench()
    data = asked.drawn(blobs, n=60, n_test=40)

    def picks_on_the_test_split(trial):
        _, unseen = trial.split(data)
        return max(unseen.score(np.full(40, guess)) for guess in (0, 1)), 0.5

    found = asked.trials(picks_on_the_test_split, baseline="half", better_by=0.0)  # two looks, two numbers
    assert len(found.values) == 5

    def tries_more(trial):
        _, unseen = trial.split(data)
        return max(unseen.score(trial.rng.integers(0, 2, 40)) for _ in range(9)), 0.5

    with pytest.raises(ArgumentError, match="scored 9 times for 2 results"):
        asked.trials(tries_more, baseline="half", better_by=0.0)


def test_equal_steps_of_learners_without_encoder():
    asked = bench(3, steps=100)
    data = asked.drawn(blobs, n=60, n_test=200, distance=3.0)

    def scores(trial):
        train, unseen = trial.split(data)
        return [unseen.score(trial.predict(trial.fit(kind(), train).classifier, unseen.x)) for kind in (Toy, Still)]

    found = asked.trials(scores, baseline="toy-still", better_by=0.0)
    assert min(found.values) > 0.9


def test_two_comparisons_of_a_claim_share_no_trial(tmp_path):
    asked = bench(cache=tmp_path, key="claim and code")
    first = asked.trials(lambda trial: 1.0, above=0.0)
    second = asked.trials(lambda trial: 2.0, above=0.0)
    assert (first.effect, second.effect) == (1.0, 2.0)


def test_what_tuning_draws_wins_over_what_the_claim_says():
    """A claim that says lr=0.01 is trained at the 0.5 that was drawn."""

    def weights(overrides, lr):
        asked = bench(1, overrides=overrides)
        data = asked.drawn(blobs, n=60, n_test=40)
        found = asked.trials(lambda t: t.fit(Toy(), t.split(data)[0], lr=lr).classifier.weight.sum(), above=0.0)
        return found.values[0]

    drawn = weights({"toy": {"lr": 0.5}}, 0.01)
    assert drawn == weights({}, 0.5)
    assert drawn != weights({}, 0.01)


def test_factors_compare_the_spread_of_the_levels_means_and_record_the_analysis_of_variance():
    views, algorithms = {"crop": 0.1, "colour": 0.3}, {"a": 0.0, "b": 0.02, "c": 0.01}

    def score(trial, view, algorithm):
        return views[view] + algorithms[algorithm] + 0.001 * trial.seed

    found = bench().factors(score, factors={"views": list(views), "algorithm": list(algorithms)})
    assert found.effects == pytest.approx([np.std([0.1, 0.3], ddof=1) - np.std([0, 0.02, 0.01], ddof=1)] * 5)
    assert found.verdict == "holds"
    assert found.values[2] == pytest.approx([0.102, 0.122, 0.112, 0.302, 0.322, 0.312])
    shares = {row["name"]: row["share"] for row in found.details["anova"]}
    assert shares["views"] > 0.98 > 0.02 > shares["algorithm"]
    twice = bench().factors(
        lambda trial, algorithm, view: score(trial, view, algorithm),
        factors={"algorithm": list(algorithms), "views": list(views)},
        ratio=2.0,
    )
    assert twice.verdict == "fails"
