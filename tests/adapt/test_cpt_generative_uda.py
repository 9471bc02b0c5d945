from itertools import pairwise

import numpy as np
import pytest
import torch

from tacit.adapt import ContinuedPretrainUDA
from tacit.adapt._cpt_generative_uda import _batches, _domains, _pace, split_by_agency
from tacit.errors import ArgumentError

TINY = {"dim": 16, "num_layers": 1, "num_heads": 2, "batch_size": 16, "max_length": 16, "random_state": 0}


def corpus(n=120, seed=0):
    """Two topics with words of their own in either domain, and words that stand in both.

    Of the target's own words only infilling tells with which shared words they go.
    """
    rng = np.random.default_rng(seed)
    shared = {"sports": ["team", "game"], "money": ["bank", "stock"]}
    own = {
        "source": {"sports": ["goal", "match"], "money": ["share", "loan"]},
        "target": {"sports": ["inning", "pitch"], "money": ["bond", "yield"]},
    }
    texts, y = {}, {}
    for domain, words in own.items():
        y[domain] = np.array(["sports", "money"])[np.arange(n) % 2]
        texts[domain] = [" ".join(rng.permutation(["the", *shared[c], *words[c], "today"])) for c in y[domain]]
    return texts, y


@pytest.fixture(scope="module")
def trained():
    texts, y = corpus()
    model = ContinuedPretrainUDA(max_steps=320, lr=5e-3, pretrain_share=0.3, dropout=0.0, **{**TINY, "dim": 32})
    return model.fit(texts["source"], y["source"], target=texts["target"]), texts, y


def test_it_says_the_classes_of_the_target(trained):
    model, texts, y = trained
    assert (model.predict(texts["target"]) == y["target"]).mean() > 0.9
    assert (np.array(model.generate(texts["target"])) == y["target"]).mean() > 0.9
    assert model.losses_[-1] < 0.2


def test_probabilities_are_those_of_the_words_over_their_sum(trained):
    """Against the model's own cost of each class's words, text by text."""
    model, texts, _ = trained
    some = texts["target"][:3]
    found = model.predict_proba(some)
    for text, row in zip(some, found, strict=True):
        x = model.model_.encoder.prepare([f"{model.label_prompt} {text}"])
        costs = []
        for said in model.verbalizer_:
            target = model.model_.targets([said])
            with torch.no_grad():
                costs.append(float(model.model_.loss(x, target)) * int((target != 0).sum()))
        powers = np.exp(-np.array(costs))
        np.testing.assert_allclose(row, powers / powers.sum(), rtol=1e-3, atol=1e-6)


def test_information_is_counted_on_the_source_without_the_prompt(trained):
    model, texts, y = trained
    tokens = model.model_.encoder.tokenizer.tokens
    holding = np.array(["goal" in text.split() for text in texts["source"]])
    share = (holding & (y["source"] == "sports")).mean() / (holding.mean() * (y["source"] == "sports").mean())
    sports = model.classes_.tolist().index("sports")
    assert model.pmi_[tokens.index("goal"), sports].item() == pytest.approx(np.log(share))
    assert model.pmi_[tokens.index("what")].tolist() == [0, 0]
    assert model.pmi_[tokens.index("inning")].tolist() == [0, 0]


def test_only_words_of_the_text_are_hidden_and_those_of_the_half_that_was_asked_for():
    texts, y = corpus()
    for mask, informative in (("informative", True), ("uninformative", False)):
        model = ContinuedPretrainUDA(max_steps=4, mask=mask, **TINY).fit(texts["source"], y["source"], target=["a"])
        hidden = set()

        def noted(x, chosen, model=model, hidden=hidden, corrupt=model.model_.corrupt):
            hidden.update(model.model_.encoder.tokenizer.tokens[i] for i in x[chosen].tolist())
            return corrupt(x, chosen)

        model.model_.corrupt = noted
        rows = model._rows(model.infill_prompt, texts["source"])
        model._infilling(rows, model.pmi_.amax(1), model._prompt_length(model.infill_prompt))(torch.arange(100))
        told = {"team", "game", "bank", "stock", "goal", "match", "share", "loan"}
        assert hidden <= told if informative else hidden & {"the", "today"}
        assert not hidden & {"fill", "in", "blanks"}


@pytest.mark.parametrize("method", ["source", "mmd"])
def test_other_methods_train_one_phase(method):
    texts, y = corpus(40)
    model = ContinuedPretrainUDA(method=method, penalty=0.1, max_steps=110, lr=5e-3, dropout=0.0, **{**TINY, "dim": 32})
    model.fit(texts["source"], y["source"], target=texts["target"])
    assert len(model.losses_) == 110
    assert model.score(texts["source"], y["source"]) > 0.9
    assert ("inning" in model.model_.encoder.tokenizer.tokens) == (method == "mmd")


def test_the_same_seed_gives_the_same_answers_and_leaves_the_global_one():
    texts, y = corpus(20)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, other = (
        ContinuedPretrainUDA(max_steps=6, **TINY).fit(texts["source"], y["source"], target=texts["target"])
        for _ in range(2)
    )
    assert torch.rand(1).equal(expected)
    np.testing.assert_array_equal(one.predict_proba(texts["target"]), other.predict_proba(texts["target"]))


def test_words_for_numbers_and_errors_that_name_them():
    texts, y = corpus(20)
    numbers = (y["source"] == "money").astype(int)
    small = {**TINY, "max_steps": 2}
    model = ContinuedPretrainUDA(verbalizer={0: "team sports", 1: "money"}, **small)
    assert set(model.fit(texts["source"], numbers, target=["a b"]).predict(["team game", ""])) <= {0, 1}
    for words, match in (
        ({0: "sports"}, "every class"),
        ({0: "a", 1: "A!"}, "said alike"),
        ({0: "...", 1: "money"}, "at least one word"),
    ):
        with pytest.raises(ArgumentError, match=match):
            ContinuedPretrainUDA(verbalizer=words, **small).fit(texts["source"], numbers, target=["a"])


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("method", "dann"), ("mask", "all"), ("mask_share", 0.0), ("pretrain_share", 1.0), ("penalty", -1.0), ("lr", 0)],
)
def test_wrong_settings_are_named(name, wrong):
    with pytest.raises(ArgumentError, match=name):
        ContinuedPretrainUDA(**{**TINY, name: wrong}).fit(["a b", "c d"], [0, 1], target=["e"])


def test_no_target_and_no_texts_are_named():
    with pytest.raises(ArgumentError, match="target"):
        ContinuedPretrainUDA(**TINY).fit(["a b", "c d"], [0, 1])
    with pytest.raises(ArgumentError, match="X"):
        ContinuedPretrainUDA(**TINY).fit([[0.5], [0.1]], [0, 1], target=["e"])


def test_each_text_comes_once_before_any_comes_again():
    drawn = _batches(10, 4, "cpu")
    seen = torch.cat([next(drawn) for _ in range(2)])
    assert len(seen.unique()) == 8


def test_the_rate_rises_for_a_tenth_and_falls_to_nothing():
    rates = [_pace(step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert all(a >= b for a, b in pairwise(rates[9:]))
    assert rates[-1] < 0.01


def test_agencies_are_found_and_taken_out():
    texts = ["Oil up (Reuters) said REUTERS", "AP - A win", "map of japan", "The Associated Press says", "AFP - A loss"]
    plain, tagged = split_by_agency(texts)
    assert tagged.tolist() == [True, True, False, True, False]
    assert not any("reuters" in text.lower() or "AP -" in text for text in plain[:2])
    assert plain[2] == "map of japan"
    assert _domains(["no agency"] * 8)[1].tolist() == [True, False, False, False] * 2
