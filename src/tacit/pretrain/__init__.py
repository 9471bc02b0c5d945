"""Pre-training: an encoder from data without labels. One file per system; each loads when it is first named."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "_barlow_twins": ["BarlowTwins", "barlow_twins_loss"],
        "_byol": ["BYOL"],
        "_dcl": ["DCL", "DecoupledContrastiveLoss", "decoupled_contrastive_loss"],
        "_mae": ["MAE"],
        "_moco_v2": ["MoCoV2"],
        "_patch_kmeans": ["PatchKMeans"],
        "_pca": ["WhitenedPCA"],
        "_rotnet": ["RotNet"],
        "_simclr": ["SimCLR"],
        "_simsiam": ["SimSiam"],
        "_vicreg": ["VICReg", "vicreg_loss"],
    },
)
