"""Pre-training: an encoder from data without labels. One file per system; each loads when it is first named."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "_barlow_twins": ["BarlowTwins", "barlow_twins_loss"],
        "_byol": ["BYOL"],
        "_croco": ["CroCo", "DepthHead"],
        "_clusterfit": ["ClusterFit"],
        "_dcl": ["DCL", "DecoupledContrastiveLoss", "decoupled_contrastive_loss"],
        "_diffusion_probe": ["DiffusionProbe", "Reading", "compare_readings"],
        "_dinov2": ["DINOv2"],
        "_groco": ["GroCo", "GroupOrderingLoss"],
        "_mae": ["MAE"],
        "_moco_v2": ["MoCoV2"],
        "_npid": ["InstanceDiscrimination"],
        "_obow": ["OBoW", "bag_views"],
        "_patch_kmeans": ["PatchKMeans"],
        "_pca": ["WhitenedPCA"],
        "_pixpro": [
            "PixContrast",
            "PixPro",
            "matching_pixels",
            "pixel_consistency",
            "pixel_contrast",
            "pixel_propagation",
        ],
        "_rotnet": ["RotNet"],
        "_simclr": ["SimCLR"],
        "_simsiam": ["SimSiam"],
        "_swav": ["SwAV", "swapped_prediction"],
        "_vicreg": ["VICReg", "vicreg_loss"],
    },
)
