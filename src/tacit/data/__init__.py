"""What users have -> Dataset: images and arrays, the sets that tacit brings along, and the ledger of labels."""

from tacit.data._cache import cache_folder, cache_size, clear_cache
from tacit.data._colored import colored_digits
from tacit.data._columns import Named
from tacit.data._dataset import Column, Dataset, as_dataset
from tacit.data._digits import load_digits
from tacit.data._drawn import Drawn, draw_scenes, load_demo
from tacit.data._glyphs import glyphs
from tacit.data._images import read_image
from tacit.data._ledger import Ledger, Use
from tacit.data._listops import listops
from tacit.data._named import drawn_order, load_named, named, names, resize
from tacit.data._open import Skipped, Source, open, write_skipped
from tacit.data._rooms import rooms
from tacit.data._scenes import OBJECT_COLUMNS, scenes
from tacit.data._stand_ins import stand_in
from tacit.data._toys import fractals, gaussian_mixture, shapes, signals, two_view_latents

__all__ = [
    "OBJECT_COLUMNS",
    "Column",
    "Dataset",
    "Drawn",
    "Ledger",
    "Named",
    "Skipped",
    "Source",
    "Use",
    "as_dataset",
    "cache_folder",
    "cache_size",
    "clear_cache",
    "colored_digits",
    "draw_scenes",
    "drawn_order",
    "fractals",
    "gaussian_mixture",
    "glyphs",
    "listops",
    "load_demo",
    "load_digits",
    "load_named",
    "named",
    "names",
    "open",
    "read_image",
    "resize",
    "rooms",
    "scenes",
    "shapes",
    "signals",
    "stand_in",
    "two_view_latents",
    "write_skipped",
]
