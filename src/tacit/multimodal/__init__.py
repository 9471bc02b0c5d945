"""Images with texts, and labels with meaning. One file per system; each loads when it is first named."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "_loki": ["Loki", "embedding_metric", "graph_metric", "locus", "tree_metric"],
    },
)
