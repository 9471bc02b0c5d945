"""Distances that are learned: losses and dual encoders for retrieval. One file per system; each loads when named."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "_bm25": ["BM25"],
        "_dexml": [
            "DecoupledSoftmaxLoss",
            "XMCDualEncoder",
            "decoupled_softmax_loss",
            "multi_positive_loss",
            "soft_top_k",
            "soft_top_k_loss",
        ],
        "_dual_encoder": ["DualEncoder"],
        "_mw_loss": ["MannWhitneyLoss", "MannWhitneyRetriever", "mann_whitney_loss"],
    },
)
