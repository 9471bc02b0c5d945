"""What users have -> Dataset: images and arrays, the sets that tacit brings along, and the ledger of labels."""

from tacit.data._cache import cache_folder, cache_size, clear_cache
from tacit.data._dataset import Column, Dataset, as_dataset
from tacit.data._digits import load_digits
from tacit.data._drawn import Drawn, draw_scenes, load_demo
from tacit.data._images import read_image
from tacit.data._ledger import Ledger, Use
from tacit.data._named import named
from tacit.data._open import Skipped, Source, open, write_skipped

__all__ = [
    "Column",
    "Dataset",
    "Drawn",
    "Ledger",
    "Skipped",
    "Source",
    "Use",
    "as_dataset",
    "cache_folder",
    "cache_size",
    "clear_cache",
    "draw_scenes",
    "load_demo",
    "load_digits",
    "named",
    "open",
    "read_image",
    "write_skipped",
]
