"""Published systems for one task of users. One file per system; each loads when named."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "_foreground_generations": ["ForegroundStudent", "mean_activation", "soft_iou"],
        "_mask_networks": ["MaskNetwork", "MaskQuality"],
        "_video_pca": ["VideoPCA"],
        "_video_teacher_foreground": ["SingleImageStudent"],
    },
)
