"""Unsupervised Learning from Video to Detect Foreground Objects in Single Images (Croitoru et al., 2017)."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tacit.applications._foreground_generations import ForegroundStudent, drawn_clips, held_out_iou
from tacit.applications._video_pca import VideoPCA
from tacit.catalogue import system
from tacit.claims import Bench, Comparison, Picture, Trial, claim, drawing
from tacit.data import clips
from tacit.evaluate import corloc, mask_iou


@system("video-teacher-foreground", paper="arXiv:1703.10901", modality=("image", "video"))
class SingleImageStudent(ForegroundStudent):
    """One student learns to see in a single frame the object that its teacher found in the whole clip.

        loss = | student(frame) - teacher(clip)[frame] |^2, a mean over pixels and selected frames

    The teacher is `VideoPCA`. Selected are the `keep_top` of all frames whose soft masks have the highest mean over
    what is above 0 in them: where the teacher is certain, it is more often right. It is the first
    generation of `ForegroundStudent`, with one student.

    Differs from the paper: a small U-Net that draws masks at the pixels of the frame, in place of LowRes-Net, which
    draws 32 x 32 of 128 x 128 by dense layers and sees gradients and hue beside colours.

    Args:
        image_size, in_channels, width, video_teacher, views: as `ForegroundStudent`.
        student: `unet` or `fcn`.
        keep_top: share of the frames that are learned from, in (0, 1].

    Raises:
        as `ForegroundStudent`.

    >>> from tacit.data import clips
    >>> learner = SingleImageStudent(16, width=4).fit(clips(36, image_size=16), max_steps=2, batch_size=8)
    >>> learner.predict_mask(torch.zeros(1, 3, 16, 16)).shape
    torch.Size([1, 16, 16])
    """

    settings: ClassVar = {
        "paper": {
            "optimizer": "adamw",
            "lr": 1e-3,
            "schedule": "constant",
            "warmup": 0.0,
            "weight_decay": 0.0,
            "batch_size": 32,
            "keep_top": 0.1,
        },
        "small": {
            "optimizer": "adamw",
            "lr": 2e-3,
            "schedule": "constant",
            "warmup": 0.0,
            "weight_decay": 0.0,
            "batch_size": 32,
        },
    }

    def __init__(
        self,
        image_size: int = 32,
        in_channels: int = 3,
        *,
        student: str = "unet",
        keep_top: float = 0.1,
        width: int = 16,
        video_teacher: VideoPCA | None = None,
        views: nn.Module | None = None,
    ) -> None:
        words = {"keep_top": keep_top, "width": width, "video_teacher": video_teacher, "views": views}
        super().__init__(image_size, in_channels, students=student, generations=1, **words)


@claim(
    "in single images the student is better than the teacher that saw whole clips",
    reported="the student detects significantly better than its video discovery teacher (abstract); the tables could "
    "not be read here",
    proxy="drawn clips of 32 pixels in place of YouTube-Objects; a U-Net of 8 channels",
    steps={"small": 300, "full": 3000},
)
def better_than_its_teacher(bench: Bench) -> Comparison:
    """IoU at a threshold of 1/2 on the frames of 50 unseen clips, of which the teacher sees all, the student one."""
    return _against_teacher(bench, lambda y, masks: float(mask_iou(y, masks).mean()))


@claim(
    "the student finds the object's box more often than its teacher",
    reported="state of the art by CorLoc on YouTube-Objects and Object Discovery (abstract); the tables could not be "
    "read here",
    proxy="drawn clips of 32 pixels in place of YouTube-Objects; a U-Net of 8 channels",
    steps={"small": 300, "full": 3000},
)
def finds_the_box_more_often(bench: Bench) -> Comparison:
    """CorLoc (IoU of boxes above 1/2) on the frames of 50 unseen clips."""
    return _against_teacher(bench, lambda y, masks: corloc(y, masks).value)


@claim(
    "learning from the tenth of the masks that are most certain is better than learning from all",
    reported="masks with a higher mean activation are better, and the top 10 to 20 % are kept (the authors' code)",
    proxy="drawn clips of 32 pixels in place of YouTube-Objects; a U-Net of 8 channels",
    steps={"small": 300, "full": 3000},
)
def selection_helps(bench: Bench) -> Comparison:
    """IoU on frames of unseen clips, everything else alike."""
    return bench.compare(
        SingleImageStudent,
        baseline="video-teacher-foreground",
        data=drawn_clips(bench),
        by=held_out_iou,
        system_settings={"keep_top": 0.1},
        baseline_settings={"keep_top": 1.0},
        width=8,
        better_by=0.0,
    )


@claim(
    "a frame takes the student at most a tenth of the time",
    reported="at least two orders of magnitude faster than previous methods (abstract), on a GPU",
    proxy="on a CPU, against `VideoPCA` here, which is quicker than the methods that the paper has in mind",
    steps={"small": 1},
)
def faster_than_its_teacher(bench: Bench) -> Comparison:
    """Twelve frames of 128 pixels: the student as it is by default, and the teacher, which has them as one clip."""
    frames = torch.from_numpy(clips(12, seed=1, image_size=bench.pick(smoke=32, small=128))["x"])

    def student(trial: Trial) -> Callable[[], Any]:
        learner = SingleImageStudent(frames.shape[-1]).eval()
        return lambda: learner.predict_mask(frames)

    def teacher(trial: Trial) -> Callable[[], Any]:
        found = VideoPCA()
        return lambda: found(frames)

    return bench.speed(student, teacher, at_least=10.0, baseline="VideoPCA", setting="12 frames of 128 pixels")


@drawing(
    "Frames of unseen clips, the teacher's soft masks of them, and the student's, which sees each frame alone.",
    steps={"small": 300, "full": 3000},
)
def masks_of_frames(bench: Bench, trial: Trial) -> Picture:
    train, unseen = trial.split(drawn_clips(bench))
    student = trial.pretrained(SingleImageStudent, train, width=8)
    rows = []
    for number in unseen.columns["clip"].unique()[:6]:
        frames = unseen.x[unseen.columns["clip"] == number]
        found = VideoPCA()(frames), student.predict_mask(frames)[:, None]
        rows.append([part[0] for part in (frames / 255, *(mask.expand(-1, 3, -1, -1) for mask in found))])
    return trial.sheet(rows, titles=["frame", "VideoPCA", "student"])


def _against_teacher(bench: Bench, by: Callable[[Any, Tensor], float]) -> Comparison:
    data = drawn_clips(bench)

    def scores(trial: Trial) -> tuple[float, float]:
        train, unseen = trial.split(data)
        student = trial.pretrained(SingleImageStudent, train, width=8)
        teacher, clip = VideoPCA(), unseen.columns["clip"]
        taught = torch.empty(len(unseen), 1, *unseen.x.shape[2:])
        for number in clip.unique():
            taught[clip == number] = teacher(unseen.x[clip == number])
        return unseen.score(student.predict_mask(unseen.x), by=by), unseen.score(taught, by=by)

    return bench.trials(scores, baseline="VideoPCA", better_by=0.0, setting="a U-Net of 8 channels, 32 pixels")
