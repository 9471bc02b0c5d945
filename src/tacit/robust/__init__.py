"""Robustness to attacks, shifts and spurious features. One file per system; each loads when it is first named."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "_bonsai_rfc": ["rich_feature_construction"],
        "_comp_sum_losses": ["CompSumLoss", "SmoothAdversarialCompSum", "comp_sum_loss"],
        "_lsa_web_noise": ["LinearSeparationAlternating"],
        "_pgd": ["PGDTraining", "pgd_attack", "robust_accuracy"],
        "_shortcut_availability": ["ShortcutTask", "shortcut_bias"],
        "_sla": ["SelfSupervisedLabelAugmentation"],
        "_trades": ["TRADES"],
    },
)
