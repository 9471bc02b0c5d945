import pytest
import torch
from torch import nn

from tacit.errors import ArgumentError
from tacit.nn import ResNet, encode_crops


def test_each_crop_as_if_it_went_alone_and_one_pass_for_a_size():
    encoder, sizes = ResNet(8, width=4).eval(), []
    encoder.register_forward_hook(lambda _, inputs, __: sizes.append(tuple(inputs[0].shape)))
    crops = [torch.rand(n, 3, side, side) for n, side in [(3, 16), (2, 8), (2, 16), (3, 8), (1, 12)]]
    together = encode_crops(encoder, crops)
    assert sizes == [(5, 3, 16, 16), (5, 3, 8, 8), (1, 3, 12, 12)]
    for crop, z in zip(crops, together, strict=True):
        torch.testing.assert_close(z, encoder(crop))


def test_batch_statistics_are_those_of_all_crops_of_a_size():
    norm = nn.BatchNorm2d(1, affine=False, eps=1e-12)
    large, small = torch.zeros(2, 1, 4, 4), torch.rand(2, 1, 2, 2)
    first, _, second = encode_crops(norm, [large, small, large + 2])
    torch.testing.assert_close(first, torch.full_like(large, -1))
    torch.testing.assert_close(second, torch.full_like(large, 1))


def test_no_crop_is_refused():
    with pytest.raises(ArgumentError, match="at least one crop"):
        encode_crops(nn.Identity(), [])
