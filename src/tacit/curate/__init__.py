"""Choosing and weighting data, learning settings. One file per system; each loads when it is first named."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "_ift_hyperopt": ["ImplicitDifferentiation", "WeightDecay", "hypergradient"],
        "_pass_dataset": ["Exclusion", "exclude"],
    },
)
