import importlib.util
import sys
from pathlib import Path

import pytest

FAKE = Path(__file__).parent / "fake_library.py"


@pytest.fixture
def library(monkeypatch):
    """The fake library, in place for one test; `library.CALLS` says how it was called."""
    spec = importlib.util.spec_from_file_location("fake_library", FAKE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("tacit.learning", "tacit.runs"):
        monkeypatch.setitem(sys.modules, name, sys.modules.get(name))
    module.install()
    monkeypatch.setattr("tacit.cli._app.get_ready", lambda threads=None: None)
    return module
