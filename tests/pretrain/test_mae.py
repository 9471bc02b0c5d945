import pytest
import torch
from torch import nn

from tacit.errors import ArgumentError
from tacit.nn import ResNet, ViT, patchify
from tacit.pretrain import MAE
from tacit.pretrain._mae import cost_of_grey


def small(**settings):
    encoder = ViT(16, 4, 24, num_layers=2, num_heads=3)
    return MAE(encoder, views=nn.Identity(), decoder_dim=16, decoder_layers=2, decoder_heads=2, **settings)


def draw(learner, n):
    """The order that the next `loss` will draw, with the random state left as it was."""
    with torch.random.fork_rng():
        order = torch.rand(n, learner.encoder.num_patches).argsort(1)
    return order[:, : learner.num_kept], order[:, learner.num_kept :]


def slow_patches(image, p):
    """Patches of one image, row by row, with the channels last."""
    side = image.shape[1] // p
    return [
        torch.stack([image[:, p * i + y, p * j + x] for y in range(p) for x in range(p)]).flatten()
        for i in range(side)
        for j in range(side)
    ]


def painted_in_place(learner, x, kept):
    """The decoder as the paper describes it: all tokens put back where they belong, positions added, all painted."""
    n, t = len(x), learner.encoder.num_patches
    tokens = learner.embed(learner.encoder.forward_kept(x, kept))
    full = learner.mask_token.repeat(n, t, 1)
    for i in range(n):
        for place, token in zip(kept[i], tokens[i], strict=True):
            full[i, place] = token
    return learner.decoder(full + learner.positions)


@pytest.mark.parametrize("norm_pix", [True, False])
def test_loss_is_the_error_on_masked_patches_alone(norm_pix):
    learner, x = small(norm_pix=norm_pix), torch.rand(3, 3, 16, 16)
    kept, masked = draw(learner, 3)
    painted, total = painted_in_place(learner, x, kept), 0.0
    for i in range(3):
        patches = slow_patches(x[i], 4)
        for place in masked[i]:
            target = patches[place]
            if norm_pix:
                target = (target - target.mean()) / (target.var() + 1e-6).sqrt()
            total += (painted[i, place] - target).square().mean().item() / masked.numel()
    assert learner.loss(x).item() == pytest.approx(total, rel=1e-4)


def test_a_quarter_is_kept_and_every_patch_is_on_one_side():
    learner = small()
    kept, masked = draw(learner, 5)
    assert kept.shape == (5, 4)
    assert torch.equal(torch.cat([kept, masked], 1).sort(1).values, torch.arange(16).expand(5, -1))


def test_what_is_hidden_does_not_reach_the_encoder():
    """Other pixels in the masked patches change the targets, and nothing of what is painted."""
    learner, x = small(), torch.rand(2, 3, 16, 16)
    kept, masked = draw(learner, 2)
    changed = x.clone()
    for i in range(2):
        for place in masked[i].tolist():
            row, column = 4 * (place // 4), 4 * (place % 4)
            changed[i, :, row : row + 4, column : column + 4] = torch.rand(3, 4, 4)
    order = torch.cat([kept, masked], 1)
    painted = [learner._paint(learner.encoder.forward_kept(images, kept), order) for images in (x, changed)]
    torch.testing.assert_close(*painted)


def test_visible_pixels_are_no_target():
    """Where the painted patches are the targets the loss is 0, whatever the visible ones are."""
    learner, x = small(), torch.rand(2, 3, 16, 16)
    _, masked = draw(learner, 2)
    learner._paint = lambda tokens, order: torch.stack(
        [targets[places] for targets, places in zip(learner.targets(x), masked, strict=True)]
    )
    assert learner.loss(x).item() == 0.0


def test_normalised_targets_have_mean_0_and_variance_1_in_each_patch():
    targets = small().targets(torch.rand(2, 3, 16, 16))
    torch.testing.assert_close(targets.mean(2), torch.zeros(2, 16), atol=1e-5, rtol=0)
    torch.testing.assert_close(targets.var(2), torch.ones(2, 16), atol=1e-3, rtol=0)


def test_plain_targets_are_the_pixels():
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(small(norm_pix=False).targets(x), patchify(x, 4))


def test_every_parameter_of_encoder_and_decoder_learns():
    learner = small()
    learner.loss(torch.rand(4, 3, 16, 16)).backward()
    assert [name for name, p in learner.named_parameters() if p.grad is None or p.grad.abs().sum() == 0] == []


def test_what_cannot_be_is_refused():
    with pytest.raises(ArgumentError, match="transformer"):
        MAE(ResNet(8, width=4))
    with pytest.raises(ArgumentError, match=r"mask_ratio=0\.99"):
        small(mask_ratio=0.99)
    with pytest.raises(ArgumentError, match=r"mask_ratio=0\.0"):
        small(mask_ratio=0.0)


def test_checked_property():
    measured, expected = cost_of_grey()
    assert abs(measured - expected) <= cost_of_grey.checked.tolerance
