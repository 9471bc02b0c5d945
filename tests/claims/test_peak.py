"""Peak memory in processes of their own, and trials in several, with a system that another package brings."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

MEGABYTE = 1 << 20
PLUGIN = '''
"""A system of another package (Nobody, 1999)."""
import numpy as np
from tacit.catalogue import system
from tacit.claims import claim

@system("plugin", paper="Nobody, 1999", modality="any")
def plugin() -> int:
    """Nothing."""
    return 1

@claim("takes a quarter of the memory", reported="1/4")
def light(bench):
    kept = np.ones(8 << 20)  # made before: does not count
    return bench.memory(lambda t: lambda: np.ones(16 << 20).sum(), lambda t: lambda: np.ones(64 << 20).sum(),
                        at_most=0.5, baseline="four times as much")

@claim("seeds are told apart", reported="always")
def counts(bench):
    return bench.trials(lambda t: (t.seed + 1.0, 0.0), baseline="none", better_by=0.0, setting="numbers")
'''
RUN = """
import sys
from pathlib import Path
from tacit.claims._found import find_claims
from tacit.claims._run import Settings, run_claims

if __name__ == "__main__":
    for found, record, note in run_claims(find_claims("plugin"), Settings("small"), evidence=Path(sys.argv[1]), jobs=2):
        print(found.id, record.verdict, note)
"""


PEAKS = """
import numpy as np
from tacit.claims._peak import peak_of

kept = np.ones(8 << 20)
print(peak_of(lambda: np.ones(4 << 20).sum(), "cpu"), peak_of(lambda: None, "cpu"), kept.sum())
"""


def test_peak_is_what_the_call_adds():
    """In a process of its own, as claims measure it: another's has freed memory at hand that a call takes again."""
    done = subprocess.run([sys.executable, "-c", PEAKS], capture_output=True, text=True, check=True)
    adds, nothing, _ = (float(word) for word in done.stdout.split())
    assert adds == pytest.approx(32 * MEGABYTE, rel=0.15)
    assert nothing < 4 * MEGABYTE


@pytest.mark.slow
def test_memory_and_jobs_with_another_packages_system(tmp_path):
    (tmp_path / "plugin_package.py").write_text(PLUGIN)
    info = tmp_path / "plugin_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[tacit.systems]\ntheory = plugin_package\n")
    (tmp_path / "run.py").write_text(textwrap.dedent(RUN))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "TACIT_CACHE": str(tmp_path / "cache")}
    words = [sys.executable, "run.py", "evidence"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    records = map(json.loads, (tmp_path / "evidence/plugin.jsonl").read_text().splitlines())
    by_claim = {record["claim"]: record for record in records}  # what measures memory comes last
    light, counts = by_claim["plugin/light"], by_claim["plugin/counts"]
    assert light["verdict"] == "holds"
    assert light["effect"] == pytest.approx(4, rel=0.1)
    assert counts["values"] == [1, 2, 3, 4, 5]
    kept = [json.loads(path.read_text())["values"] for path in (tmp_path / "cache/claims/trials").iterdir()]
    assert [value[0] for value in sorted(kept) if value[1] == 0] == [1, 2, 3, 4, 5]
