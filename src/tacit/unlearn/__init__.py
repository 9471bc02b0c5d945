"""Taking the influence of some items out of a trained network. One file per system; each loads when named."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "_baselines": ["bad_teacher", "finetune", "negative_gradient"],
        "_laf": ["label_agnostic_forgetting"],
        "_oracle": ["Forgetting", "forgetting", "forgetting_scores", "gap_to_retraining"],
    },
)
