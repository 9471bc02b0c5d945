"""Published ways of looking at models, methods and data. One file per system; each loads when it is first named."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "_diffusion_classifier": ["DiffusionClassifier", "composition_task", "denoising_errors", "learn_weights"],
        "_augs_vs_algorithms": ["FactorStudy", "SSLTemplate", "factor_study"],
        "_facial_pretraining_study": ["PretrainingScores", "pretraining_bench"],
        "_feature_complexity": ["FeatureComplexity", "feature_complexity", "feature_importance", "usable_information"],
        "_mp_sae": ["MatchingPursuitSAE", "SparseAutoencoder", "atom_recovery", "concept_tree", "matching_pursuit"],
    },
)
