"""Published layers and initialisations. One file per system; each loads when it is first named."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "_filter_design": ["FilterBasis", "filter_basis", "filter_divergence", "filters_of", "init_filters_"],
        "_mimetic_init": ["mimetic_init_"],
    },
)
