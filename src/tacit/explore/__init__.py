"""The explorer: a page that shows a run's items on a map, finds, labels and exports them; served, or as one file."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "_app": ["create_app"],
        "_run": ["Explored"],
        "_serve": ["explore"],
        "_static": ["write_static"],
    },
)
