"""Learning from data that keeps coming, without forgetting. One file per system; each loads when it is first named."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "_dkvb": ["DiscreteKeyValueBottleneck"],
        "_nmc_continual": ["NearestMeanContinual"],
    },
)
