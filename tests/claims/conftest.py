"""The toy system, as if it were in the catalogue."""

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))


@pytest.fixture
def toy_catalogue(monkeypatch, tmp_path):
    from tacit import catalogue

    entries = tuple(catalogue.read_entries(HERE / "toy_system.py", "pretrain", "toy_system"))
    monkeypatch.setattr(catalogue, "systems", lambda: entries)
    monkeypatch.setenv("TACIT_CACHE", str(tmp_path / "cache"))
    return entries
