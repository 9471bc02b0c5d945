"""From labelled data of one domain to another that has none. One file per system; each loads when it is first named."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "_cpt_generative_uda": ["ContinuedPretrainUDA"],
    },
)
