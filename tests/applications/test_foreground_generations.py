"""ForegroundStudent: its loss and selection against loops, its generations, and a teacher that knows the answer."""

import numpy as np
import pytest
import torch
from scipy import ndimage

import tacit
from tacit.applications import ForegroundStudent, SingleImageStudent, VideoPCA, mean_activation, soft_iou
from tacit.building import describe_build, rebuild
from tacit.data import Dataset, clips
from tacit.errors import ArgumentError, DataError
from tacit.evaluate import mask_iou

WORDS = {"batch_size": 8, "lr": 2e-3, "seed": 0}


def small(n=48, seed=2, size=16):
    drawn = clips(n, seed=seed, image_size=size)
    return {"x": torch.from_numpy(drawn["x"]), "clip": torch.from_numpy(drawn["clip"])}


class Truth:
    """A teacher that knows: it looks the frames up."""

    def __init__(self, x, y):
        self.known = {frame.numpy().tobytes(): mask for frame, mask in zip(x, y, strict=True)}

    def __call__(self, frames):
        frames = (255 * frames).round().byte()
        return torch.stack([self.known[frame.numpy().tobytes()] for frame in frames]).float()[:, None]


def slow_clean(masks):
    """Region by region: those above half of the frame's maximum that reach 0.8 of it."""
    found = torch.zeros_like(masks)
    for (mask,), (kept,) in zip(masks, found, strict=True):
        top = float(mask.max())
        regions, count = ndimage.label((mask > 0.5 * top).numpy(), np.ones((3, 3)))
        for number in range(1, count + 1):
            region = torch.from_numpy(regions == number)
            if float(mask[region].max()) > 0.8 * top > 0:
                kept[region] = mask[region] / top
    return found


def test_mean_activation_and_soft_iou_are_those_of_loops():
    chance = np.random.default_rng(0)
    a, b = ((chance.random((6, 1, 4, 5)) * (chance.random((6, 1, 4, 5)) < 0.5)).astype(np.float32) for _ in range(2))
    a[0] = b[0] = 0
    for mask, found in zip(a, mean_activation(torch.from_numpy(a)), strict=True):
        above = [value for value in mask.ravel().tolist() if value > 0]
        assert float(found) == pytest.approx(sum(above) / len(above) if above else 0)
    for one, other, found in zip(a, b, soft_iou(torch.from_numpy(a), torch.from_numpy(b)), strict=True):
        pairs = list(zip(one.ravel().tolist(), other.ravel().tolist(), strict=True))
        either = sum(max(pair) for pair in pairs)
        assert float(found) == pytest.approx(sum(min(pair) for pair in pairs) / either if either else 1)


def test_loss_is_that_of_the_equation():
    """In a loop over items and students, with views that move nothing."""
    data = Dataset(small(24))
    learner = ForegroundStudent(16, width=4, generations=2, views=torch.nn.Identity())
    learner.before_fit(data)
    rows = torch.tensor([0, 5, 9, 20])
    learner.chosen[rows[:2]], learner.chosen[rows[2:]] = True, False
    found = learner.loss(data["x"][rows], data["clip"][rows], rows)
    teacher = VideoPCA()
    masks = torch.cat([teacher(data["x"][data["clip"][:] == number]) for number in (0, 1)])
    expected, judged = 0.0, []
    for row in rows.tolist():
        x = data["x"][[row]].float() / 255
        drawn = [student.masks(x).detach() for student in learner.students]
        if row in rows[:2].tolist():
            target = (255 * masks[row]).round() / 255
            expected += sum(float(((mask[0] - target) ** 2).mean()) for mask in drawn) / 2
        for own, other in (drawn, drawn[::-1]):
            agreement = float(soft_iou(own.clamp(0, 1), other.clamp(0, 1)))
            judged.append((float(learner.quality(x, own.clamp(0, 1)).detach()) - agreement) ** 2)
    assert float(found.detach()) == pytest.approx(expected + sum(judged) / len(judged), rel=1e-4)


def test_the_most_certain_masks_of_whole_clips_are_selected():
    """In whatever order the frames lie."""
    whole, order = small(), torch.randperm(48, generator=torch.Generator().manual_seed(0))
    mixed = {name: rows[order] for name, rows in whole.items()}
    chosen = []
    for columns in (whole, mixed):
        learner = SingleImageStudent(16, keep_top=0.25, width=4)
        learner.before_fit(Dataset(columns))
        chosen.append(learner.chosen)
    assert torch.equal(chosen[1], chosen[0][order])
    teacher = VideoPCA()
    masks = torch.cat([teacher(whole["x"][whole["clip"] == number]) for number in range(4)])
    certainty = mean_activation((255 * masks).round())
    assert int(chosen[0].sum()) == 12
    assert certainty[chosen[0]].min() >= certainty[~chosen[0]].max()


def test_batches_hold_selected_frames_and_a_quarter_of_any():
    data = Dataset(small())
    learner = ForegroundStudent(16, width=4, keep_top=0.25)
    learner.before_fit(data)
    batches = learner.batches(data, 8, torch.Generator().manual_seed(0))
    assert len(batches) == 6
    for batch in batches:
        assert len(batch) == 8
        assert learner.chosen[batch[:6]].all()
    others = torch.cat([batch[6:] for batch in batches])
    assert len(others.unique()) == len(others)  # each at most once before any comes again
    assert not learner.chosen[others].all()


def test_a_generation_takes_its_turn_and_begins_anew():
    class Watched(ForegroundStudent):
        system_id = "watched"
        taught = ()

        def teach(self, data):
            before = [p.clone() for p in self.parameters()]
            frames = data["x"][:].float() / 255
            with torch.no_grad():
                expected = slow_clean(torch.stack([s.masks(frames).clamp(0, 1) for s in self.students]).mean(0))
                score = self.quality(frames, expected)
            super().teach(data)
            self.taught += (self.progress,)
            torch.testing.assert_close(self.targets / 255.0, expected, atol=0.51 / 255, rtol=0)
            assert set(score.topk(int(self.chosen.sum())).indices.tolist()) == set(self.chosen.nonzero()[:, 0].tolist())
            same = [torch.equal(a, b) for a, b in zip(before, self.parameters(), strict=True) if a.ndim > 1]
            assert not any(same)

    learner = Watched(16, width=4, generations=3, keep_later=0.5)
    tacit.fit(learner, small(), max_steps=36, **WORDS)
    assert learner.taught == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert int(learner.generation) == 3
    assert len(learner.targets) == len(learner.chosen) == 0  # a run does not keep them
    tacit.fit(learner, small(), max_steps=36, **WORDS)
    assert len(learner.taught) == 4  # fitted again, it begins at generation 1


@pytest.mark.parametrize("names", ["unet", "fcn"])
def test_a_student_of_a_teacher_that_knows_learns_to_see_it(names):
    drawn = clips(240, seed=5, image_size=16)
    x, y = torch.from_numpy(drawn["x"]), torch.from_numpy(drawn["y"])
    columns = {"x": x[:192], "clip": torch.from_numpy(drawn["clip"])[:192]}
    learner = ForegroundStudent(
        16, students=names, generations=1, keep_top=1.0, width=8, video_teacher=Truth(x[:192], y[:192])
    )
    before = float(mask_iou(y[192:], learner.predict_mask(x[192:])).mean())
    learner.fit(columns, max_steps=120, batch_size=32, seed=0)
    after = float(mask_iou(y[192:], learner.predict_mask(x[192:])).mean())
    assert after > max(0.45, before + 0.2)


def test_masks_come_back_at_the_size_of_the_image():
    learner = ForegroundStudent(16, 3, width=4).eval()
    image = torch.randint(0, 256, (3, 33, 50), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    mask = learner.predict_mask(image)
    assert mask.shape == (33, 50)
    assert 0 <= float(mask.min()) <= float(mask.max()) <= 1
    torch.testing.assert_close(learner.predict_mask(image[None].float().numpy() / 255)[0], mask)
    grey = learner.predict_mask(image[:1])
    torch.testing.assert_close(learner.predict_mask(image[:1].expand(3, -1, -1)), grey)
    x = image[None, :, :16, :16].float() / 255  # of the size that was learned at: the plain mean of the students
    with torch.no_grad():
        plain = torch.stack([student.masks(x).clamp(0, 1) for student in learner.students]).mean(0)
    torch.testing.assert_close(learner.predict_mask(x), plain[:, 0])
    with pytest.raises(ArgumentError, match="only grey and colour"):
        learner.predict_mask(torch.zeros(4, 16, 16))


def test_a_saved_learner_is_built_again():
    for learner in (
        ForegroundStudent(16, students=["fcn", "unet"], width=4, generations=2),
        SingleImageStudent(16, 1, student="fcn", width=4),
    ):
        again = rebuild(describe_build(learner))
        assert type(again) is type(learner)
        again.load_state_dict(learner.state_dict())
        image = torch.rand(learner.in_channels, 16, 16)
        torch.testing.assert_close(again.predict_mask(image), learner.predict_mask(image))


def test_what_cannot_be_is_refused():
    with pytest.raises(ArgumentError, match="at least two"):
        ForegroundStudent(16, students="unet")
    with pytest.raises(ArgumentError, match="did you mean 'unet'"):
        ForegroundStudent(16, students="unett,fcn")
    with pytest.raises(ArgumentError, match="keep_top"):
        SingleImageStudent(16, keep_top=0.0)
    with pytest.raises(ArgumentError, match="clip"):
        tacit.fit(SingleImageStudent(16, width=4), {"x": small()["x"]}, max_steps=1, batch_size=4)
    still = torch.zeros(6, 3, 16, 16, dtype=torch.uint8)
    with pytest.raises(DataError, match="nothing moves"):
        SingleImageStudent(16, width=4).fit([still], max_steps=1, batch_size=4)


def test_clips_may_be_a_list_of_arrays():
    whole = small()
    listed = [whole["x"][whole["clip"] == number].numpy() for number in range(4)]
    one, other = (SingleImageStudent(16, width=4) for _ in range(2))
    other.load_state_dict(one.state_dict())
    one.fit(whole, max_steps=3, batch_size=8)
    other.fit(listed, max_steps=3, batch_size=8)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
