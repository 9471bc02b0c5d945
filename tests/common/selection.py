"""Which systems the battery runs over: all for `make battery`, a part that changes with the commit elsewhere."""

import json
import os
import subprocess
import zlib
from pathlib import Path

from tacit.catalogue import Entry, systems

ROOT = Path(__file__).parents[2]


def chosen() -> list[Entry]:
    """With TACIT_BATTERY=all, every system; else those that `auto` may choose, whose files changed, and a tenth."""
    every = list(systems())
    if os.environ.get("TACIT_BATTERY", "all") == "all" or len(every) <= 40:
        return every
    auto = {row["method"] for row in json.loads((ROOT / "src/tacit/auto.json").read_text())["rows"]}
    changed, commit = _git("diff", "--name-only", "HEAD~1"), _git("rev-parse", "HEAD")
    return [
        entry
        for entry in every
        if entry.id in auto or entry.source.name in changed or zlib.crc32(f"{commit}{entry.id}".encode()) % 10 == 0
    ]


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout
