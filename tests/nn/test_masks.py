import pytest
import torch

from tacit.errors import ArgumentError
from tacit.nn import ViT, _masks, block_masks, encode_masked, mask_counts, patchify, random_masks


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_half_of_the_images_are_masked_by_evenly_spread_shares():
    counts = mask_counts(40, 1000, share=(0.1, 0.5)).sort().values
    assert (counts[:20] == 0).all()
    for part, count in enumerate(counts[20:].tolist()):  # one in each of 20 equal parts of 100 to 500
        assert 100 + 20 * part <= count <= 100 + 20 * (part + 1)


def test_all_or_none_are_masked_and_one_at_least():
    assert (mask_counts(6, 10, share=(0.5, 0.5), probability=1.0) == 5).all()
    assert (mask_counts(6, 10, probability=0.0) == 0).all()
    assert (mask_counts(1, 10, share=(0.5, 0.5), probability=0.5) == 5).all()


def test_random_masks_have_their_counts_and_fall_everywhere_alike():
    counts = torch.arange(9000) % 10
    masks = random_masks(counts, 9)
    assert torch.equal(masks.sum(1), counts)
    torch.testing.assert_close(masks.float().mean(0), torch.full((9,), 0.5), atol=0.03, rtol=0)


@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (7, 5), (14, 14)])
def test_block_masks_have_exactly_their_counts(rows, columns):
    counts = torch.arange(rows * columns + 1)
    assert torch.equal(block_masks(counts, rows, columns).sum(1), counts)


def test_without_exact_there_are_never_more():
    counts = torch.full((500,), 40)
    masked = block_masks(counts, 14, 14, exact=False).sum(1)
    assert (masked <= 40).all()
    assert masked.float().mean() > 35


def test_one_block_is_a_rectangle_of_the_asked_area_and_aspect():
    left = torch.full((400,), 40)
    for block in _masks._blocks(left, 14, 14, 4, (0.3, 1 / 0.3)).view(-1, 14, 14):
        height, width = int(block.any(1).sum()), int(block.any(0).sum())
        assert block.sum() == height * width
        where = block.nonzero()
        assert (where.amax(0) - where.amin(0) + 1).tolist() == [height, width]  # no gap
        assert 0.15 < height / width < 6  # 0.3 to 3.3, and rounding
        assert 2 <= height * width <= 60  # 4 to 40, and rounding


def test_blocks_reach_every_place():
    blocks = _masks._blocks(torch.full((2000,), 4), 4, 4, 4, (1.0, 1.0)).view(-1, 4, 4)  # 2 x 2, at 9 places
    assert (blocks.flatten(1).sum(1) == 4).all()
    torch.testing.assert_close(blocks[:, 0, 0].float().mean(), torch.tensor(1 / 9), atol=0.02, rtol=0)
    torch.testing.assert_close(blocks[:, 1, 1].float().mean(), torch.tensor(4 / 9), atol=0.04, rtol=0)


def test_blocks_hang_together_more_than_single_patches():
    def neighbours(masks):
        grid = masks.view(-1, 14, 14)
        return (grid[:, 1:] & grid[:, :-1]).sum() / masks.sum()

    counts = torch.full((200,), 60)
    assert neighbours(block_masks(counts, 14, 14)) > 1.5 * neighbours(random_masks(counts, 196))


@pytest.mark.parametrize("pool", ["mean", "class"])
def test_nothing_hidden_is_the_transformer_itself(pool):
    vit, x = ViT(16, 4, 24, num_layers=2, num_heads=3, pool=pool), torch.rand(3, 3, 16, 16)
    features, tokens = encode_masked(vit, x)
    torch.testing.assert_close(features, vit(x))
    torch.testing.assert_close(tokens, vit.tokens(x))


@pytest.mark.parametrize("pool", ["mean", "class"])
def test_hidden_patches_are_the_mask_token_at_their_position(pool):
    """By hand, one image and one patch at a time."""
    vit, x = ViT(16, 4, 24, num_layers=2, num_heads=3, pool=pool), torch.rand(2, 3, 16, 16)
    mask, token = random_masks(torch.tensor([5, 3]), 16), torch.randn(24)
    features, tokens = encode_masked(vit, x, mask, token)
    for i in range(2):
        embedded = vit.embed(patchify(vit.normalize(x[i : i + 1]), 4))[0]
        rows = [(token if mask[i, j] else embedded[j]) + vit.positions[j] for j in range(16)]
        rows = torch.stack(([vit.class_token] if pool == "class" else []) + rows)[None]
        for block in vit.blocks:
            rows = block(rows)
        rows = vit.norm(rows)[0]
        patches = rows[1:] if pool == "class" else rows
        torch.testing.assert_close(tokens[i], patches)
        torch.testing.assert_close(features[i], rows[0] if pool == "class" else patches.mean(0))


def test_hidden_pixels_are_not_seen():
    vit, x = ViT(16, 4, 24, num_layers=1, num_heads=3), torch.rand(1, 3, 16, 16)
    mask = torch.zeros(1, 16, dtype=torch.bool)
    mask[0, 5] = True  # row 1, column 1
    other = x.clone()
    other[:, :, 4:8, 4:8] = torch.rand(1, 3, 4, 4)
    one, two = (encode_masked(vit, images, mask, torch.randn(24, generator=_same()))[1] for images in (x, other))
    torch.testing.assert_close(one, two)


def _same():
    return torch.Generator().manual_seed(1)


def test_smaller_images_have_interpolated_positions():
    vit, x = ViT(16, 4, 24, num_layers=1, num_heads=3), torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(encode_masked(vit, x)[1], vit.tokens(x))


def test_what_cannot_be_is_refused():
    with pytest.raises(ArgumentError, match="share="):
        mask_counts(4, 16, share=(0.5, 0.1))
    with pytest.raises(ArgumentError, match="numbers from 0 to 16"):
        block_masks(torch.tensor([17]), 4, 4)
    with pytest.raises(ArgumentError, match="aspect="):
        block_masks(torch.tensor([3]), 4, 4, aspect=(0.0, 1.0))
    vit = ViT(16, 4, 24, num_layers=1, num_heads=3)
    with pytest.raises(ArgumentError, match="mask="):
        encode_masked(vit, torch.rand(2, 3, 16, 16), torch.zeros(2, 9, dtype=torch.bool), torch.zeros(24))
