"""The command line: `tacit learn`, `embed`, `search`, `report`, `systems`, `export`."""

from tacit.cli._main import main

__all__ = ["main"]
