"""From one task or model to the next. One file per system; each loads when it is first named."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "_model_stock": ["model_stock"],
    },
)
