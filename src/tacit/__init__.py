"""tacit learns from data nobody labelled: an encoder, a searchable map and an honest report."""

import lazy_loader

from tacit._version import __version__ as __version__

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        *(
            "adapt",
            "analysis",
            "applications",
            "cluster",
            "compress",
            "continual",
            "curate",
            "fewlabels",
            "generate",
            "layers",
            "metric",
            "multimodal",
        ),
        *("pretrain", "restore", "robust", "theory", "transfer", "unlearn"),
        *("claims", "data", "errors", "evaluate", "losses", "nn", "views"),
    ],
    submod_attrs={
        "catalogue": ["system", "systems"],
        "comparing": ["compare"],
        "embedding": ["embed"],
        "learner": ["Learner"],
        "learning": ["learn"],
        "runs": ["Run", "load", "load_encoder"],
        "training": ["Callback", "fit"],
    },
)
