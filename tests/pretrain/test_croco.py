import numpy as np
import pytest
import torch
from torch import nn

from tacit.data import rooms
from tacit.errors import ArgumentError, DataError
from tacit.nn import ResNet, ViT, patchify
from tacit.pretrain import CroCo, DepthHead
from tacit.pretrain._croco import jitter
from tacit.training import fit


def small(**settings):
    encoder = ViT(16, 4, 24, num_layers=2, num_heads=3)
    defaults = {"views": nn.Identity(), "pairs": True, "decoder_dim": 16, "decoder_layers": 2, "decoder_heads": 2}
    return CroCo(encoder, **{**defaults, **settings})


def draw(learner, n):
    """The order that the next `loss` will draw, with the random state left as it was."""
    with torch.random.fork_rng():
        order = torch.rand(n, learner.encoder.num_patches).argsort(1)
    return order[:, : learner.num_kept], order[:, learner.num_kept :]


def painted_in_place(learner, x, x2, kept):
    """As the paper draws it: all tokens put back where they belong, positions added to those of both views."""
    n, t = len(x), learner.encoder.num_patches
    tokens = learner.embed(learner.encoder.forward_kept(x, kept))
    full = learner.mask_token.repeat(n, t, 1)
    for i in range(n):
        for place, token in zip(kept[i], tokens[i], strict=True):
            full[i, place] = token
    full = full + learner.positions
    second = learner.embed(learner.encoder.tokens(x2)) + learner.positions
    for block in learner.decoder:
        full = full + block.attention(block.norm1(full))
        full = full + block.cross_attention(block.norm2(full), block.norm_context(second))
        full = full + block.mlp(block.norm3(full))
    return learner.paint(full)


@pytest.mark.parametrize("norm_pix", [True, False])
def test_loss_is_the_error_on_masked_patches_alone(norm_pix):
    learner, x, x2 = small(norm_pix=norm_pix), torch.rand(3, 3, 16, 16), torch.rand(3, 3, 16, 16)
    kept, masked = draw(learner, 3)
    painted, total = painted_in_place(learner, x, x2, kept), 0.0
    for i in range(3):
        for place in masked[i].tolist():
            row, column = 4 * (place // 4), 4 * (place % 4)
            target = x[i, :, row : row + 4, column : column + 4].permute(1, 2, 0).flatten()  # channels last
            if norm_pix:
                target = (target - target.mean()) / (target.var() + 1e-6).sqrt()
            total += (painted[i, place] - target).square().mean().item() / masked.numel()
    assert learner.loss(x, x2).item() == pytest.approx(total, rel=1e-4)


def test_as_many_patches_are_hidden_as_in_the_released_code():
    """int(0.9 * 196) = 176 of 196 at 224 pixels; here int(0.9 * 16) = 14, and 1 to 15 whatever is asked for."""
    encoder = ViT(224, 16, 24, num_layers=1, num_heads=3)
    assert CroCo(encoder, decoder_dim=16, decoder_layers=1, decoder_heads=2).num_kept == 20
    assert small().num_kept == 2
    kept, masked = draw(small(), 5)
    assert torch.equal(torch.cat([kept, masked], 1).sort(1).values, torch.arange(16).expand(5, -1))


def test_what_is_hidden_reaches_the_picture_only_by_way_of_the_second_view():
    learner, x, x2 = small(), torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    kept, masked = draw(learner, 2)
    changed = x.clone()
    for i in range(2):
        for place in masked[i].tolist():
            row, column = 4 * (place // 4), 4 * (place % 4)
            changed[i, :, row : row + 4, column : column + 4] = torch.rand(3, 4, 4)
    order = torch.cat([kept, masked], 1)

    def painted(first, second):
        return learner._paint(learner.encoder.forward_kept(first, kept), order, learner._whole(second))

    torch.testing.assert_close(painted(changed, x2), painted(x, x2))
    assert (painted(x, torch.rand_like(x2)) - painted(x, x2)).abs().max() > 1e-3
    # every patch of the second view counts
    for place in range(16):
        row, column = 4 * (place // 4), 4 * (place % 4)
        other = x2.clone()
        other[:, :, row : row + 4, column : column + 4] = 0
        assert (painted(x, other) - painted(x, x2)).abs().max() > 1e-6


def test_targets_are_normalised_patches_or_pixels():
    x = torch.rand(2, 3, 16, 16)
    targets = small().targets(x)
    torch.testing.assert_close(targets.mean(2), torch.zeros(2, 16), atol=1e-5, rtol=0)
    torch.testing.assert_close(targets.var(2), torch.ones(2, 16), atol=1e-3, rtol=0)
    assert torch.equal(small(norm_pix=False).targets(x), patchify(x, 4))


@pytest.mark.parametrize("pool", ["mean", "class"])
def test_every_parameter_learns(pool):
    learner = CroCo(ViT(16, 4, 24, 2, 3, pool=pool), pairs=True, decoder_dim=16, decoder_layers=2, decoder_heads=2)
    learner.loss(torch.rand(4, 3, 16, 16), torch.rand(4, 3, 16, 16)).backward()
    assert [name for name, p in learner.named_parameters() if p.grad is None or p.grad.abs().sum() == 0] == []


def test_two_crops_of_one_picture_stand_for_a_pair_and_overlap():
    learner = CroCo(ViT(16, 4, 24, 2, 3), decoder_dim=16, decoder_layers=1, decoder_heads=2)
    assert learner.columns == ("x",)
    assert small().columns == ("x", "x2")
    assert learner.loss(torch.rand(4, 3, 16, 16)).isfinite()
    _, (first, second) = learner.views.with_boxes(torch.rand(500, 3, 20, 28))
    low, high = torch.maximum(first[:, :2], second[:, :2]), torch.minimum(first[:, 2:], second[:, 2:])
    shared = (high - low).clamp(min=0).prod(1) / (20 * 28)
    assert shared.min() > 0.04
    assert shared.median() > 0.4


def test_trains_on_pairs_and_says_which_column_is_missing():
    pairs = rooms(8, image_size=16)
    columns = {name: torch.from_numpy(pairs[name]) for name in ("x", "x2")}
    learner = fit(small(views=None), columns, max_steps=2, batch_size=4)
    assert all(p.isfinite().all() for p in learner.parameters())
    with pytest.raises((ArgumentError, DataError), match="x2"):
        fit(small(), {"x": columns["x"]}, max_steps=1, batch_size=4)


def test_jitter_is_drawn_anew_and_moves_no_pixel():
    x = torch.rand(6, 3, 8, 8)
    view = jitter(8)
    assert not torch.allclose(view(x), view(x))
    # brightness and contrast are one gain and one offset a picture: without saturation, pixels keep their order
    for before, after in zip(x[:, 0].flatten(1), jitter(8, channels=1)(x[:, :1])[:, 0].flatten(1), strict=True):
        assert (after[before.argsort()].diff() >= 0).all()
    torch.testing.assert_close(jitter(8, strength=0)(x), x)


def test_depth_head_is_ridge_regression():
    """Against scikit-learn's, on tokens and depths less the mean of their place."""
    from sklearn.linear_model import Ridge

    torch.manual_seed(0)
    encoder = ViT(16, 4, 24, num_layers=1, num_heads=3)
    x, depth = torch.rand(12, 3, 16, 16), 1 + torch.rand(12, 16, 16)
    head = DepthHead(encoder, penalty=0.01).fit(x[:8], depth[:8])
    with torch.no_grad():
        tokens = encoder.tokens(x).double().numpy()
    places = [(i, j) for i in (0, 4, 8, 12) for j in (0, 4, 8, 12)]
    depths = np.stack([[depth[n, i : i + 4, j : j + 4].double().numpy() for i, j in places] for n in range(12)])
    centred = tokens - tokens[:8].mean(0)
    centred /= centred[:8].reshape(-1, 24).std(0, ddof=1) + 1e-6
    usual = depths[:8].mean(0)
    ridge = Ridge(alpha=0.01 * 8 * 16, fit_intercept=False)
    ridge.fit(centred[:8].reshape(-1, 24), (depths[:8] - usual).reshape(-1, 16))
    expected = ridge.predict(centred[8:].reshape(-1, 24)).reshape(4, 16, 4, 4) + usual
    found = head.predict(x[8:])
    for place, (i, j) in enumerate(places):
        np.testing.assert_allclose(found[:, i : i + 4, j : j + 4], expected[:, place], rtol=1e-4)


def test_depth_head_finds_what_is_linear_in_the_tokens_and_the_usual_depth_of_a_place():
    torch.manual_seed(0)
    encoder = ViT(16, 4, 24, num_layers=1, num_heads=3)
    x, usual = torch.rand(40, 3, 16, 16), 3 * torch.rand(16, 16)
    with torch.no_grad():
        of_patch = encoder.tokens(x)[:, :, 0] + 3
    depth = of_patch.view(40, 4, 4).repeat_interleave(4, 1).repeat_interleave(4, 2) + usual
    found = DepthHead(encoder, penalty=1e-6).fit(x[:30], depth[:30]).predict(x[30:])
    torch.testing.assert_close(found, depth[30:], atol=1e-2, rtol=0)
    constant = DepthHead(encoder, penalty=1e9).fit(x[:30], depth[:30]).predict(x[30:])
    torch.testing.assert_close(constant, depth[:30].mean(0).expand(10, -1, -1))


def test_what_cannot_be_is_refused():
    with pytest.raises(ArgumentError, match="transformer"):
        CroCo(ResNet(8, width=4))
    for ratio in (0.0, 1.0):
        with pytest.raises(ArgumentError, match=f"mask_ratio={ratio}"):
            small(mask_ratio=ratio)
    with pytest.raises(ArgumentError, match="penalty=-1"):
        DepthHead(ViT(16, 4, 24, 1, 3), penalty=-1)
