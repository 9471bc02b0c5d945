"""Theorems about learning as simulators whose answer is known. One file per system; each loads when it is named."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "_attention_svm": ["attention_direction", "attention_svm", "train_attention"],
        "_mle_pretrain_erm": ["FactorModel", "MLEPretrainedPredictor"],
    },
)
