"""What users have -> Dataset: images and arrays, the sets that tacit brings along, and the ledger of labels."""

from tacit.data._audio import read_audio, resample
from tacit.data._cache import cache_folder, cache_size, clear_cache
from tacit.data._captioned import captioned_glyphs, glyph_names
from tacit.data._clips import clips
from tacit.data._colored import colored_digits
from tacit.data._columns import Named
from tacit.data._compositions import COMPOSITION_WORDS, composition_prompt, compositions
from tacit.data._contact_sheet import as_picture, contact_sheet
from tacit.data._dataset import Column, Dataset, as_dataset
from tacit.data._digits import load_digits
from tacit.data._drawn import Drawn, draw_scenes, load_demo
from tacit.data._glyphs import FONTS, glyphs
from tacit.data._graph_files import Graphs, read_graph
from tacit.data._graphs import Graph, ego_networks, ego_png, pack_graphs, reduce_features, whole_graphs
from tacit.data._images import read_image
from tacit.data._label_noise import (
    CIFAR10_MISTAKES,
    asymmetric_noise,
    human_labels,
    instance_noise,
    open_set_noise,
    symmetric_noise,
)
from tacit.data._ledger import Ledger, Use
from tacit.data._listops import listops
from tacit.data._named import drawn_order, load_named, named, names, resize
from tacit.data._open import Skipped, Source, open, write_skipped
from tacit.data._rooms import rooms
from tacit.data._rows import Table, arrow_table, read_table
from tacit.data._scenes import OBJECT_COLUMNS, scenes
from tacit.data._series import average_steps, sparkline_png
from tacit.data._series_files import Series, read_series
from tacit.data._stand_ins import stand_in
from tacit.data._structural_graphs import structural_graphs
from tacit.data._toys import fractals, gaussian_mixture, shapes, signals, two_view_latents

__all__ = [
    "CIFAR10_MISTAKES",
    "COMPOSITION_WORDS",
    "FONTS",
    "OBJECT_COLUMNS",
    "Column",
    "Dataset",
    "Drawn",
    "Graph",
    "Graphs",
    "Ledger",
    "Named",
    "Series",
    "Skipped",
    "Source",
    "Table",
    "Use",
    "arrow_table",
    "as_dataset",
    "as_picture",
    "asymmetric_noise",
    "average_steps",
    "cache_folder",
    "cache_size",
    "captioned_glyphs",
    "clear_cache",
    "clips",
    "colored_digits",
    "composition_prompt",
    "compositions",
    "contact_sheet",
    "draw_scenes",
    "drawn_order",
    "ego_networks",
    "ego_png",
    "fractals",
    "gaussian_mixture",
    "glyph_names",
    "glyphs",
    "human_labels",
    "instance_noise",
    "listops",
    "load_demo",
    "load_digits",
    "load_named",
    "named",
    "names",
    "open",
    "open_set_noise",
    "pack_graphs",
    "read_audio",
    "read_graph",
    "read_image",
    "read_series",
    "read_table",
    "reduce_features",
    "resample",
    "resize",
    "rooms",
    "scenes",
    "shapes",
    "signals",
    "sparkline_png",
    "stand_in",
    "structural_graphs",
    "symmetric_noise",
    "two_view_latents",
    "whole_graphs",
    "write_skipped",
]
