"""Smaller networks: distillation, pruning, low rank. One file per system; each loads when it is first named."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "_dhkd": ["DHKD"],
        "_distillation": ["KnowledgeDistillation"],
        "_utilized_rank": ["decompose", "utilized_rank"],
    },
)
