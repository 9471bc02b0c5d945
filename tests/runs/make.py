"""Makes the run of this format that later versions have to load: `python tests/runs/make.py tests/runs/format-N`."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import torch

from tacit.nn import ResNet
from tacit.pretrain import SimCLR
from tacit.store import Items
from tacit.training import fit


def make(folder: Path) -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (16, 3, 16, 16), dtype=torch.uint8)
    learner = SimCLR(ResNet(8, width=4, image_size=16), hidden_dim=8, embed_dim=4)
    fit(learner, images, max_steps=2, batch_size=8, out=folder, config={"settings": {"method": "simclr"}, "steps": 2})
    shutil.rmtree(folder / "checkpoints")
    (folder / ".lock").unlink()
    with torch.no_grad():
        vectors = learner.encoder(learner.encoder.prepare(images)).numpy()
        x = torch.linspace(0, 1, 3 * 16 * 16).view(1, 3, 16, 16)
        (folder / "expected.json").write_text(json.dumps(np.round(learner.encoder(x)[0].numpy(), 6).tolist()) + "\n")
    Items.create(folder, [{"uri": [f"{i}.png" for i in range(16)], "vector": vectors}])


if __name__ == "__main__":
    make(Path(sys.argv[1]))
