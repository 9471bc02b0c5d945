import torch

from tacit.data import draw_scenes, load_digits
from tacit.views import RandomHorizontalFlip, mirror_changes_meaning, two_crops, without_flips


def test_digits_read_otherwise_when_mirrored_and_scenes_do_not():
    assert mirror_changes_meaning(torch.from_numpy(load_digits().images[:800]))
    assert not mirror_changes_meaning(torch.from_numpy(draw_scenes(400, size=32).images))


def test_a_set_that_holds_its_mirror_images_may_be_mirrored():
    digits = torch.from_numpy(load_digits().images[:400])
    assert not mirror_changes_meaning(torch.cat([digits, digits.flip(-1)]))


def test_a_handful_of_images_tells_nothing():
    assert not mirror_changes_meaning(torch.zeros(3, 1, 8, 8))


def test_without_flips_no_view_is_mirrored():
    views = two_crops(16, scale=(1.0, 1.0), strength=0.0, blur=False)
    without_flips(views)
    assert all(part.p == 0 for part in views.modules() if isinstance(part, RandomHorizontalFlip))
    left = torch.zeros(64, 3, 16, 16)
    left[..., :8] = 1
    for view in views(left):
        assert (view[..., :8].mean((1, 2, 3)) > view[..., 8:].mean((1, 2, 3))).all()
