"""w2v-BERT's two losses against loops over frames, and what flows where."""

import math

import pytest
import torch
import torch.nn.functional as F

from tacit.errors import ArgumentError
from tacit.nn import AudioCNN, AudioTransformer
from tacit.pretrain import W2vBERT
from tacit.pretrain._w2v_bert import draw_distractors, masked_contrastive_loss

HIDDEN = torch.tensor([[1, 0, 1, 1, 0, 1], [0, 0, 0, 1, 1, 0], [0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]]).bool()


def learner(n_contrastive=1, **words):
    torch.manual_seed(0)
    words = {"n_codes": 6, "n_distractors": 4, "mask_length": 2, "mask_probability": 0.2, **words}
    return W2vBERT(AudioTransformer(16, 2, 2, width=4, seconds=0.5), n_contrastive=n_contrastive, **words)


def sounds(n=3):
    x = torch.randint(1, 9000, (n, 4000), generator=torch.Generator().manual_seed(1)).to(torch.int16)
    x[0, 2500:] = 0
    return x


def test_distractors_are_the_other_hidden_frames_evenly():
    torch.manual_seed(0)
    drawn = draw_distractors(HIDDEN, 4000)
    for b, t in ((0, 0), (0, 2), (0, 3), (0, 5), (1, 3), (1, 4)):
        others = [j for j in range(6) if HIDDEN[b, j] and j != t]
        often = torch.bincount(drawn[b, t], minlength=6) / 4000
        assert often.nonzero().flatten().tolist() == others
        torch.testing.assert_close(often[others], torch.full((len(others),), 1 / len(others)), atol=0.03, rtol=0)


def test_the_contrastive_loss_is_equation_3(monkeypatch):
    torch.manual_seed(0)
    context, targets = torch.randn(4, 6, 5), torch.randn(4, 6, 5)
    drawn = draw_distractors(HIDDEN, 3)
    monkeypatch.setattr("tacit.pretrain._w2v_bert.draw_distractors", lambda hidden, n: drawn)
    costs = []
    for b, t in ((0, 0), (0, 2), (0, 3), (0, 5), (1, 3), (1, 4)):  # a single hidden frame has no distractor
        cosine = lambda j, b=b, t=t: F.cosine_similarity(context[b, t], targets[b, j], dim=0).item() / 0.2  # noqa: E731
        total = math.exp(cosine(t)) + sum(math.exp(cosine(j)) for j in drawn[b, t].tolist())
        costs.append(-math.log(math.exp(cosine(t)) / total))
    found = masked_contrastive_loss(context, targets, HIDDEN, 3, 0.2)
    assert found.item() == pytest.approx(sum(costs) / len(costs), rel=1e-5)


def test_the_loss_is_the_sum_of_its_parts():
    """Each weight alone, on the same draws: L(d, m) - L(0, 0) = d L_d + m L_m."""
    values = {}
    for weights in ((0.0, 0.0), (0.1, 0.0), (0.0, 1.0), (0.3, 2.0)):
        one = learner(diversity=weights[0], mlm=weights[1])
        torch.manual_seed(7)
        values[weights] = one.loss(sounds()).item()
    contrast = values[0.0, 0.0]
    diversity, naming = (values[0.1, 0.0] - contrast) / 0.1, values[0.0, 1.0] - contrast
    assert values[0.3, 2.0] == pytest.approx(contrast + 0.3 * diversity + 2 * naming, rel=1e-4)
    assert 0 < diversity < 1
    assert naming == pytest.approx(math.log(6), rel=0.6)


def test_naming_a_code_is_cross_entropy_over_each_codebook():
    one = learner(n_groups=2)
    hidden, codes = torch.randn(5, 16), torch.randint(0, 6, (5, 2))
    logits, total = one.head(hidden), 0.0
    for i in range(5):
        for group in range(2):
            total -= logits[i, 6 * group : 6 * group + 6].log_softmax(0)[codes[i, group]].item()
    assert one._naming_loss(hidden, codes).item() == pytest.approx(total / 5, rel=1e-5)


def test_naming_shapes_no_codebook_and_contrast_no_second_stack():
    one = learner(diversity=0.0)
    tokens = one.encoder.tokens(sounds())[0]
    naming = one._naming_loss(tokens, torch.zeros(len(tokens), 1, dtype=torch.long))
    assert torch.autograd.grad(naming, one.quantizer.codebooks, allow_unused=True)[0] is None
    alone = learner(diversity=0.0, mlm=0.0)
    torch.manual_seed(3)
    alone.loss(sounds()).backward()
    assert alone.encoder.blocks[0].mlp[0].weight.grad.abs().sum() > 0
    assert alone.encoder.blocks[1].mlp[0].weight.grad.abs().sum() == 0
    assert alone.quantizer.codebooks.grad.abs().sum() > 0


def test_hidden_features_are_not_seen():
    """What the blocks are given does not change with the features under the mask; the targets do."""
    one = learner().eval()
    mask = one.encoder.mask(sounds())
    features = one.encoder.features(sounds())
    hidden = torch.zeros_like(mask)
    hidden[:, 3:5] = True
    outputs = []
    for added in (0.0, 5.0):
        changed = features + added * hidden[:, :, None]
        seen = torch.where(hidden[:, :, None], one.hidden_vector, changed)
        outputs.append(one.encoder.run(one.encoder.located(seen, mask), mask))
    torch.testing.assert_close(*outputs)


def test_with_all_blocks_contrastive_it_is_wav2vec_2():
    one = learner(n_contrastive=2)
    assert one.head is None
    one.loss(sounds()).backward()
    assert one.encoder.blocks[1].mlp[0].weight.grad.abs().sum() > 0


def test_perplexity_tells_a_collapse():
    one = learner()
    one.loss(sounds())
    assert 1 < one.perplexity.item() <= 6
    with torch.no_grad():
        one.quantizer.logits.weight.zero_()
        one.quantizer.logits.bias.copy_(torch.tensor([99.0, 0, 0, 0, 0, 0]))
    one.loss(sounds())
    assert one.perplexity.item() == pytest.approx(1.0, abs=1e-4)
    one.eval().loss(sounds())  # looks at held-out items leave it alone
    assert one.perplexity.item() == pytest.approx(1.0, abs=1e-4)


def test_on_sounds_that_differ_it_learns_to_tell_and_to_name_them():
    """Steps of pitch: what is hidden follows from what is seen, and more than one code comes into use."""
    torch.manual_seed(0)
    pitch = torch.tensor([250.0, 600.0, 1300.0, 2700.0])
    steps = torch.stack([pitch[torch.randperm(4)].repeat_interleave(1000) for _ in range(16)])
    x = (9000 * torch.sin(2 * torch.pi * steps.cumsum(1) / 8000)).to(torch.int16)
    encoder = AudioTransformer(32, 2, 2, width=4, seconds=0.5, reduction=2).fit_prepare(x)
    one = W2vBERT(encoder, n_contrastive=1, n_codes=8, n_distractors=10, mask_length=3, diversity=1.0)
    optimizer, losses = torch.optim.Adam(one.parameters(), 2e-3), []
    for _ in range(60):
        loss = one.loss(x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    assert one.perplexity.item() > 2.5


def test_clips_too_short_to_hide_anything_are_no_harm():
    x = torch.zeros(2, 4000, dtype=torch.int16)
    x[0, :100] = 50
    one = learner()
    loss = one.loss(x)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in one.parameters() if p.grad is not None)


def test_what_cannot_be_is_refused():
    with pytest.raises(ArgumentError, match="encoder='AudioCNN'"):
        W2vBERT(AudioCNN(4))
    with pytest.raises(ArgumentError, match="n_contrastive=3"):
        learner(n_contrastive=3)
