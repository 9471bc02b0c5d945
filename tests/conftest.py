import os
import sys
from pathlib import Path

# two OpenMP threads collapse beside another busy process
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("TACIT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def digits():
    """scikit-learn's digits: x float (1797, 8, 8) in [0, 1], y int64."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    return {"x": torch.tensor(raw.images, dtype=torch.float32) / 16, "y": torch.tensor(raw.target)}
