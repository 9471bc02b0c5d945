"""Distances that are learned: losses and dual encoders for retrieval. One file per system; each loads when named."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={},
)
