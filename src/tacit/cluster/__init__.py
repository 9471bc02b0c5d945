"""Clustering, and learning from clusters. One file per system; each loads when it is first named."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "_cpp": ["CPP", "name_clusters"],
        "_gedi": ["GEDI"],
        "_hidden_classes": ["HiddenClassSearchCV", "estimate_n_clusters"],
        "_ila_sdp": ["LikelihoodAdjustedSDP"],
        "_lbl2vec": ["Lbl2Vec"],
        "_lls_ddfa": ["LatentLabelShiftClusterer"],
        "_pbn_tabular_ncd": ["NCDKMeans", "NCDSpectralClustering", "ProjectionNCD"],
        "_sdp_kmeans": ["SDPKMeans"],
        "_sela": ["SeLa"],
    },
)
