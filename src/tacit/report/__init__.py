"""What a person reads of a run: the page, the card, and the map, clusters, duplicates and outliers that they show."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "_audit": ["write_audit"],
        "_card": ["write_card"],
        "_clusters": ["Clusters", "find_clusters"],
        "_duplicates": ["DuplicateGroup", "near_duplicates"],
        "_map": ["neighbour_map"],
        "_names": ["name_by_words"],
        "_page": ["write_report"],
        "_typical": ["least_typical", "typicality"],
    },
)
