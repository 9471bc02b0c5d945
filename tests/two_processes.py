"""Started by test_two_processes.py: one process alone, or each of two, fits the same learner and writes its weights."""

import sys
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

from tacit.learner import Learner
from tacit.losses import nt_xent
from tacit.training import fit


class Pairs(Learner):
    """Contrastive on fixed pairs: no chance in a step, so that the share of a batch is all that differs."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))

    def loss(self, x):
        return nt_xent(self.net(x), self.net(x.roll(1, 1)), 0.5)


if __name__ == "__main__":
    devices, out = int(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    learner, x = Pairs(), torch.randn(64, 8)
    strategy = "ddp" if devices > 1 else "auto"
    settings = {"max_steps": 6, "batch_size": 16, "optimizer": "sgd", "lr": 0.1, "checkpoint_every": 2}
    fit(learner, x, devices=devices, accelerator="cpu", strategy=strategy, out=out, **settings)
