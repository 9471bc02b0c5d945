import math

import pytest
import torch
from torch import nn

from tacit.errors import ArgumentError
from tacit.nn import ResNet, ViT, patchify
from tacit.pretrain import DINOv2, _dinov2

K = 6


class FixedCrops(nn.Module):
    """The image and its mirror image as global crops, and two corners as local ones."""

    def forward(self, x):
        return [x, x.flip(-1), x[..., :8, :8], x[..., 8:, 8:]]


def small(pool="class", **settings):
    encoder = ViT(16, 4, 12, num_layers=2, num_heads=2, pool=pool)
    chosen = {"views": FixedCrops(), "n_prototypes": K, "hidden_dim": 7, "embed_dim": 5, "frozen": 0.0}
    return DINOv2(encoder, **chosen | settings)


@pytest.fixture
def images():
    return torch.rand(4, 3, 16, 16)


def with_mask(learner, n):
    """The mask that the next `loss` will draw, with the random state left as it was."""
    with torch.random.fork_rng():
        return learner._masks(torch.zeros(n, 3, 16, 16))


def slow_tokens(vit, image, hidden, token):
    """One image through the transformer, patch by patch: (1 + t, dim), the class token first where there is one."""
    embedded = vit.embed(patchify(vit.normalize(image[None]), 4))[0]
    positions = vit._positions_for(*image.shape[1:])
    rows = [(token if j in hidden else embedded[j]) + positions[j] for j in range(len(embedded))]
    x = torch.stack(([] if vit.class_token is None else [vit.class_token]) + rows)[None]
    for block in vit.blocks:
        x = block(x)
    return vit.norm(x)[0]


def slow_features(vit, image, hidden=(), token=None):
    rows = slow_tokens(vit, image, hidden, token)
    return rows[0] if vit.class_token is not None else rows.mean(0)


def slow_sinkhorn(logits, temperature):
    """As the authors write it: columns and rows of exp(logits / temperature) scaled in turns, three times."""
    q = (logits.double() / temperature).exp()
    n, k = q.shape
    for _ in range(3):
        q = q / q.sum(0, keepdim=True) / k
        q = q / q.sum(1, keepdim=True) / n
    return (q * n).float()


def cross_entropy(p, logits, temperature):
    log_q = torch.log_softmax(logits / temperature, 0)
    return -sum(a * b for a, b in zip(p.tolist(), log_q.tolist(), strict=True))


def slow_loss(learner, x, mask, temperature):
    """Section 4, one pair, patch and image at a time."""
    n, t = len(x), learner.student_temperature
    crops, (teacher,) = learner.views(x), learner.teacher_heads.copies
    whole = torch.cat(crops[:2])
    patches = slice(1, None) if learner.encoder.class_token is not None else slice(None)
    hidden = [set(row.nonzero().flatten().tolist()) for row in mask]

    # the teacher, which sees all
    image_targets = slow_sinkhorn(
        torch.stack([teacher["image"](slow_features(learner.encoder, image)[None])[0] for image in whole]), temperature
    )
    seen = [slow_tokens(learner.encoder, image, (), None)[patches] for image in whole]
    wanted = [(i, j) for i in range(2 * n) for j in sorted(hidden[i])]
    patch_logits = torch.stack([teacher["patch"](seen[i][j][None])[0] for i, j in wanted])
    patch_targets = dict(zip(wanted, slow_sinkhorn(patch_logits, temperature), strict=True))

    # the student
    student, head = learner.student, learner.heads["image"]
    features = [slow_features(student, whole[i], hidden[i], learner.mask_token) for i in range(2 * n)]
    local = [slow_features(student, image) for crop in crops[2:] for image in crop]
    logits = [head(row[None])[0] for row in features + local]
    pairs = [(i, j) for i in range(2) for j in range(4) if i != j]
    dino = sum(
        cross_entropy(image_targets[i * n + item], logits[j * n + item], t) for i, j in pairs for item in range(n)
    ) / (len(pairs) * n)

    ibot = 0.0
    for i in range(2 * n):
        tokens = slow_tokens(student, whole[i], hidden[i], learner.mask_token)[patches]
        for j in hidden[i]:
            logit = learner.heads["patch"](tokens[j][None])[0]
            ibot += cross_entropy(patch_targets[i, j], logit, t) / len(hidden[i]) / (2 * n)

    koleo = 0.0
    for crop in (features[:n], features[n:]):
        unit = [row / row.norm() for row in crop]
        nearest = [min((unit[i] - unit[j]).norm().item() for j in range(n) if j != i) for i in range(n)]
        koleo -= sum(math.log(distance) for distance in nearest) / n
    return dino + learner.ibot_weight * ibot + learner.koleo_weight * koleo


@pytest.mark.parametrize(("pool", "progress"), [("class", 0.0), ("class", 0.15), ("mean", 1.0)])
def test_loss_against_the_paper(images, pool, progress):
    learner = small(pool, ibot_weight=0.7, koleo_weight=0.3)
    nn.init.normal_(learner.mask_token)
    learner.progress = progress
    temperature = 0.04 + 0.03 * min(progress / 0.3, 1)
    mask = with_mask(learner, 8)
    with torch.no_grad():
        expected = slow_loss(learner, images, mask, temperature)
    assert learner.loss(images).item() == pytest.approx(expected, rel=1e-4)


def test_half_of_the_crops_are_masked_and_only_for_the_student(images):
    learner = small()
    mask = with_mask(learner, 8)
    assert (mask.sum(1) > 0).sum() == 4
    assert mask.sum(1).max() <= 8
    learner.loss(images)
    before = [logits.clone() for logits in learner._teach(torch.cat([images, images.flip(-1)]), mask)[0]]
    nn.init.normal_(learner.mask_token)
    after = learner._teach(torch.cat([images, images.flip(-1)]), mask)[0]
    for one, two in zip(before, after, strict=True):
        torch.testing.assert_close(one, two)


def test_without_ibot_nothing_is_hidden_and_no_patch_head_is_there(images):
    learner = small(ibot_weight=0.0, koleo_weight=0.0)
    assert list(learner.heads) == ["image"]
    assert learner.mask_token is None
    first = learner.loss(images)
    torch.manual_seed(7)
    torch.testing.assert_close(learner.loss(images), first)  # nothing is drawn


def test_the_teacher_is_the_slow_average_of_encoder_and_heads(images):
    learner = small(momentum=0.9)
    optimizer = torch.optim.SGD([p for p in learner.parameters() if p.requires_grad], lr=0.1)
    online, average = [learner.student, learner.heads], [learner.encoder, learner.teacher_heads]
    expected = [p.detach().clone() for module in average for p in module.parameters()]
    for k in range(1, 4):
        optimizer.zero_grad()
        learner.loss(images).backward()
        optimizer.step()
        learner.after_step(k / 4)
        decay = 1 - 0.1 * (math.cos(math.pi * k / 4) + 1) / 2
        live = [p.detach() for module in online for p in module.parameters()]
        expected = [decay * a + (1 - decay) * b for a, b in zip(expected, live, strict=True)]
    for found, wanted in zip([p for m in average for p in m.parameters()], expected, strict=True):
        torch.testing.assert_close(found, wanted)
    assert not any(p.requires_grad for p in learner.encoder.parameters())


def test_running_centres_are_pushed_with_the_teachers_logits_after_the_step(images):
    learner = small(centering="running")
    mask = with_mask(learner, 8)
    learner.loss(images)
    (teacher,) = learner.teacher_heads.copies
    whole = torch.cat([images, images.flip(-1)])
    with torch.no_grad():
        logits = torch.stack([teacher["image"](learner.encoder(image[None]))[0] for image in whole])
        tokens = learner.encoder.tokens(whole)
        hidden = torch.cat([teacher["patch"](tokens[i][mask[i]]) for i in range(8) if mask[i].any()])
    assert not learner.centers["image"].center.any()  # not before the step
    learner.after_step(0.1)
    torch.testing.assert_close(learner.centers["image"].center, 0.1 * logits.mean(0))
    torch.testing.assert_close(learner.centers["patch"].center, 0.1 * hidden.mean(0))


def test_prototypes_stand_still_at_the_start(images):
    learner = small(frozen=0.5)
    learner.loss(images).backward()
    prototypes = [head.prototypes.weight for head in learner.heads.values()]
    assert all(weight.grad is None for weight in prototypes)
    learner.progress = 0.5
    learner.loss(images).backward()
    assert all(weight.grad.abs().sum() > 0 for weight in prototypes)


@pytest.mark.parametrize(
    ("size", "patch", "local"), [(16, 4, 8), (224, 14, 98), (224, 16, 96), (32, 4, 12), (20, 4, 8)]
)
def test_local_crops_are_whole_patches_about_three_sevenths_wide(size, patch, local):
    """The authors' own: 98 pixels for patches of 14, 96 for 16."""
    encoder = ViT(size, patch, 12, num_layers=1, num_heads=2)
    views = _dinov2._crops(encoder, 2)(torch.rand(2, 3, 32, 32))
    assert [view.shape[-1] for view in views] == [size, size, local, local]


def test_grey_and_many_channels():
    for channels in (1, 5):
        encoder = ViT(8, 4, 12, num_layers=1, num_heads=2, in_channels=channels)
        learner = DINOv2(encoder, n_prototypes=K, hidden_dim=7, embed_dim=5, local_crops=1)
        assert learner.loss(torch.rand(2, channels, 8, 8)).isfinite()


def test_what_cannot_be_is_refused(images):
    with pytest.raises(ArgumentError, match="vit-micro"):
        DINOv2(ResNet(8, width=4))
    with pytest.raises(ArgumentError, match="centering='swav'"):
        small(centering="swav")
    with pytest.raises(ArgumentError, match="teacher_temperature"):
        small(teacher_temperature=0.0)
    with pytest.raises(ArgumentError, match="koleo_weight=-1"):
        small(koleo_weight=-1)
    with pytest.raises(ArgumentError, match="share="):
        small(min_mask_ratio=0.9).loss(images)
