"""Learning with labels: few, or as many as there are. One file per system; each loads when it is first named."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "_bar_distribution": ["BarDistribution"],
        "_bmdal": ["BatchActiveSelector", "Features", "select_batch"],
        "_laplacian_transductive_clustering": ["TransductiveClustering"],
        "_fungi": ["FUNGI", "DINOObjective", "KLObjective", "Objective", "SimCLRObjective", "overlapping_patches"],
        "_gzip_knn": ["CompressionKNN", "optimistic_accuracy"],
        "_matching_networks": ["MatchingNetworks"],
        "_pfn": ["PFN", "PFNClassifier", "PFNRegressor", "tasks"],
        "_priors": ["BNNPrior", "GPPrior"],
        "_naive_bayes_probe": ["NaiveBayesProbe"],
        "_nn_revisit": ["KNNAugmentedClassifier"],
        "_prototransfer": ["ProtoTransfer", "ProtoTune"],
        "_rss_ood_unlabeled": ["RobustSelfTraining"],
        "_sea": ["SeAClassifier"],
        "_simclrv2": ["Distillation", "SimCLRv2", "semi_supervised"],
        "_supervised": ["Supervised"],
        "_unem": ["UNEM"],
    },
)
