"""Learning with labels: few, or as many as there are. One file per system; each loads when it is first named."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "_matching_networks": ["MatchingNetworks"],
        "_simclrv2": ["Distillation", "SimCLRv2", "semi_supervised"],
        "_supervised": ["Supervised"],
    },
)
