"""Self-pretraining: its objective follows from the encoder, and both stages run, stop and go on as one."""

import pytest
import torch
import torch.nn.functional as F

from tacit.data import listops
from tacit.nn import TextEncoder
from tacit.pretrain import SelfPretraining, self_pretrain
from tacit.pretrain import _targets as targets
from tacit.training import Callback, fit

SIZES = {"tokenizer": "characters", "vocab_size": 30, "max_length": 24, "dim": 8, "num_layers": 1, "num_heads": 2}
LENGTHS = {"max_depth": 2, "max_args": 4, "min_length": 4, "max_length": 14, "compact": True}


def made(body, *, causal=False, n=40):
    torch.manual_seed(0)
    data = listops(n, seed=1, **LENGTHS)
    encoder = TextEncoder(body, causal=causal, dropout=0.0, **SIZES).fit_prepare(data["text"])
    return encoder, {"x": encoder.prepare(data["text"]), "y": torch.from_numpy(data["y"])}


@pytest.mark.parametrize("body", ["transformer", "ssm"])
def test_hidden_tokens_are_all_masked_and_predicted(body, monkeypatch):
    encoder, data = made(body)
    learner, seen = SelfPretraining(encoder, mask=0.5), {}
    mask_tokens = targets.mask_tokens

    def mask(x, **words):
        seen["masked"], seen["chosen"] = mask_tokens(x, **words)
        return seen["masked"], seen["chosen"]

    monkeypatch.setattr(targets, "mask_tokens", mask)
    loss, x = learner.loss(data["x"]), data["x"]
    masked, chosen = (F.pad(seen[name], (0, x.shape[1] - seen[name].shape[1])) for name in ("masked", "chosen"))
    assert torch.equal(masked == 4, chosen)
    words = (x >= 5).sum(1)
    torch.testing.assert_close(chosen.sum(1), (0.5 * words).round().long(), atol=1, rtol=0)
    costs = []
    for row, hidden, truth in zip(masked, chosen, x.long(), strict=True):
        states = encoder.tokens(row[None])[0]
        for t in hidden.nonzero()[:, 0]:
            logits = learner.target.head(states[t], encoder.embedding.weight)
            costs.append(-F.log_softmax(logits, 0)[truth[t]])
    torch.testing.assert_close(loss, torch.stack(costs).mean(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("body", ["transformer", "ssm"])
def test_a_causal_encoder_learns_the_next_token(body):
    """On texts that repeat a b c, where the next token is certain, the loss goes to 0."""
    torch.manual_seed(0)
    encoder = TextEncoder(body, causal=True, dropout=0.0, **SIZES).fit_prepare(["abcabcabcabc"])
    learner = SelfPretraining(encoder)
    fit(learner, {"x": encoder.prepare(["abcabcabcabc"] * 8)}, max_steps=60, batch_size=8, lr=2e-2)
    assert learner.loss(encoder.prepare(["abcabcabc"])).item() < 0.1


def test_no_label_reaches_the_first_stage():
    assert SelfPretraining(made("ssm")[0]).columns == ("x",)


def test_both_stages_go_on_after_a_stop(tmp_path):
    class Stop(Callback):
        def step(self, step, loss, lr, health):
            if step == 3:
                raise KeyboardInterrupt

    words = {"max_steps": 4, "batch_size": 16, "checkpoint_every": 2}
    found = {}
    for name in ("whole", "stopped"):
        encoder, data = made("ssm")
        torch.manual_seed(1)
        stages = {"encoder": encoder, "n_classes": 10, "out": tmp_path / name, "pretrain": words}
        if name == "stopped":
            with pytest.raises(KeyboardInterrupt):
                self_pretrain(data, **stages, fine_tune={**words, "callbacks": [Stop()]})
            encoder, data = made("ssm")
            torch.manual_seed(1)
            stages["encoder"] = encoder
        found[name] = self_pretrain(data, **stages, fine_tune=words)
    for name, value in found["whole"].state_dict().items():
        torch.testing.assert_close(found["stopped"].state_dict()[name], value, rtol=0, atol=0)
    assert {path.name for path in (tmp_path / "whole" / "stages").iterdir()} == {"pretrain", "fine-tune"}


def test_what_is_fine_tuned_is_what_was_pretrained(tmp_path):
    """With one step of almost no rate the classifier's encoder is the first stage's."""
    encoder, data = made("transformer")
    start = encoder.embedding.weight.clone()
    words = {"max_steps": 3, "batch_size": 16}
    tuned = self_pretrain(
        data, encoder=encoder, n_classes=10, out=tmp_path, pretrain=words, fine_tune={**words, "lr": 1e-12}
    )
    again, _ = made("transformer")
    fit(SelfPretraining(again), data, **words)
    torch.testing.assert_close(tuned.encoder.embedding.weight, again.embedding.weight, rtol=0, atol=1e-6)
    assert (again.embedding.weight - start).abs().max() > 1e-4
