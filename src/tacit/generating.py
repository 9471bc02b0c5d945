"""Pictures by a run's diffusion model: new ones, steered or not, and restored ones; each set with a contact sheet."""

from __future__ import annotations

import runpy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tacit.answers import SHEET, check_out, new_folder, write_made
from tacit.data import Ledger, as_picture, contact_sheet, read_image
from tacit.errors import ArgumentError, DataError, expect, unknown
from tacit.evaluate import psnr
from tacit.nn import (
    Classifier,
    ClassifierEnergy,
    Colorization,
    Deblurring,
    Inpainting,
    LikenessEnergy,
    LinearOperator,
    SuperResolution,
    encoder,
    gaussian_kernel,
)

Say = Callable[[str], None]

METHODS = ("freedom", "mpgd")
TASKS = ("inpaint", "super-resolution", "colorize", "deblur")
BATCH = 64
"""Pictures that are drawn at once."""
ACROSS, ROWS = 8, 24
"""Pictures in a row of a contact sheet, and rows; what is more lies in its own file only."""
LIKE_PIXELS = 0.4
"""Weight of pixels beside features in `like`: at 0 the pictures wander, at 1 they copy (looked at on digits)."""
LABELLED, CLASSIFIER_STEPS = 5000, 300
"""Labelled images that the classifier for steering learns from, and its steps."""


@dataclass(frozen=True)
class Pictures:
    """What was made, and where it lies."""

    folder: Path
    files: list[Path]
    """One PNG for each picture."""
    sheet: Path
    what: str
    lines: list[str] = field(default_factory=list)
    """What there is to know of it, in sentences."""
    psnr: dict[str, list[float]] | None = None
    """Of what A+ makes of the `degraded` pictures and of the `restored` ones, in dB, where the true ones are known."""


def generate(
    run: Path,
    learner: Any,
    n: int = 16,
    *,
    like: str | Path | None = None,
    class_name: str | None = None,
    energy: str | Path | Callable[[Tensor], Tensor] | None = None,
    method: str = "freedom",
    steps: int = 50,
    seed: int = 0,
    out: str | Path | None = None,
    say: Say = print,
) -> Pictures:
    """Draw new pictures, like an image, of a class, or low in an energy; or just like the data.

    Args:
        run: folder of the run.
        learner: the run's, with `.diffusion`, `.estimate` and `.sample`.
        n: how many.
        like: a picture whose features, as the run's encoder sees them, are aimed at.
        class_name: a value of the labels found in the data, or LABEL=VALUE where there are several labels. The part of
            the labels that is for choosing trains a small classifier; the ledger notes it.
        energy: a function of images (n, c, h, w), float in about [0, 1], to (n,), low where they are as wanted; or a
            Python file that defines `energy(x)`, whose code is run.
        method: of steering, freedom or mpgd.
        steps: from noise to picture.
        seed: of all chance.
        out: folder for the pictures; a new one in the run's folder `generated` if None.
        say: told what is being done.

    Raises:
        ArgumentError: a setting that cannot be; a run without a diffusion model; unknown class.
        DataError: `like` cannot be read.
        RunError: `out` holds something already.
    """
    check_diffusion(run, learner)
    expect("n", n, isinstance(n, int) and n >= 1, "at least 1")
    expect("steps", steps, isinstance(steps, int) and steps >= 1, "at least 1")
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    given, count = {"like": like, "class": class_name, "energy": energy}, _pictures(n)
    steered = [name for name, value in given.items() if value is not None]
    expect("like, class, energy", steered, len(steered) <= 1, "one of them at most")
    check_out(out)
    with _chance(seed), torch.no_grad():
        device = _to_device(learner)
        reference: Tensor | None = None
        if like is not None:
            reference = _read(like, learner.encoder)[0]
            wanted: Any = LikenessEnergy(learner.encoder, reference, pixel_weight=LIKE_PIXELS).to(device)
            what = f"{count} like {Path(like).name}, by {method}"
        elif class_name is not None:
            wanted, chosen, note = _class_energy(run, learner.encoder, class_name, seed, say)
            wanted, what = wanted.to(device), f"{count} of the class {chosen}, by {method}"
        elif energy is not None:
            wanted = energy if callable(energy) else load_energy(energy)
            name = getattr(energy, "__name__", "") if callable(energy) else Path(energy).name
            what = f"{count} low in the energy of {name}, by {method}"
        else:
            wanted, what = None, count
        say(f"drawing {what} in {steps} steps")
        images = torch.cat([_draw(learner, wanted, some, method, steps).cpu() for some in _batches(n)])
    rows = [list(images[start : start + ACROSS]) for start in range(0, n, ACROSS)][:ROWS]
    captions: list[list[str]] = []
    if reference is not None:
        rows, captions = [[reference], *rows], [["the reference"], *[[""] * len(row) for row in rows]]
        rows[0] += [torch.ones_like(reference)] * (len(rows[1]) - 1)
        captions[0] += [""] * (len(rows[1]) - 1)
    settings = {"n": n, **{k: str(v) for k, v in given.items() if v is not None}, "method": method if wanted else None}
    settings |= {"steps": steps, "seed": seed}
    made = Pictures(*_places(run, out, "generate" + (f"-{steered[0]}" if steered else ""), n), what)
    if class_name is not None:
        made.lines.append(note)
    return _write(made, images, contact_sheet(rows, captions=captions), settings)


def restore(
    run: Path,
    learner: Any,
    images: Sequence[str | Path],
    *,
    task: str,
    mask: str | Path = "box",
    scale: int = 2,
    blur: float = 1.0,
    noise: float = 0.0,
    degrade: bool = False,
    steps: int = 50,
    repeats: int = 4,
    seed: int = 0,
    out: str | Path | None = None,
    say: Say = print,
) -> Pictures:
    """Restore images by DDNM: hidden pixels, small images, grey ones, blurred ones; all of them possibly noisy.

    Args:
        run: folder of the run.
        learner: the run's, with `.diffusion`, `.estimate` and `.sample`.
        images: files; each becomes a square of the run's size in pixels (for super-resolution: of that over `scale`).
        task: inpaint, super-resolution, colorize or deblur.
        mask: for inpaint, a picture that is white where pixels are to be filled in, or `box`, the middle quarter.
        scale: for super-resolution, how many times larger.
        blur: for deblur, deviation of the Gaussian blur, in pixels of the run's size.
        noise: deviation of the noise in the images, in [0, 1] where 1 is from black to white; above 0 it is DDNM+.
        degrade: the images are whole: degrade them first, and compare what is restored with them.
        steps: from noise to picture.
        repeats: how often each step is walked (time travel); 1 is fastest, more help where much is lost.
        seed: of all chance.
        out: folder for the pictures; a new one in the run's folder `generated` if None.
        say: told what is being done.

    Raises:
        ArgumentError: a setting that cannot be; a run without a diffusion model.
        DataError: an image cannot be read.
        RunError: `out` holds something already.
    """
    from tacit.restore import DDNM

    check_diffusion(run, learner)
    expect("images", len(images), len(images) >= 1, "at least one image")
    expect("steps", steps, isinstance(steps, int) and steps >= 1, "at least 1")
    check_out(out)
    operator = _operator(task, learner.encoder, mask=mask, scale=scale, blur=blur)
    with _chance(seed), torch.no_grad():
        small = isinstance(operator, SuperResolution) and not degrade
        read = torch.cat([_read(path, learner.encoder, scale if small else 1) for path in images])
        as_it_is = small or (isinstance(operator, Deblurring) and not degrade)
        y = read if as_it_is else operator(read)
        y = y + noise * torch.randn_like(y) if degrade else y
        travel = None if repeats == 1 else (1, repeats)
        device = _to_device(learner)
        ddnm = DDNM(learner, operator.to(device), sigma_y=noise, num_steps=steps, time_travel=travel)
        named = "DDNM+" if noise > 0 else "DDNM"
        what = f"{_pictures(len(images))} restored by {named}: {task}"
        say(f"{what}, in {steps * repeats} steps")
        found = torch.cat([ddnm.restore(part.to(device)).cpu() for part in y.split(BATCH)]).clamp(0, 1)
        shown = _shown(operator.cpu(), y)
    columns, scores = {"given": shown, "restored": found}, None
    captions = [[Path(path).name, ""] for path in images]
    if degrade:
        columns = {"original": read, "degraded": shown, "restored": found}
        simple = operator.pinv(y).clamp(0, 1)
        scores = {"degraded": psnr(simple, read).tolist(), "restored": psnr(found, read).tolist()}
        captions = [
            [Path(path).name, f"A+ y: {before:.1f} dB", f"{after:.1f} dB"]
            for path, before, after in zip(images, *scores.values(), strict=True)
        ]
    settings = {"task": task, "images": [str(path) for path in images], "noise": noise, "degrade": degrade}
    settings |= _own_settings(task, mask, scale, blur) | {"steps": steps, "repeats": repeats, "seed": seed}
    made = Pictures(*_places(run, out, f"restore-{task}", len(images)), what, psnr=scores)
    if scores is not None:
        before, after = (sum(values) / len(values) for values in scores.values())
        made.lines.append(f"PSNR {after:.1f} dB on average, {before:.1f} dB by the pseudo-inverse alone.")
    rows = list(zip(*columns.values(), strict=True))[:ROWS]
    sheet = contact_sheet(rows, titles=list(columns), captions=captions[:ROWS])
    return _write(made, found, sheet, settings)


def check_diffusion(run: Path, learner: Any) -> None:
    """Refuse a run whose learner draws no pictures."""
    if all(hasattr(learner, name) for name in ("diffusion", "estimate", "sample")):
        return
    id = getattr(type(learner), "system_id", type(learner).__name__)
    raise ArgumentError(
        f"run={str(run)!r}: its method {id} has no diffusion model, which draws the pictures; "
        "train one: tacit learn DATA --method ddpm"
    )


def load_energy(path: str | Path) -> Callable[[Tensor], Tensor]:
    """The function `energy` of a Python file of the user's own; its code is run.

    Raises:
        ArgumentError: no such file, or it defines no function `energy`.
    """
    expect("energy", str(path), Path(path).is_file(), "a Python file that defines energy(x)")
    function = runpy.run_path(str(path)).get("energy")
    expect("energy", str(path), callable(function), "a file that defines a function energy(x) -> (n,)")
    return function  # type: ignore[return-value]


# what is drawn --------------------------------------------------------------------------------------------------------


def _draw(learner: Any, energy: Any, n: int, method: str, steps: int) -> Tensor:
    if energy is None:
        return learner.sample(n, num_steps=steps)
    from tacit.generate import MPGD, FreeDoM

    return {"freedom": FreeDoM, "mpgd": MPGD}[method](learner, energy, num_steps=steps).sample(n)


def _pictures(n: int) -> str:
    return f"{n:,} picture{'s' * (n != 1)}"


def _batches(n: int) -> list[int]:
    return [min(BATCH, n - start) for start in range(0, n, BATCH)]


def _operator(task: str, network: Any, *, mask: str | Path, scale: int, blur: float) -> LinearOperator:
    """A, for images of the run's size."""
    size, channels = network.image_size, network.in_channels
    if task not in TASKS:
        raise unknown("task", task, TASKS)
    if task == "inpaint":
        return Inpainting(_known(mask, size))
    if task == "colorize":
        expect("task", task, channels == 3, "a run of colour images", "this run's are grey")
        return Colorization()
    if task == "deblur":
        return Deblurring(gaussian_kernel(blur), size)
    operator = SuperResolution(scale)
    operator(torch.zeros(1, 1, size, size))  # says which scales do
    return operator


def _known(mask: str | Path, size: int) -> Tensor:
    """1 where a pixel is known: black in the picture."""
    if str(mask) == "box":
        known = torch.ones(size, size)
        known[size // 4 : size - size // 4, size // 4 : size - size // 4] = 0
        return known
    known = (torch.from_numpy(read_image(mask, size=size, channels=1))[0] < 128).float()
    filled = int(known.sum())
    expect("mask", str(mask), 0 < filled < known.numel(), "white where pixels are to be filled in, black elsewhere")
    return known


def _own_settings(task: str, mask: str | Path, scale: int, blur: float) -> dict[str, Any]:
    """What the task alone asks for."""
    own: dict[str, dict[str, Any]] = {
        "inpaint": {"mask": str(mask)},
        "super-resolution": {"scale": scale},
        "deblur": {"blur": blur},
    }
    return own.get(task, {})


def _shown(operator: LinearOperator, y: Tensor) -> Tensor:
    """The measurements as a picture: missing pixels grey, small images at full size."""
    if isinstance(operator, Inpainting):
        return y * operator.mask + 0.5 * (1 - operator.mask)
    return y if isinstance(operator, Deblurring) else operator.pinv(y)


def _read(path: str | Path, network: Any, divided_by: int = 1) -> Tensor:
    """An image file as the run's network takes it: (1, c, s, s), float in [0, 1]."""
    channels = network.in_channels
    expect("channels", channels, channels in (1, 3), "a run of grey or colour images", "others are read in Python only")
    pixels = read_image(path, size=network.image_size // divided_by, channels=channels)
    return torch.from_numpy(pixels)[None].float() / 255


# steering by a class --------------------------------------------------------------------------------------------------


def _class_energy(run: Path, network: Any, named: str, seed: int, say: Say) -> tuple[nn.Module, str, str]:
    """The energy, the class, and how good the classifier is."""
    label, value, taken = _labels(run, named)
    classes = sorted(set(taken.values()))
    if value not in classes:
        raise unknown("class", value, classes)
    x, names = _labelled_images(run, network, taken)
    y = torch.tensor([classes.index(name) for name in names])
    order = torch.randperm(len(y))[:LABELLED]
    learned, checked = order[: round(0.8 * len(order))], order[round(0.8 * len(order)) :]
    say(f"training a small classifier on {len(learned):,} labelled images, for steering alone")
    classifier = _trained_classifier(x[learned], y[learned], len(classes), network, seed)
    right = sum(int((classifier(x[part]).argmax(1) == y[part]).sum()) for part in checked.split(500))
    share = f"{right / len(checked):.0%} of {len(checked):,}" if len(checked) else "none"
    note = f"Steered by a classifier of the label {label}; it is right on {share} images that it has not seen."
    return ClassifierEnergy(classifier, classes.index(value)), value, note


def _labels(run: Path, named: str) -> tuple[str, str, dict[str, str]]:
    """Label, value, and the label of each item in the part that is for choosing, by the item's hash."""
    place = run / "labels.sqlite"
    ledger = Ledger(place) if place.is_file() else None
    names = ledger.names() if ledger else []
    if ledger is None or not names:
        raise ArgumentError(
            f"class={named!r}: expected labels in the run's data, and none were found; steer by a picture: --like IMAGE"
        )
    label, equals, value = named.partition("=")
    if not equals or label not in names:
        several = f"LABEL={named}, since there are several labels: {', '.join(names)}"
        expect("class", named, len(names) == 1, several)
        label, value = names[0], named
    ledger.split(label)
    return label, value, ledger.take(label, "choose", "steering generation")


def _labelled_images(run: Path, network: Any, taken: dict[str, str]) -> tuple[Tensor, list[str]]:
    """The thumbnails of the run's labelled items, as the network takes them, and their labels."""
    import io

    from PIL import Image

    from tacit.store import Items

    pictures, names = [], []
    for chunk in Items.open(run).chunks(["hash", "thumbnail"]):
        for item, thumbnail in zip(chunk["hash"], chunk["thumbnail"], strict=True):
            if item in taken and thumbnail:
                with Image.open(io.BytesIO(thumbnail), formats=("JPEG", "PNG")) as picture:
                    pictures.append(network.prepare([picture.convert("RGB")])[0].cpu())
                names.append(taken[item])
    if len(set(names)) < 2:
        raise DataError(f"run={str(run)!r}: expected labelled pictures of at least two classes; found {len(names)}")
    return torch.stack(pictures), names


def _trained_classifier(x: Tensor, y: Tensor, n_classes: int, network: Any, seed: int) -> nn.Module:
    """A small network on clean images, and some noise, since steering shows it estimates that are not clean yet."""
    from tacit.fewlabels import Supervised
    from tacit.training import fit

    small = encoder("resnet8", image_size=network.image_size, in_channels=network.in_channels)
    learner = Supervised(Classifier(small, n_classes), views=_Noisy())
    words = {**Supervised.settings["small"], "batch_size": min(128, len(x))}
    with torch.enable_grad():
        fit(learner, {"x": x, "y": y}, max_steps=CLASSIFIER_STEPS, seed=seed, accelerator="cpu", **words)
    return learner.classifier.eval()


class _Noisy(nn.Module):
    """Images with white noise, its deviation drawn from 0 to 0.3 for each."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.3 * torch.rand(len(x), 1, 1, 1, device=x.device) * torch.randn_like(x)


# how it is written ----------------------------------------------------------------------------------------------------


@contextmanager
def _chance(seed: int) -> Iterator[None]:
    """All chance by the seed; the caller's random state is kept."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _to_device(learner: nn.Module) -> torch.device:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    learner.to(device).eval()
    return device


def _places(run: Path, out: str | Path | None, name: str, n: int) -> tuple[Path, list[Path], Path]:
    """A folder that holds nothing yet, and the files that will be in it."""
    folder = new_folder(run, out, "generated", name)
    return folder, [folder / f"{number:03d}.png" for number in range(1, n + 1)], folder / SHEET


def _write(made: Pictures, images: Tensor, sheet: Any, settings: dict[str, Any]) -> Pictures:
    for image, path in zip(images, made.files, strict=True):
        as_picture(image).save(path)
    sheet.save(made.sheet)
    write_made(made.folder, made.what, made.lines, {"settings": settings, "psnr": made.psnr})
    return made
