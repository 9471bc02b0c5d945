"""tacit-small: the image encoder that `--init tacit:small` starts from, trained once, on pictures that nobody owns.

    python benchmarks/tacit_small.py train OUT --minutes 4     # on a GPU -> OUT/small.safetensors, OUT/training.json
    python benchmarks/tacit_small.py judge small.safetensors   # 300 pictures: what it gives over a random start

It sees 50,000 fractals, 50,000 drawn scenes and the 60,000 training images of Fashion-MNIST (MIT licence), grey ones in
two random colours each, all of 32 pixels; no label, and none of the sets that `judge` looks at.
"""

import argparse
import json
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from tacit import embed, fit
from tacit.data import Dataset, draw_scenes, fractals, named, resize
from tacit.evaluate import knn_accuracy, linear_probe
from tacit.nn import encoder as make_encoder
from tacit.pretrain import SimCLR

ENCODER = {"name": "resnet18", "width": 28, "image_size": 32, "in_channels": 3}
BATCH, LR = 512, 2e-3
PARTS = 16


def fractal_part(number: int) -> np.ndarray:
    return fractals(50_000 // PARTS, seed=number, n_classes=100)["x"]


def scene_part(number: int) -> np.ndarray:
    return draw_scenes(50_000 // PARTS, size=32, seed=number).images


def pictures(workers: int) -> np.ndarray:
    with ProcessPoolExecutor(workers) as pool:
        grey = np.concatenate(list(pool.map(fractal_part, range(PARTS))))
        scenes = np.concatenate(list(pool.map(scene_part, range(PARTS))))
    clothes = resize(named("fashion_mnist", "train", n=60_000, seed=0)[0], 32)
    return np.concatenate([coloured(np.concatenate([grey, clothes])), scenes])


def coloured(grey: np.ndarray) -> np.ndarray:
    """Ink and paper of two random colours each, (n, 1, h, w) -> (n, 3, h, w); a quarter stay as they are."""
    chance = np.random.default_rng(0)
    paper, ink = chance.integers(0, 256, (2, len(grey), 3, 1, 1))
    plain = chance.random(len(grey)) < 0.25
    paper[plain], ink[plain] = 0, 255
    return np.concatenate(
        [
            np.rint(low + (high - low) * (part / 255)).astype(np.uint8)
            for part, low, high in zip(*(np.array_split(each, 50) for each in (grey, paper, ink)), strict=True)
        ]
    )


def train(out: Path, minutes: float, workers: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    items = Dataset({"x": pictures(workers)}, modality="image")
    settings = {"batch_size": BATCH, "lr": LR, "optimizer": "adamw", "weight_decay": 1e-4, "warmup": 0.05, "seed": 0}
    settings |= {"precision": "bf16-mixed", "channels_last": True}
    took = []
    for some in (20, 20, 100):  # the first to warm up; a step on a GPU ends after the call for it
        began = time.perf_counter()
        fit(learner(), items, max_steps=some, **settings)
        took.append(time.perf_counter() - began)
    steps = int(minutes * 60 * 80 / (took[2] - took[1]))
    print(f"{len(items):,} pictures, {steps:,} steps", flush=True)
    began, trained = time.perf_counter(), learner()
    fit(trained, items, max_steps=steps, **settings)
    weights = {
        name: (value.to(torch.bfloat16) if value.is_floating_point() else value).contiguous().cpu()
        for name, value in trained.encoder.state_dict().items()
    }
    save_file(weights, out / "small.safetensors")
    said = {
        "encoder": ENCODER, "method": "simclr", "steps": steps, "batch_size": BATCH, "lr": LR, "pictures": len(items),
        "seconds": round(time.perf_counter() - began), "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }  # fmt: skip
    (out / "training.json").write_text(json.dumps(said, indent=1) + "\n")


def learner() -> SimCLR:
    torch.manual_seed(0)
    return SimCLR(make_encoder(**ENCODER), hidden_dim=1024, temperature=0.2)


def judge(weights: Path, few: int, seeds: int) -> None:
    """k-NN and linear probe with `few` labelled pictures of sets it has not seen, over seeds, and the random start."""
    from tacit.runs import load_encoder

    for data in ("cifar10", "usps"):
        scores = {}
        for seed in range(seeds):
            x, y = named(data, "train", n=few, seed=seed)
            test_x, test_y = named(data, "test", n=2000, seed=seed)
            x, test_x = (resize(each, 32) if each.shape[-1] != 32 else each for each in (x, test_x))
            torch.manual_seed(seed)
            sides = {"tacit:small": load_encoder(weights, config=ENCODER), "random": make_encoder(**ENCODER)}
            sides["pixels"] = torch.nn.Flatten()
            for name, side in sides.items():
                vectors = [torch.from_numpy(embed(side, {"x": each})) for each in (x, test_x)]
                for score in (knn_accuracy, linear_probe):
                    found = 100 * score(vectors[0], y, vectors[1], test_y).value
                    scores.setdefault((name, score.__name__), []).append(found)
        for (name, by), values in scores.items():
            print(f"{data:10} {name:12} {by:13} {statistics.mean(values):5.1f} ± {statistics.stdev(values):.1f}")


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("do", choices=("train", "judge"))
    ask.add_argument("place", type=Path)
    ask.add_argument("--minutes", type=float, default=4)
    ask.add_argument("--workers", type=int, default=8)
    ask.add_argument("--few", type=int, default=300)
    ask.add_argument("--seeds", type=int, default=5)
    args = ask.parse_args()
    if args.do == "train":
        train(args.place, args.minutes, args.workers)
    else:
        judge(args.place, args.few, args.seeds)


if __name__ == "__main__":
    main()
