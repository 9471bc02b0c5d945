import os
import subprocess
import sys
from pathlib import Path


def test_two_processes_are_one_on_the_whole_batch(tmp_path):
    script = Path(__file__).with_name("two_processes.py")
    command = [sys.executable, str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "meet")], env=environment, stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], "\n".join(errors)
