import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tacit.checkpoints import read_model


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tmp_path):
    for devices in (1, 2):
        script = Path(__file__).parent / "two_processes.py"
        subprocess.run(
            [sys.executable, str(script), str(devices), str(tmp_path / str(devices))], check=True, timeout=200
        )
    one, two = read_model(tmp_path / "1"), read_model(tmp_path / "2")
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5)
